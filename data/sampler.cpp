// The keyed permutation, and windows of the token stream as batches.
#include "data/sampler.h"

#include <algorithm>
#include <array>
#include <bit>

#include "core/base/error.h"
#include "core/base/random.h"

namespace t2r {
namespace {

constexpr int kFeistelRounds = 6;
constexpr std::uint64_t kPermutationStream = 0x7065726D75746521;  // "permute!"

constexpr std::array kPackingNames{std::pair{Packing::documents, std::string_view("documents")},
                                   std::pair{Packing::contiguous, std::string_view("contiguous")}};

}  // namespace

Permutation::Permutation(std::uint64_t seed, std::uint64_t epoch, std::int64_t n)
    : seed_(seed), epoch_(epoch), n_(n) {
  check(n > 0, "a permutation of {} elements", n);
  // The network permutes 2^(2 half_bits) >= n values: fewer than 4 n, so the walk is short.
  const int bits = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(n - 1)));
  half_bits_ = std::max(1, (bits + 1) / 2);
}

std::int64_t Permutation::operator()(std::int64_t i) const {
  check(i >= 0 && i < n_, "element {} of a permutation of {}", i, n_);
  const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
  auto value = static_cast<std::uint64_t>(i);
  do {
    std::uint64_t left = value >> half_bits_, right = value & mask;
    for (std::uint64_t round = 0; round < kFeistelRounds; ++round) {
      const auto bits = random_bits(seed_, kPermutationStream ^ epoch_, round << 32 | right);
      const std::uint64_t next = left ^ (bits[0] & mask);
      left = right;
      right = next;
    }
    value = left << half_bits_ | right;
  } while (value >= static_cast<std::uint64_t>(n_));
  return static_cast<std::int64_t>(value);
}

Packing parse_packing(std::string_view name) {
  for (const auto& [packing, text] : kPackingNames)
    if (name == text) return packing;
  fail_usage("unknown packing '{}': choose documents or contiguous", name);
}

std::string_view name_of(Packing packing) {
  for (const auto& [value, text] : kPackingNames)
    if (value == packing) return text;
  return "";
}

Sampler::Sampler(TokenStream stream, std::int64_t sequence_length, Packing packing,
                 std::int64_t global_batch_sequences, std::uint64_t seed)
    : stream_(std::move(stream)),
      sequence_length_(sequence_length),
      packing_(packing),
      global_batch_(global_batch_sequences),
      seed_(seed) {
  check_usage(sequence_length > 0 && sequence_length <= (std::int64_t{1} << 30),
              "a sequence length of {}: at least 1 is needed", sequence_length);
  check_usage(global_batch_sequences > 0 && global_batch_sequences <= (std::int64_t{1} << 30),
              "a batch of {} sequences: at least 1 is needed", global_batch_sequences);
  check(stream_.tokens() >= 2, "the split has {} tokens: at least 2 are needed to predict one",
        stream_.tokens());
  windows_ = (stream_.tokens() - 1 + sequence_length - 1) / sequence_length;
}

Sampler Sampler::in_order(TokenStream stream, std::int64_t sequence_length, Packing packing,
                          std::int64_t global_batch_sequences) {
  Sampler sampler(std::move(stream), sequence_length, packing, global_batch_sequences, 0);
  sampler.shuffled_ = false;
  return sampler;
}

WindowPlan Sampler::plan(std::int64_t step) const {
  check(step >= 0, "the plan of step {}", step);
  WindowPlan plan{.step = step, .sample_ids = {}, .target_count = 0};
  for (std::int64_t i = 0; i < global_batch_; ++i) {
    const std::int64_t sample = step * global_batch_ + i;
    if (!shuffled_ && sample >= windows_) break;
    const std::int64_t epoch = sample / windows_, place = sample % windows_;
    const std::int64_t window =
        shuffled_ ? Permutation(seed_, static_cast<std::uint64_t>(epoch), windows_)(place) : place;
    plan.sample_ids.push_back(window);
    plan.target_count += target_count(window);
  }
  return plan;
}

std::int64_t Sampler::target_count(std::int64_t window) const {
  check(window >= 0 && window < windows_, "window {} of {}", window, windows_);
  const std::int64_t begin = window * sequence_length_;
  const std::int64_t end = std::min(begin + sequence_length_, stream_.tokens() - 1);
  if (packing_ == Packing::contiguous) return end - begin;
  // Each document that ends inside the window has one row there that predicts nothing.
  return end - begin - (stream_.document_of(end) - stream_.document_of(begin));
}

TokenBatch Sampler::batch(const WindowPlan& plan, std::int64_t begin, std::int64_t end) const {
  check(begin >= 0 && begin <= end && end <= std::ssize(plan.sample_ids),
        "entries [{}, {}) of a plan of {}", begin, end, plan.sample_ids.size());
  TokenBatch batch;
  batch.segment_offsets.push_back(0);
  batch.step = plan.step;
  batch.update_target_count = plan.target_count;
  const auto rows = static_cast<std::size_t>((end - begin) * sequence_length_);
  batch.inputs.reserve(rows);
  batch.targets.reserve(rows);
  batch.positions.reserve(rows);
  batch.row_ids.reserve(rows);
  for (std::int64_t i = begin; i < end; ++i)
    append_window(batch, plan.sample_ids[static_cast<std::size_t>(i)], i);
  return batch;
}

void Sampler::append_window(TokenBatch& batch, std::int64_t window, std::int64_t plan_index) const {
  const std::int64_t begin = window * sequence_length_;
  const std::int64_t rows = std::min(sequence_length_, stream_.tokens() - 1 - begin);
  // One copy gives inputs and, shifted by one, targets: token begin + rows exists.
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(rows + 1));
  stream_.copy_tokens(begin, begin + rows + 1, tokens.data());
  const std::int64_t first_row = batch.rows();
  batch.inputs.insert(batch.inputs.end(), tokens.begin(), tokens.end() - 1);
  batch.targets.insert(batch.targets.end(), tokens.begin() + 1, tokens.end());
  for (std::int64_t row = 0; row < rows; ++row)
    batch.row_ids.push_back(plan_index * sequence_length_ + row);

  const bool cut = packing_ == Packing::documents;
  std::int64_t document = cut ? stream_.document_of(begin) : 0;
  for (std::int64_t row = 0; row < rows;) {
    std::int64_t segment_end = rows;
    bool document_ends = false;  // with the last row of this segment
    if (cut) {
      const std::int64_t next = stream_.document_begin(++document) - begin;
      segment_end = std::min(rows, next);
      document_ends = next <= rows;
    }
    for (std::int64_t position = 0; row < segment_end; ++row, ++position)
      batch.positions.push_back(static_cast<std::int32_t>(position));
    if (document_ends) batch.targets[static_cast<std::size_t>(first_row + segment_end - 1)] = -1;
    batch.target_count -= document_ends;
    batch.segment_offsets.push_back(first_row + segment_end);
  }
  batch.target_count += rows;
  batch.sample_ids.push_back(window);
}

}  // namespace t2r
