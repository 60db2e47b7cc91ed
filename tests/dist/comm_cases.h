// What every communicator must do, written once: run on threads in the unit tests and on MPI
// processes by tests/mpi. Each case throws t2r::Error when something is wrong. All ranks call them.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "dist/comm.h"
#include "dist/gradient_reducer.h"
#include "dist/replica_check.h"

namespace t2r::cases {

/// Below and above one MPI chunk (1 MiB = 131072 doubles), odd everywhere.
inline const std::vector<std::int64_t> kSizes{0, 1, 2, 31, 32, 33, 1009, 131073, 262147};

/// Elements with guard bytes around them, poisoned until filled.
template <class T>
class Buffer {
 public:
  explicit Buffer(std::int64_t count)
      : count_(count), bytes_(count * sizeof(T) + 2 * kGuard, char(0xFF)) {  // NaN in every type
    for (std::size_t i = 0; i < kGuard; ++i) bytes_[i] = bytes_[bytes_.size() - 1 - i] = 0x7F;
  }
  T* data() { return reinterpret_cast<T*>(bytes_.data() + kGuard); }
  T& operator[](std::int64_t i) { return data()[i]; }
  Tensor tensor() { return Tensor(data(), {count_}, dtype_of<T>()); }
  void check_guards() const {
    for (std::size_t i = 0; i < kGuard; ++i)
      check(bytes_[i] == 0x7F && bytes_[bytes_.size() - 1 - i] == 0x7F,
            "memory beside {} elements was overwritten", count_);
  }

 private:
  static constexpr std::size_t kGuard = 64;
  std::int64_t count_;
  std::vector<char> bytes_;
};

/// Rank `rank`'s element i of the input number `input`, in [-1, 1): every rank can compute all of
/// them. (A multiply-and-shift hash: the big sizes would make a good generator the slowest part.)
template <class T>
T value(int input, int rank, std::int64_t i) {
  std::uint64_t h = static_cast<std::uint64_t>(i * 64 + input * 8 + rank + 1) * 0x9E3779B97F4A7C15u;
  h = (h ^ (h >> 32)) * 0xD6E8FEB86659FD93u;
  return static_cast<T>(static_cast<float>(static_cast<std::int64_t>(h) >> 40) * 0x1p-23f);
}

template <class T>
void fill(Buffer<T>& x, int input, int rank, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) x[i] = value<T>(input, rank, i);
}

inline double combine(double a, double b, ReduceOp op) {
  return op == ReduceOp::sum ? a + b : op == ReduceOp::max ? std::max(a, b) : std::min(a, b);
}

/// Element i of the reduction over `size` ranks, in fp64.
template <class T>
double expected(int input, int size, std::int64_t i, ReduceOp op) {
  double sum = value<T>(input, 0, i);
  for (int r = 1; r < size; ++r) sum = combine(sum, value<T>(input, r, i), op);
  return sum;
}

template <class T>
void check_close(double got, double want, ReduceOp op, std::int64_t i, std::int64_t count) {
  const double tolerance = op != ReduceOp::sum ? 0 : std::is_same_v<T, double> ? 1e-14 : 4e-6;
  check(std::abs(got - want) <= tolerance * std::max(1.0, std::abs(want)),
        "element {} of {} {}: {} instead of {}", i, count, name_of(dtype_of<T>()), got, want);
}

template <class T>
void all_reduce_case(Comm& comm) {
  for (const std::int64_t count : kSizes)
    for (const ReduceOp op : {ReduceOp::sum, ReduceOp::max, ReduceOp::min}) {
      Buffer<T> x(count), again(count);
      fill(x, 1, comm.rank(), count);
      fill(again, 1, comm.rank(), count);
      comm.all_reduce(x.tensor(), op, Queue{});
      x.check_guards();
      for (std::int64_t i = 0; i<count; i += count> 2000 ? 97 : 1)
        check_close<T>(x[i], expected<T>(1, comm.size(), i, op), op, i, count);
      check_replicas_equal(comm, x.tensor(), "all_reduce");
      comm.all_reduce(again.tensor(), op, Queue{});
      check(hash_of(again.tensor()) == hash_of(x.tensor()), "the same all_reduce gave other bits");
    }
}

/// Several at once, with a blocking collective between, waited for out of order.
template <class T>
void start_all_reduce_case(Comm& comm) {
  for (const std::int64_t count : kSizes) {
    Buffer<T> a(count), b(count), c(3), again(count);
    fill(a, 2, comm.rank(), count);
    fill(b, 3, comm.rank(), count);
    fill(c, 4, comm.rank(), 3);
    fill(again, 2, comm.rank(), count);
    auto first = comm.start_all_reduce(a.tensor(), ReduceOp::sum, Queue{});
    auto second = comm.start_all_reduce(b.tensor(), ReduceOp::max, Queue{});
    comm.all_reduce(c.tensor(), ReduceOp::sum, Queue{});
    second->wait();
    while (!first->test()) {
    }
    for (Buffer<T>* x : {&a, &b}) x->check_guards();
    for (std::int64_t i = 0; i<count; i += count> 2000 ? 97 : 1) {
      check_close<T>(a[i], expected<T>(2, comm.size(), i, ReduceOp::sum), ReduceOp::sum, i, count);
      check_close<T>(b[i], expected<T>(3, comm.size(), i, ReduceOp::max), ReduceOp::max, i, count);
    }
    check_close<T>(c[2], expected<T>(4, comm.size(), 2, ReduceOp::sum), ReduceOp::sum, 2, 3);
    check_replicas_equal(comm, a.tensor(), "start_all_reduce");
    comm.start_all_reduce(again.tensor(), ReduceOp::sum, Queue{})->wait();
    check(hash_of(again.tensor()) == hash_of(a.tensor()), "the same start_all_reduce: other bits");
  }
}

/// Both on their way at once, ended out of order.
template <class T>
void start_scatter_and_gather_case(Comm& comm) {
  for (const std::int64_t part : kSizes) {
    const std::int64_t count = part * comm.size(), begin = comm.rank() * part;
    Buffer<T> sums(count), gathered(count);
    fill(sums, 5, comm.rank(), count);
    for (std::int64_t i = 0; i < part; ++i) gathered[begin + i] = value<T>(6, comm.rank(), i);
    const auto own = [&](Buffer<T>& x) { return x.tensor().row_range(begin, begin + part); };
    auto scatter = comm.start_reduce_scatter(sums.tensor(), own(sums), Queue{});
    auto gather = comm.start_all_gather(own(gathered), gathered.tensor(), Queue{});
    comm.barrier();
    while (!gather->test()) {
    }
    scatter->wait();
    for (Buffer<T>* x : {&sums, &gathered}) x->check_guards();
    for (std::int64_t i = 0; i<part; i += part> 2000 ? 97 : 1) {
      T sum = value<T>(5, 0, begin + i);
      for (int r = 1; r < comm.size(); ++r) sum += value<T>(5, r, begin + i);
      check(sums[begin + i] == sum, "element {} was not summed in the order of the ranks", i);
      for (int r = 0; r < comm.size(); ++r)
        check(gathered[r * part + i] == value<T>(6, r, i), "element {} of rank {}", i, r);
    }
  }
}

template <class T>
void reduce_scatter_case(Comm& comm) {
  for (const std::int64_t part : kSizes) {
    const std::int64_t count = part * comm.size();
    for (const bool in_place : {false, true}) {
      Buffer<T> in(count), own(part);
      fill(in, 5, comm.rank(), count);
      const std::int64_t begin = comm.rank() * part;
      const Tensor out = in_place ? in.tensor().row_range(begin, begin + part) : own.tensor();
      comm.reduce_scatter(in.tensor(), out, Queue{});
      in.check_guards();
      own.check_guards();
      for (std::int64_t i = 0; i<part; i += part> 2000 ? 97 : 1)
        check_close<T>(out.as<T>()[i], expected<T>(5, comm.size(), begin + i, ReduceOp::sum),
                       ReduceOp::sum, i, part);
      if (!in_place)
        for (std::int64_t i = 0; i < count; i += 31)
          check(in[i] == value<T>(5, comm.rank(), i), "reduce_scatter changed its input");
    }
  }
}

template <class T>
void all_gather_case(Comm& comm) {
  for (const std::int64_t part : kSizes) {
    const std::int64_t begin = comm.rank() * part;
    for (const bool in_place : {false, true}) {
      Buffer<T> own(part), out(part * comm.size());
      const Tensor in = in_place ? out.tensor().row_range(begin, begin + part) : own.tensor();
      for (std::int64_t i = 0; i < part; ++i) in.as<T>()[i] = value<T>(6, comm.rank(), i);
      comm.all_gather(in, out.tensor(), Queue{});
      out.check_guards();
      for (int r = 0; r < comm.size(); ++r)
        for (std::int64_t i = 0; i<part; i += part> 2000 ? 97 : 1)
          check(out[r * part + i] == value<T>(6, r, i), "all_gather: element {} of rank {}", i, r);
    }
  }
}

template <class T>
void broadcast_case(Comm& comm) {
  for (const std::int64_t count : kSizes)
    for (int root = 0; root < comm.size(); ++root) {
      Buffer<T> x(count);
      if (comm.rank() == root) fill(x, 7, root, count);
      comm.broadcast(x.tensor(), root, Queue{});
      x.check_guards();
      for (std::int64_t i = 0; i<count; i += count> 2000 ? 97 : 1)
        check(x[i] == value<T>(7, root, i), "broadcast of {} from {}: element {}", count, root, i);
    }
}

inline void value_case(Comm& comm) {
  const int n = comm.size(), r = comm.rank();
  check(comm.all_reduce_value(0.5 + r, ReduceOp::sum) == 0.5 * n + n * (n - 1) / 2.0, "sum");
  check(comm.all_reduce_value(-1.5 * r, ReduceOp::min) == -1.5 * (n - 1), "minimum");
  check(comm.all_reduce_value(std::int64_t{r} << 40, ReduceOp::max) == std::int64_t{n - 1} << 40,
        "maximum of whole numbers");
  for (const std::size_t length : {0, 1, 2, 3, 100, 4097}) {
    std::string text(length, 'x');
    for (std::size_t i = 0; i < length; ++i) text[i] = static_cast<char>(i * 37);
    const int root = n - 1;
    check(comm.broadcast_text(r == root ? text : "other", root) == text, "broadcast_text");
  }
}

/// Groups in reversed order, a group within a group, and the parent still usable.
inline void split_case(Comm& comm) {
  auto part = comm.split(comm.rank() % 2, -comm.rank());
  const int expected_size = (comm.size() + 1 - comm.rank() % 2) / 2;
  check(part->size() == expected_size, "a part of {} ranks", part->size());
  check(part->rank() == expected_size - 1 - comm.rank() / 2, "rank {} in the part", part->rank());
  double sum = 0;
  for (int r = comm.rank() % 2; r < comm.size(); r += 2) sum += r;
  check(part->all_reduce_value(double(comm.rank()), ReduceOp::sum) == sum, "a sum over a part");
  auto alone = part->split(part->rank(), 0);
  check(alone->size() == 1 && alone->rank() == 0, "a group of one");
  all_reduce_case<double>(*alone);
  comm.barrier();
  check(comm.all_reduce_value(1.0, ReduceOp::sum) == comm.size(), "the parent after a split");
}

/// Wrong arguments throw one sentence before anything is sent, so all ranks can go on.
inline void refusal_case(Comm& comm) {
  const auto refused = [](const auto& call, const std::string& part) {
    try {
      call();
    } catch (const Error& e) {
      check(std::string(e.what()).find(part) != std::string::npos, "the message is: {}", e.what());
      return;
    }
    fail("a wrong call was accepted: expected an error with '{}'", part);
  };
  Buffer<bf16> half(4);
  Buffer<float> x(4 * comm.size() + 1), matrix(12);
  refused([&] { comm.all_reduce(half.tensor(), ReduceOp::sum, Queue{}); }, "fp32 or fp64");
  refused([&] { comm.start_all_reduce(half.tensor(), ReduceOp::sum, Queue{}); }, "fp32 or fp64");
  refused([&] { comm.reduce_scatter(x.tensor(), x.tensor().row_range(0, 3), Queue{}); }, "times");
  refused([&] { comm.all_gather(x.tensor().row_range(0, 3), x.tensor(), Queue{}); }, "times");
  refused([&] { comm.broadcast(x.tensor(), comm.size(), Queue{}); }, "from rank");
  const Tensor columns = matrix.tensor().view({3, 4}).column_range(0, 2);
  refused([&] { comm.all_reduce(columns, ReduceOp::sum, Queue{}); }, "strided");
  comm.barrier();
}

/// The ranks' parts of the sums come together.
template <class T>
void gather_parts(Comm& comm, Buffer<T>& grads, const std::vector<Range>& buckets) {
  for (const Range& bucket : buckets) {
    const Range own = part_of_bucket(bucket, comm.rank(), comm.size());
    const Range parts{bucket.begin, rest_of_bucket(bucket, comm.size()).begin};
    const auto others_are_lost = [&](std::int64_t i) { return i < own.begin || i >= own.end; };
    for (std::int64_t i = parts.begin; i < parts.end; ++i)
      if (others_are_lost(i)) grads[i] = std::numeric_limits<T>::quiet_NaN();
    comm.all_gather(grads.tensor().row_range(own.begin, own.end),
                    grads.tensor().row_range(parts.begin, parts.end), Queue{});
  }
}

/// Layers finish at `offsets`; the sums must be those of one all_reduce, step after step.
template <class T>
void reducer_case(Comm& comm, std::int64_t count, std::int64_t bucket_bytes,
                  const std::vector<std::int64_t>& offsets, bool sharded = false) {
  Buffer<T> grads(count), whole(count), first(count);
  const std::vector<Range> buckets = cut_buckets(
      count, offsets, std::max<std::int64_t>(1, bucket_bytes / std::int64_t{sizeof(T)}));
  GradientReducer reducer(comm, grads.tensor(), buckets, Queue{}, {.sharded = sharded});
  for (int step = 0; step < 3; ++step) {
    const int input = 10 + step % 2;  // steps 0 and 2 must agree bit for bit
    fill(whole, input, comm.rank(), count);
    comm.all_reduce(whole.tensor(), ReduceOp::sum, Queue{});
    std::int64_t end = count;  // gradients appear from the tail, as in backward
    for (const std::int64_t offset : offsets) {
      for (std::int64_t i = offset; i < end; ++i) grads[i] = value<T>(input, comm.rank(), i);
      reducer.ready(end = offset);
    }
    for (std::int64_t i = 0; i < end; ++i) grads[i] = value<T>(input, comm.rank(), i);
    reducer.finish();
    grads.check_guards();
    if (sharded) gather_parts(comm, grads, buckets);
    // Two summands have one sum; with more, the order may follow from where a bucket begins.
    if (comm.size() <= 2 || comm.kind().find("threads") != std::string::npos)
      check(hash_of(grads.tensor()) == hash_of(whole.tensor()), "buckets gave other bits");
    for (std::int64_t i = 0; i<count; i += count> 2000 ? 97 : 1)
      check_close<T>(grads[i], whole[i], ReduceOp::sum, i, count);
    check_replicas_equal(comm, grads.tensor(), "reduced gradients");
    if (step == 0) first = grads;
  }
  check(hash_of(first.tensor()) == hash_of(grads.tensor()), "the same step gave other bits");
}

inline void reducer_cases(Comm& comm) {
  for (const std::int64_t bucket : {1, 64, 4096, 1 << 20, 1 << 30}) {
    for (const bool sharded : {false, true}) {
      reducer_case<double>(comm, 1009, bucket, {1000, 1000, 777, 776, 33, 32, 31, 0, 0}, sharded);
      reducer_case<float>(comm, 1009, bucket, {1009, 500}, sharded);
      reducer_case<float>(comm, 33, bucket, {}, sharded);
      reducer_case<float>(comm, 0, bucket, {0}, sharded);
    }
  }
  reducer_case<float>(comm, 700001, 1 << 20, {600000, 599999, 300001, 17, 0});
  reducer_case<double>(comm, 300007, 1 << 20, {0});
}

inline void all_cases(Comm& comm) {
  all_reduce_case<float>(comm);
  all_reduce_case<double>(comm);
  start_all_reduce_case<float>(comm);
  start_all_reduce_case<double>(comm);
  reduce_scatter_case<float>(comm);
  reduce_scatter_case<double>(comm);
  start_scatter_and_gather_case<float>(comm);
  start_scatter_and_gather_case<double>(comm);
  all_gather_case<float>(comm);
  all_gather_case<double>(comm);
  all_gather_case<bf16>(comm);
  broadcast_case<float>(comm);
  broadcast_case<double>(comm);
  broadcast_case<bf16>(comm);
  value_case(comm);
  split_case(comm);
  refusal_case(comm);
  reducer_cases(comm);
}

}  // namespace t2r::cases
