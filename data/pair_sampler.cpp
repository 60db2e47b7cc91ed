#include "data/pair_sampler.h"

#include <algorithm>

#include "core/base/error.h"
#include "data/sampler.h"

namespace t2r {
namespace {

/// Rows of both sides before pair `i` of the plan.
std::int64_t rows_before(const PairPlan& plan, std::int64_t i) {
  const auto at = static_cast<std::size_t>(i);
  return plan.target_begin[at] + plan.source_begin[at];
}

/// The first pair of rank `rank`'s slice: where half a pair or more lies past the rank's share.
std::int64_t slice_begin(const PairPlan& plan, std::int64_t rank, std::int64_t ranks) {
  const auto pairs = static_cast<std::int64_t>(plan.pairs.size());
  const std::int64_t goal = rows_before(plan, pairs) * rank;
  std::int64_t low = 0, high = pairs;
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if ((rows_before(plan, middle) + rows_before(plan, middle + 1)) * ranks < 2 * goal)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

/// Where the slice [begin, end) is cut.
std::vector<std::int64_t> micro_cuts(const PairPlan& plan, std::int64_t begin, std::int64_t end,
                                     std::int64_t most) {
  std::vector<std::int64_t> cuts{begin};
  for (std::int64_t i = begin; i < end; ++i)
    if (i > cuts.back() && rows_before(plan, i + 1) - rows_before(plan, cuts.back()) > most)
      cuts.push_back(i);
  cuts.push_back(end);
  return cuts;
}

}  // namespace

PairSampler::PairSampler(PairStream stream, std::int64_t batch_tokens, std::uint64_t seed)
    : PairSampler(std::move(stream), batch_tokens, seed, true) {}

PairSampler PairSampler::in_order(PairStream stream, std::int64_t batch_tokens) {
  return PairSampler(std::move(stream), batch_tokens, 0, false);
}

PairSampler::PairSampler(PairStream stream, std::int64_t batch_tokens, std::uint64_t seed,
                         bool shuffled)
    : stream_(std::move(stream)), batch_tokens_(batch_tokens), seed_(seed), shuffled_(shuffled) {
  check_usage(batch_tokens >= 1 && batch_tokens <= (std::int64_t{1} << 30),
              "a batch of {} tokens: at least 1 is needed", batch_tokens);
  check(stream_.source.documents() == stream_.target.documents(),
        "{} source sentences and {} target sentences are no pairs", stream_.source.documents(),
        stream_.target.documents());
  check(pairs() > 0, "the split has no sentence pairs");
  for (std::int64_t pair = 0; pair < pairs(); ++pair) {
    check(target_rows(pair) >= 1, "the target of pair {} has nothing to predict", pair);
    longest_target_ = std::max(longest_target_, target_rows(pair));
    longest_source_ = std::max(longest_source_, stream_.source_length(pair));
    rows_ += target_rows(pair);
  }
  steps_per_epoch_ =
      std::clamp<std::int64_t>((rows_ + batch_tokens / 2) / batch_tokens, 1, pairs());
}

void PairSampler::enter_epoch(std::int64_t epoch) const {
  if (epoch == epoch_) return;
  order_.resize(static_cast<std::size_t>(pairs()));
  const Permutation permutation(seed_, static_cast<std::uint64_t>(epoch), pairs());
  for (std::int64_t place = 0; place < pairs(); ++place)
    order_[static_cast<std::size_t>(place)] = shuffled_ ? permutation(place) : place;
  // Update u begins with the pair whose first row is at or past u / updates of all rows, but leaves
  // at least one pair for itself and for every update before and after it.
  first_place_.assign(static_cast<std::size_t>(steps_per_epoch_) + 1, pairs());
  first_place_[0] = 0;
  std::int64_t rows = 0, update = 1;
  for (std::int64_t place = 0; place < pairs() && update < steps_per_epoch_; ++place) {
    const std::int64_t least = first_place_[static_cast<std::size_t>(update) - 1] + 1;
    const std::int64_t most = pairs() - (steps_per_epoch_ - update);
    // rows_ * update / steps_per_epoch_, rounded up, without overflow.
    const std::int64_t whole = rows_ / steps_per_epoch_, rest = rows_ % steps_per_epoch_;
    const bool reached =
        rows >= whole * update + (rest * update + steps_per_epoch_ - 1) / steps_per_epoch_;
    if (place >= least && (reached || place == most))
      first_place_[static_cast<std::size_t>(update++)] = place;
    rows += target_rows(order_[static_cast<std::size_t>(place)]);
  }
  epoch_ = epoch;
}

PairPlan PairSampler::plan(std::int64_t step) const {
  check(step >= 0, "the plan of step {}", step);
  PairPlan plan{.step = step, .pairs = {}, .target_begin = {0}, .source_begin = {0}};
  if (!shuffled_ && step >= steps_per_epoch_) return plan;
  enter_epoch(step / steps_per_epoch_);
  const auto update = static_cast<std::size_t>(step % steps_per_epoch_);
  for (std::int64_t place = first_place_[update]; place < first_place_[update + 1]; ++place) {
    const std::int64_t pair = order_[static_cast<std::size_t>(place)];
    plan.pairs.push_back(pair);
    plan.target_begin.push_back(plan.target_begin.back() + target_rows(pair));
    plan.source_begin.push_back(plan.source_begin.back() + stream_.source_length(pair));
  }
  return plan;
}

TokenBatch PairSampler::batch(const PairPlan& plan, std::int64_t begin, std::int64_t end) const {
  check(begin >= 0 && begin <= end && end <= std::ssize(plan.pairs),
        "entries [{}, {}) of a plan of {}", begin, end, plan.pairs.size());
  TokenBatch batch;
  batch.step = plan.step;
  batch.update_target_count = plan.target_count();
  batch.segment_offsets.push_back(0);
  batch.source_offsets.push_back(0);
  std::vector<std::int32_t> tokens;
  for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
    const std::int64_t pair = plan.pairs[i];
    const std::int64_t first = stream_.target.document_begin(pair), rows = target_rows(pair);
    tokens.resize(static_cast<std::size_t>(rows + 1));
    stream_.target.copy_tokens(first, first + rows + 1, tokens.data());
    batch.inputs.insert(batch.inputs.end(), tokens.begin(), tokens.end() - 1);
    batch.targets.insert(batch.targets.end(), tokens.begin() + 1, tokens.end());
    for (std::int64_t row = 0; row < rows; ++row) {
      batch.positions.push_back(static_cast<std::int32_t>(row));
      batch.row_ids.push_back(plan.target_begin[i] + row);
    }
    batch.segment_offsets.push_back(batch.rows());

    const std::int64_t source = stream_.source.document_begin(pair);
    const std::int64_t length = stream_.source_length(pair);
    const std::size_t place = batch.source_inputs.size();
    batch.source_inputs.resize(place + static_cast<std::size_t>(length));
    stream_.source.copy_tokens(source, source + length, batch.source_inputs.data() + place);
    for (std::int64_t row = 0; row < length; ++row) {
      batch.source_positions.push_back(static_cast<std::int32_t>(row));
      batch.source_row_ids.push_back(plan.source_begin[i] + row);
    }
    batch.source_offsets.push_back(std::ssize(batch.source_inputs));
    batch.sample_ids.push_back(pair);
  }
  batch.target_count = batch.rows();
  return batch;
}

std::vector<std::int64_t> deal_pairs(const PairPlan& plan, int rank, int ranks,
                                     std::int64_t micro_batch_tokens) {
  check(ranks > 0 && rank >= 0 && rank < ranks, "rank {} of {}", rank, ranks);
  std::vector<std::int64_t> mine;
  std::size_t most = 0;
  for (int r = 0; r < ranks; ++r) {
    const auto cuts = micro_cuts(plan, slice_begin(plan, r, ranks), slice_begin(plan, r + 1, ranks),
                                 micro_batch_tokens);
    most = std::max(most, cuts.size());
    if (r == rank) mine = cuts;
  }
  mine.resize(most, mine.back());
  return mine;
}

}  // namespace t2r
