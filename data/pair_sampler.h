// Which sentence pairs form which update. Everything is a function of (seed, step), as in
// sampler.h. Batches are ragged: pairs of any lengths lie one after the other, so there is no
// padding and nothing to sort by length.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "data/batch.h"
#include "data/dataset.h"

namespace t2r {

/// The pairs of one update, over all ranks, and where their rows begin in the update's batch.
struct PairPlan {
  std::int64_t step = 0;
  std::vector<std::int64_t> pairs;
  std::vector<std::int64_t> target_begin, source_begin;  // rows before pair i; pairs + 1 entries

  std::int64_t target_count() const { return target_begin.back(); }
  std::int64_t source_count() const { return source_begin.back(); }
};

/// A target of n stored tokens (bos and eos included) is n - 1 rows: each token but the last is an
/// input, each but the first is predicted. `batch_tokens` counts such rows.
class PairSampler {
 public:
  /// Shuffled, epoch after epoch: an epoch is the pairs in a random order, cut into a fixed number
  /// of updates where the running count of rows passes multiples of rows / updates; so an update
  /// has about `batch_tokens` rows. Throws when there are no pairs.
  PairSampler(PairStream stream, std::int64_t batch_tokens, std::uint64_t seed);
  /// Pairs 0, 1, ... in order, each once: for evaluation. Plans past the end are empty.
  static PairSampler in_order(PairStream stream, std::int64_t batch_tokens);

  std::int64_t pairs() const { return stream_.pairs(); }
  std::int64_t batch_tokens() const { return batch_tokens_; }
  std::int64_t steps_per_epoch() const { return steps_per_epoch_; }
  std::int64_t longest_target() const { return longest_target_; }  // rows
  std::int64_t longest_source() const { return longest_source_; }

  PairPlan plan(std::int64_t step) const;
  /// Pairs [begin, end) of the plan as a batch. Row ids are places in the plan.
  TokenBatch batch(const PairPlan& plan, std::int64_t begin, std::int64_t end) const;

 private:
  PairSampler(PairStream stream, std::int64_t batch_tokens, std::uint64_t seed, bool shuffled);
  void enter_epoch(std::int64_t epoch) const;
  std::int64_t target_rows(std::int64_t pair) const { return stream_.target_length(pair) - 1; }

  PairStream stream_;
  std::int64_t batch_tokens_;
  std::uint64_t seed_;
  bool shuffled_;
  std::int64_t rows_ = 0, steps_per_epoch_ = 0, longest_target_ = 0, longest_source_ = 0;
  // The epoch in hand: its order, and the first place of each update in it. One thread plans.
  mutable std::int64_t epoch_ = -1;
  mutable std::vector<std::int64_t> order_, first_place_;
};

/// How the pairs of a plan are dealt to ranks, and a rank's part to micro-steps: contiguous slices
/// of about equal work, each cut where its rows of both sides pass `micro_batch_tokens`. Every rank
/// makes the same number of micro-steps; some may be empty.
/// Returns cuts: micro-step m of this rank has the pairs [cuts[m], cuts[m + 1]).
std::vector<std::int64_t> deal_pairs(const PairPlan& plan, int rank, int ranks,
                                     std::int64_t micro_batch_tokens);

}  // namespace t2r
