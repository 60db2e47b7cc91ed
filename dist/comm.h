// Collectives over a group of ranks. The one interface of t2r with virtual functions: the ranks may
// be one process alone, threads of a process (tests), MPI processes or, later, NCCL devices.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/base/error.h"
#include "core/base/tensor.h"

namespace t2r {

enum class ReduceOp : std::uint8_t { sum, max, min };

/// Ranks did not arrive at a collective in time. A failure of the whole job, thrown on one rank for
/// all: the sentence names the ranks that it is about.
class CollectiveTimeout : public Error {
 public:
  using Error::Error;
};

/// A collective under way; its memory must stay as it is until wait() returns.
class Pending {
 public:
  virtual ~Pending() = default;
  /// Returns when the result is in place. Call once.
  virtual void wait() = 0;
  /// Lets the collective move on (MPI progresses only inside calls). True when it is complete.
  virtual bool test() = 0;
};

/// Every rank calls the same collectives in the same order with equal shapes. Sums are formed in an
/// order that is fixed for a given group size: results are the same, bit for bit, on every rank and
/// in every run.
class Comm {
 public:
  virtual ~Comm() = default;

  int rank() const { return rank_; }
  int size() const { return size_; }

  virtual void all_reduce(Tensor x, ReduceOp op, Queue queue) = 0;
  virtual std::unique_ptr<Pending> start_all_reduce(Tensor x, ReduceOp op, Queue queue) = 0;
  /// out = this rank's equal part of the sum of `in` (in.size() == out.size() * size()), formed in
  /// the order of the ranks. `out` may be that part of `in`.
  virtual std::unique_ptr<Pending> start_reduce_scatter(Tensor in, Tensor out, Queue queue) = 0;
  /// out = the ranks' `in` one after the other (out.size() == in.size() * size()). `in` may be this
  /// rank's part of `out`.
  virtual std::unique_ptr<Pending> start_all_gather(Tensor in, Tensor out, Queue queue) = 0;
  virtual void broadcast(Tensor x, int root, Queue queue) = 0;
  virtual void barrier() = 0;
  /// A group of the ranks that give the same colour, ordered by key.
  virtual std::unique_ptr<Comm> split(int color, int key) = 0;
  /// Ends the whole job (all ranks) with `status`, at once.
  [[noreturn]] virtual void abort(int status) = 0;
  /// "self", "threads", "mpi", ...
  virtual std::string kind() const = 0;

  void reduce_scatter(Tensor in, Tensor out, Queue queue) {
    start_reduce_scatter(in, out, queue)->wait();
  }
  void all_gather(Tensor in, Tensor out, Queue queue) { start_all_gather(in, out, queue)->wait(); }

  // Small host-side values, for agreement between ranks.
  double all_reduce_value(double value, ReduceOp op);
  std::int64_t all_reduce_value(std::int64_t value, ReduceOp op);  // exact below 2^53
  std::string broadcast_text(const std::string& text, int root);

 protected:
  Comm(int rank, int size) : rank_(rank), size_(size) {}

 private:
  int rank_, size_;
};

}  // namespace t2r
