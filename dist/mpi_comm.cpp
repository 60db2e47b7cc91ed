// MPI collectives in chunks, with every return code looked at.
#include "dist/mpi_comm.h"

#include <malloc.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "dist/collective_call.h"

namespace t2r {
namespace {

void check_mpi(int code, const char* what) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  fail("{} failed: {}", what, std::string(text, static_cast<std::size_t>(length)));
}

MPI_Datatype mpi_type(DType dtype) {
  return dtype == DType::f64 ? MPI_DOUBLE : MPI_FLOAT;
}

MPI_Op mpi_op(ReduceOp op) {
  return op == ReduceOp::sum ? MPI_SUM : op == ReduceOp::max ? MPI_MAX : MPI_MIN;
}

/// Calls f(begin, count) for consecutive chunks of `size` elements, `most` at a time.
template <class F>
void for_chunks(std::int64_t size, std::int64_t most, F&& f) {
  for (std::int64_t begin = 0; begin < size; begin += most)
    f(begin, static_cast<int>(std::min(most, size - begin)));
}

char* at(const Tensor& x, std::int64_t element) {
  return static_cast<char*>(x.data) + element * size_of(x.dtype);
}

class MpiPending : public Pending {
 public:
  explicit MpiPending(std::vector<MPI_Request> requests) : requests_(std::move(requests)) {}

  void wait() override {
    check_mpi(MPI_Waitall(count(), requests_.data(), MPI_STATUSES_IGNORE), "MPI_Waitall");
  }

  bool test() override {
    int complete = 0;
    check_mpi(MPI_Testall(count(), requests_.data(), &complete, MPI_STATUSES_IGNORE),
              "MPI_Testall");
    return complete != 0;
  }

 private:
  int count() const { return static_cast<int>(requests_.size()); }

  std::vector<MPI_Request> requests_;
};

/// A block of `count` elements of `x`'s type that, repeated, lies `stride` elements apart.
class StridedBlock {
 public:
  StridedBlock(const Tensor& x, int count, std::int64_t stride) {
    const auto bytes = static_cast<int>(count * size_of(x.dtype));
    check_mpi(MPI_Type_contiguous(bytes, MPI_BYTE, &block_), "MPI_Type_contiguous");
    check_mpi(MPI_Type_create_resized(block_, 0, stride * size_of(x.dtype), &type_),
              "MPI_Type_create_resized");
    check_mpi(MPI_Type_commit(&type_), "MPI_Type_commit");
  }
  ~StridedBlock() {
    MPI_Type_free(&type_);
    MPI_Type_free(&block_);
  }
  StridedBlock(const StridedBlock&) = delete;
  StridedBlock& operator=(const StridedBlock&) = delete;

  MPI_Datatype type() const { return type_; }

 private:
  MPI_Datatype block_ = MPI_DATATYPE_NULL, type_ = MPI_DATATYPE_NULL;
};

int rank_in(MPI_Comm comm) {
  int rank = 0;
  check_mpi(MPI_Comm_rank(comm, &rank), "MPI_Comm_rank");
  return rank;
}

int size_of_group(MPI_Comm comm) {
  int size = 0;
  check_mpi(MPI_Comm_size(comm, &size), "MPI_Comm_size");
  return size;
}

}  // namespace

MpiSession::MpiSession() {
  // Open MPI allocates a temporary of a chunk's size for each collective under way. Freed memory
  // stays in the heap, or every step would pay for its fresh pages again.
  mallopt(M_MMAP_THRESHOLD, static_cast<int>(4 * kMpiChunkBytes));
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  check(provided >= MPI_THREAD_FUNNELED,
        "this MPI library does not allow threads beside the one that calls it: use another");
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() == 0) MPI_Finalize();
}

MpiComm::MpiComm(MPI_Comm comm, std::shared_ptr<MpiSession> session)
    : Comm(rank_in(comm), size_of_group(comm)), comm_(comm), session_(std::move(session)) {
  // Errors come back as codes, so that they become sentences.
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

MpiComm::~MpiComm() {
  if (std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
}

void MpiComm::all_reduce(Tensor x, ReduceOp op, Queue) {
  all_reduce_call(CallKind::all_reduce, x, op);
  for_chunks(x.size(), kMpiChunkBytes / size_of(x.dtype), [&](std::int64_t begin, int count) {
    check_mpi(
        MPI_Allreduce(MPI_IN_PLACE, at(x, begin), count, mpi_type(x.dtype), mpi_op(op), comm_),
        "MPI_Allreduce");
  });
}

std::unique_ptr<Pending> MpiComm::start_all_reduce(Tensor x, ReduceOp op, Queue) {
  all_reduce_call(CallKind::start_all_reduce, x, op);
  std::vector<MPI_Request> requests;
  for_chunks(x.size(), kMpiChunkBytes / size_of(x.dtype), [&](std::int64_t begin, int count) {
    check_mpi(MPI_Iallreduce(MPI_IN_PLACE, at(x, begin), count, mpi_type(x.dtype), mpi_op(op),
                             comm_, &requests.emplace_back(MPI_REQUEST_NULL)),
              "MPI_Iallreduce");
  });
  return std::make_unique<MpiPending>(std::move(requests));
}

void MpiComm::reduce_scatter(Tensor in, Tensor out, Queue) {
  reduce_scatter_call(in, out, size());
  // The ranks' parts of one chunk lie out.size() elements apart, MPI wants them together. Packing
  // also lets `out` be this rank's own part of `in`.
  const std::int64_t width = size_of(in.dtype);
  const std::int64_t most = std::max<std::int64_t>(1, kMpiChunkBytes / (width * size()));
  for_chunks(out.size(), most, [&](std::int64_t begin, int count) {
    const std::int64_t bytes = count * width;
    staging_.resize(std::max(staging_.size(), static_cast<std::size_t>(bytes * size())));
    for (int r = 0; r < size(); ++r)
      std::memcpy(staging_.data() + r * bytes, at(in, r * out.size() + begin), bytes);
    check_mpi(MPI_Reduce_scatter_block(staging_.data(), at(out, begin), count, mpi_type(in.dtype),
                                       MPI_SUM, comm_),
              "MPI_Reduce_scatter_block");
  });
}

void MpiComm::all_gather(Tensor in, Tensor out, Queue) {
  all_gather_call(in, out, size());
  const std::int64_t width = size_of(in.dtype);
  const bool in_place = in.data == at(out, rank() * in.size());
  const std::int64_t most = std::max<std::int64_t>(1, kMpiChunkBytes / (width * size()));
  for_chunks(in.size(), most, [&](std::int64_t begin, int count) {
    const StridedBlock block(out, count, in.size());
    const void* from = in_place ? MPI_IN_PLACE : at(in, begin);
    check_mpi(MPI_Allgather(from, static_cast<int>(count * width), MPI_BYTE, at(out, begin), 1,
                            block.type(), comm_),
              "MPI_Allgather");
  });
}

void MpiComm::broadcast(Tensor x, int root, Queue) {
  broadcast_call(x, root, size());
  for_chunks(x.bytes(), kMpiChunkBytes, [&](std::int64_t begin, int count) {
    check_mpi(MPI_Bcast(static_cast<char*>(x.data) + begin, count, MPI_BYTE, root, comm_),
              "MPI_Bcast");
  });
}

void MpiComm::barrier() {
  check_mpi(MPI_Barrier(comm_), "MPI_Barrier");
}

std::unique_ptr<Comm> MpiComm::split(int color, int key) {
  check(color >= 0, "split with the colour {}: it must not be negative", color);
  MPI_Comm part = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split(comm_, color, key, &part), "MPI_Comm_split");
  return std::make_unique<MpiComm>(part, session_);
}

std::unique_ptr<Comm> MpiComm::split_by_host() {
  MPI_Comm part = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank(), MPI_INFO_NULL, &part),
            "MPI_Comm_split_type");
  return std::make_unique<MpiComm>(part, session_);
}

void MpiComm::abort(int status) {
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, status);
  std::_Exit(status);
}

}  // namespace t2r
