// Sums gradients over ranks while backward still runs. Parameters lie in forward order and backward
// finishes them from the tail, so "ready" is one falling offset (the watermark).
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "dist/comm.h"

namespace t2r {

class GradientReducer {
 public:
  /// `grads`: the flat span of all gradients. A bucket of at least `bucket_bytes` starts its
  /// all-reduce as soon as it is complete; without `overlap` all start in finish().
  GradientReducer(Comm& comm, Tensor grads, std::int64_t bucket_bytes, Queue queue,
                  bool overlap = true);

  /// All gradients from element `offset` to the end are final. Offsets fall from call to call.
  void ready(std::int64_t offset);
  /// MPI moves data inside its calls only: the more often this is called while other work is done,
  /// the more of the communication hides behind it. Changes nothing else.
  void progress();
  /// Starts what is left, waits for all, and makes the reducer ready for the next step.
  void finish();

  /// Seconds spent waiting in finish() since construction: communication that was not hidden.
  double exposed_seconds() const { return exposed_seconds_; }
  std::int64_t buckets_started() const { return buckets_started_; }

 private:
  void start(std::int64_t begin, std::int64_t end);

  Comm& comm_;
  Tensor grads_;
  std::int64_t bucket_elements_;
  Queue queue_;
  bool overlap_;
  std::int64_t watermark_, started_;
  std::vector<Tensor> waiting_;  // complete buckets, where nothing overlaps
  std::deque<std::unique_ptr<Pending>> pending_;
  double exposed_seconds_ = 0;
  std::int64_t buckets_started_ = 0;
};

}  // namespace t2r
