// MPI collectives in chunks, with every return code looked at.
#include "dist/mpi_comm.h"

#include <malloc.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <utility>

#include "dist/mpi_error.h"

namespace t2r {
namespace {

/// Reductions up to this size go by messages of a size that Open MPI sends without a handshake.
constexpr std::int64_t kSmallBytes = 8192, kMessageBytes = 2048;
constexpr int kSmallTag = 1;

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

bool all_complete(std::span<MPI_Request> requests) {
  int complete = 0;
  check_mpi(MPI_Testall(static_cast<int>(requests.size()), requests.data(), &complete,
                        MPI_STATUSES_IGNORE),
            "MPI_Testall");
  return complete != 0;
}

class MpiPending : public Pending {
 public:
  /// `last`: what is left to do when all messages are here.
  MpiPending(std::vector<MPI_Request> requests, StartedCall call, MpiWatchdog& watchdog,
             std::function<void()> last = {})
      : requests_(std::move(requests)),
        call_(std::move(call)),
        watchdog_(watchdog),
        last_(std::move(last)) {}

  void wait() override {
    watchdog_.wait(call_, [&] { return test(); });
  }
  bool test() override {
    if (!all_complete(requests_)) return false;
    if (last_) std::exchange(last_, nullptr)();
    return true;
  }

 private:
  std::vector<MPI_Request> requests_;
  StartedCall call_;
  MpiWatchdog& watchdog_;
  std::function<void()> last_;
};

/// x = the sum of `ranks` arrays that lie one after the other.
template <class T>
void add_in_order(T* x, const T* arrays, std::int64_t count, int ranks) {
  std::memcpy(x, arrays, static_cast<std::size_t>(count) * sizeof(T));
  for (int r = 1; r < ranks; ++r) {
    const T* const array = arrays + r * count;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) x[i] += array[i];
  }
}

/// x = lower op upper: in this order on both ranks of a pair, so that they get the same bits.
template <class T>
void combine(T* x, const T* lower, const T* upper, int count, ReduceOp op) {
  const auto each = [&](auto&& f) {
#pragma omp simd
    for (int i = 0; i < count; ++i) x[i] = f(lower[i], upper[i]);
  };
  if (op == ReduceOp::sum)
    each([](T a, T b) { return a + b; });
  else if (op == ReduceOp::max)
    each([](T a, T b) { return std::max(a, b); });
  else
    each([](T a, T b) { return std::min(a, b); });
}

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

/// The ranks of `comm` as ranks of the job.
std::vector<int> members_of(MPI_Comm comm) {
  MPI_Group group = MPI_GROUP_NULL, all = MPI_GROUP_NULL;
  check_mpi(MPI_Comm_group(comm, &group), "MPI_Comm_group");
  check_mpi(MPI_Comm_group(MPI_COMM_WORLD, &all), "MPI_Comm_group");
  std::vector<int> ranks(static_cast<std::size_t>(size_of_group(comm))), members(ranks.size());
  std::iota(ranks.begin(), ranks.end(), 0);
  check_mpi(MPI_Group_translate_ranks(group, static_cast<int>(ranks.size()), ranks.data(), all,
                                      members.data()),
            "MPI_Group_translate_ranks");
  MPI_Group_free(&group);
  MPI_Group_free(&all);
  return members;
}

/// Another name for the same part of the same group on each of its members.
std::uint64_t part_of(std::uint64_t group, std::int64_t number, int color) {
  const std::array<std::uint64_t, 3> origin{group, static_cast<std::uint64_t>(number),
                                            static_cast<std::uint64_t>(color)};
  return XXH3_64bits(origin.data(), sizeof origin);
}

}  // namespace

MpiSession::MpiSession(double collective_timeout) {
  // Open MPI allocates a temporary of a chunk's size for each collective under way. Freed memory
  // stays in the heap, or every step would pay for its fresh pages again.
  mallopt(M_MMAP_THRESHOLD, static_cast<int>(4 * kMpiChunkBytes));
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  // On a slow link Open MPI's default took twice the time of 3, halving and doubling, which uses
  // both directions at once (bench/overlap_slow_link.md). Other MPIs do not look.
  setenv("OMPI_MCA_coll_libnbc_iallreduce_algorithm", "3", 0);
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread");
  check(provided >= MPI_THREAD_FUNNELED,
        "this MPI library does not allow threads beside the one that calls it: use another");
  watchdog_.emplace(collective_timeout);
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() > 0) return;
  watchdog_.reset();
  MPI_Finalize();
}

MpiComm::MpiComm(MPI_Comm comm, std::shared_ptr<MpiSession> session, std::uint64_t group)
    : Comm(rank_in(comm), size_of_group(comm)),
      comm_(comm),
      session_(std::move(session)),
      group_(group),
      members_(members_of(comm)) {
  // Errors come back as codes, so that they become sentences.
  check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

MpiComm::~MpiComm() {
  if (std::uncaught_exceptions() == 0) MPI_Comm_free(&comm_);
}

StartedCall MpiComm::started(const CollectiveCall& call) {
  return {.call = call, .number = ++number_, .group = group_, .members = members_};
}

template <class Start>
void MpiComm::complete(const StartedCall& call, const char* what, Start&& start) {
  MPI_Request request = MPI_REQUEST_NULL;
  check_mpi(start(&request), what);
  session_->watchdog().wait(call, [&] { return all_complete({&request, 1}); });
}

void MpiComm::exchange(const StartedCall& call, int partner, const void* out, void* in, int bytes) {
  std::array<MPI_Request, 2> requests{MPI_REQUEST_NULL, MPI_REQUEST_NULL};
  if (in)
    check_mpi(MPI_Irecv(in, bytes, MPI_BYTE, partner, kSmallTag, comm_, &requests[0]), "MPI_Irecv");
  if (out)
    check_mpi(MPI_Isend(out, bytes, MPI_BYTE, partner, kSmallTag, comm_, &requests[1]),
              "MPI_Isend");
  session_->watchdog().wait(call, [&] { return all_complete(requests); });
}

template <class T>
void MpiComm::reduce_small(const StartedCall& call, T* x, int count, ReduceOp op) {
  std::array<T, kMessageBytes / sizeof(T)> other;
  const int bytes = count * static_cast<int>(sizeof(T));
  const int core = static_cast<int>(std::bit_floor(static_cast<unsigned>(size())));
  // Ranks beyond a power of two hand their part to a neighbour, who hands the result back.
  const int extra = size() - core;
  const bool paired = rank() < 2 * extra;
  if (paired && rank() % 2 == 0) {
    exchange(call, rank() + 1, x, nullptr, bytes);
    exchange(call, rank() + 1, nullptr, x, bytes);
    return;
  }
  if (paired) {
    exchange(call, rank() - 1, nullptr, other.data(), bytes);
    combine(x, other.data(), x, count, op);
  }
  const int place = paired ? rank() / 2 : rank() - extra;
  for (int distance = 1; distance < core; distance *= 2) {
    const int partner_place = place ^ distance;
    const int partner = partner_place < extra ? 2 * partner_place + 1 : partner_place + extra;
    exchange(call, partner, x, other.data(), bytes);
    if (partner < rank())
      combine(x, other.data(), x, count, op);
    else
      combine(x, x, other.data(), count, op);
  }
  if (paired) exchange(call, rank() - 1, x, nullptr, bytes);
}

void MpiComm::all_reduce(Tensor x, ReduceOp op, Queue) {
  const StartedCall call = started(all_reduce_call(CallKind::all_reduce, x, op));
  if (x.size() == 0) return;
  if (x.bytes() <= kSmallBytes) {
    for_chunks(x.size(), kMessageBytes / size_of(x.dtype), [&](std::int64_t begin, int count) {
      if (x.dtype == DType::f64)
        reduce_small(call, x.as<double>() + begin, count, op);
      else
        reduce_small(call, x.as<float>() + begin, count, op);
    });
    return;
  }
  for_chunks(x.size(), kMpiChunkBytes / size_of(x.dtype), [&](std::int64_t begin, int count) {
    complete(call, "MPI_Iallreduce", [&](MPI_Request* request) {
      return MPI_Iallreduce(MPI_IN_PLACE, at(x, begin), count, mpi_type(x.dtype), mpi_op(op), comm_,
                            request);
    });
  });
}

std::unique_ptr<Pending> MpiComm::start_all_reduce(Tensor x, ReduceOp op, Queue) {
  const StartedCall call = started(all_reduce_call(CallKind::start_all_reduce, x, op));
  std::vector<MPI_Request> requests;
  for_chunks(x.size(), kMpiChunkBytes / size_of(x.dtype), [&](std::int64_t begin, int count) {
    check_mpi(MPI_Iallreduce(MPI_IN_PLACE, at(x, begin), count, mpi_type(x.dtype), mpi_op(op),
                             comm_, &requests.emplace_back(MPI_REQUEST_NULL)),
              "MPI_Iallreduce");
  });
  return std::make_unique<MpiPending>(std::move(requests), call, session_->watchdog());
}

std::unique_ptr<Pending> MpiComm::start_reduce_scatter(Tensor in, Tensor out, Queue) {
  const StartedCall call = started(reduce_scatter_call(in, out, size()));
  // Every rank gets the others' copies of its part and adds them up in the order of the ranks.
  // Open MPI's own reduce_scatter goes through one rank.
  const std::int64_t width = size_of(in.dtype);
  const std::int64_t most = std::max<std::int64_t>(1, kMpiChunkBytes / (width * size()));
  std::vector<char> copies(static_cast<std::size_t>(in.bytes()));
  std::vector<MPI_Request> requests;
  for_chunks(out.size(), most, [&](std::int64_t begin, int count) {
    const StridedBlock block(in, count, out.size());
    check_mpi(MPI_Ialltoall(at(in, begin), 1, block.type(), copies.data() + begin * width * size(),
                            static_cast<int>(count * width), MPI_BYTE, comm_,
                            &requests.emplace_back(MPI_REQUEST_NULL)),
              "MPI_Ialltoall");
  });
  auto add_up = [out, most, ranks = size(), copies = std::move(copies)] {
    for_chunks(out.size(), most, [&](std::int64_t begin, int count) {
      const char* const chunk = copies.data() + begin * size_of(out.dtype) * ranks;
      dispatch(out.dtype, [&]<class T>() {
        if constexpr (!std::is_same_v<T, bf16>)
          add_in_order(out.as<T>() + begin, reinterpret_cast<const T*>(chunk), count, ranks);
      });
    });
  };
  return std::make_unique<MpiPending>(std::move(requests), call, session_->watchdog(),
                                      std::move(add_up));
}

std::unique_ptr<Pending> MpiComm::start_all_gather(Tensor in, Tensor out, Queue) {
  const StartedCall call = started(all_gather_call(in, out, size()));
  const std::int64_t width = size_of(in.dtype);
  const bool in_place = in.data == at(out, rank() * in.size());
  const std::int64_t most = std::max<std::int64_t>(1, kMpiChunkBytes / (width * size()));
  std::vector<MPI_Request> requests;
  for_chunks(in.size(), most, [&](std::int64_t begin, int count) {
    const StridedBlock block(out, count, in.size());
    const void* from = in_place ? MPI_IN_PLACE : at(in, begin);
    check_mpi(MPI_Iallgather(from, static_cast<int>(count * width), MPI_BYTE, at(out, begin), 1,
                             block.type(), comm_, &requests.emplace_back(MPI_REQUEST_NULL)),
              "MPI_Iallgather");
  });
  return std::make_unique<MpiPending>(std::move(requests), call, session_->watchdog());
}

void MpiComm::broadcast(Tensor x, int root, Queue) {
  const StartedCall call = started(broadcast_call(x, root, size()));
  for_chunks(x.bytes(), kMpiChunkBytes, [&](std::int64_t begin, int count) {
    complete(call, "MPI_Ibcast", [&](MPI_Request* request) {
      return MPI_Ibcast(static_cast<char*>(x.data) + begin, count, MPI_BYTE, root, comm_, request);
    });
  });
}

void MpiComm::meet(CallKind kind) {
  CollectiveCall call;
  call.kind = kind;
  double nothing = 0;
  reduce_small(started(call), &nothing, 0, ReduceOp::sum);
}

void MpiComm::barrier() {
  meet(CallKind::barrier);
}

std::unique_ptr<Comm> MpiComm::split(int color, int key) {
  check(color >= 0, "split with the colour {}: it must not be negative", color);
  meet(CallKind::split);  // MPI_Comm_split itself cannot be watched
  MPI_Comm part = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split(comm_, color, key, &part), "MPI_Comm_split");
  return std::make_unique<MpiComm>(part, session_, part_of(group_, number_, color));
}

std::unique_ptr<Comm> MpiComm::split_by_host() {
  meet(CallKind::split);
  MPI_Comm part = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(comm_, MPI_COMM_TYPE_SHARED, rank(), MPI_INFO_NULL, &part),
            "MPI_Comm_split_type");
  auto host = std::make_unique<MpiComm>(part, session_, 0);
  host->group_ = part_of(group_, number_, host->members_[0]);
  return host;
}

void MpiComm::abort(int status) {
  std::fflush(nullptr);
  MPI_Abort(MPI_COMM_WORLD, status);
  std::_Exit(status);
}

}  // namespace t2r
