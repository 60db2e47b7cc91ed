// Sums gradients over ranks while backward still runs. Parameters lie in forward order and backward
// finishes them from the tail, so "ready" is one falling offset (the watermark).
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "dist/bucket_plan.h"
#include "dist/comm.h"

namespace t2r {

struct ReducerOptions {
  bool overlap = true;   // false: all buckets start in finish()
  bool sharded = false;  // a rank gets the sums of its parts of the buckets only
};

/// The stretches of `span` become sums over the ranks, all in one message: for many small ones.
/// Collective.
void all_reduce_stretches(Comm& comm, Tensor span, const std::vector<Range>& stretches,
                          Queue queue);

class GradientReducer {
 public:
  /// `grads`: the flat span of all gradients. `buckets` cover it from the tail (cut_buckets).
  GradientReducer(Comm& comm, Tensor grads, std::vector<Range> buckets, Queue queue,
                  const ReducerOptions& options = {});

  /// All gradients from element `offset` to the end are final: buckets that are complete start.
  /// Offsets fall from call to call.
  void ready(std::int64_t offset);
  /// MPI moves data inside its calls only: the more often this is called while other work is done,
  /// the more of the communication hides behind it. Changes nothing else.
  void progress();
  /// Starts what is left, waits for all, and makes the reducer ready for the next step. With
  /// sharding, gradients of other ranks' parts are then of no use.
  void finish();

  /// Seconds spent waiting in finish() since construction: communication that was not hidden.
  double exposed_seconds() const { return exposed_seconds_; }
  std::int64_t buckets_started() const { return buckets_started_; }

 private:
  void start(const Range& bucket);
  /// The sums of the elements that are no rank's part, in one message.
  void reduce_rests();

  Comm& comm_;
  Tensor grads_;
  std::vector<Range> buckets_;
  Queue queue_;
  ReducerOptions options_;
  std::int64_t watermark_;
  std::size_t next_ = 0;  // bucket
  std::deque<std::unique_ptr<Pending>> pending_;
  double exposed_seconds_ = 0;
  std::int64_t buckets_started_ = 0;
};

}  // namespace t2r
