// Which windows of the token stream form which update. Everything is a function of (seed, step):
// every rank computes the same plan without communication, and a resumed run goes on where it was.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "data/batch.h"
#include "data/dataset.h"

namespace t2r {

/// A bijection on [0, n) keyed by (seed, epoch): a Feistel network whose round function is Philox,
/// walked until it lands inside [0, n) (Black and Rogaway 2002). No memory, O(1) a value.
class Permutation {
 public:
  Permutation(std::uint64_t seed, std::uint64_t epoch, std::int64_t n);
  std::int64_t operator()(std::int64_t i) const;
  std::int64_t size() const { return n_; }

 private:
  std::uint64_t seed_, epoch_;
  std::int64_t n_;
  int half_bits_;
};

/// documents: a window is cut at document ends into segments, and the last token of a document
/// predicts nothing. contiguous: a window is one segment and documents run into each other.
enum class Packing : std::uint8_t { documents, contiguous };

/// "documents" or "contiguous"; anything else is a usage error.
Packing parse_packing(std::string_view name);
std::string_view name_of(Packing packing);

/// The windows of one update, over all ranks.
struct WindowPlan {
  std::int64_t step = 0;
  std::vector<std::int64_t> sample_ids;
  std::int64_t target_count = 0;  // rows that predict something
};

/// Window i has the inputs [i * T, i * T + T) of the stream and their next tokens as targets; the
/// last window may be shorter (at least one input). T is the sequence length.
class Sampler {
 public:
  /// Shuffled, epoch after epoch. Throws when the stream has fewer than two tokens.
  Sampler(TokenStream stream, std::int64_t sequence_length, Packing packing,
          std::int64_t global_batch_sequences, std::uint64_t seed);
  /// Windows 0, 1, ... in order, each once: for evaluation. Plans past the end are empty.
  static Sampler in_order(TokenStream stream, std::int64_t sequence_length, Packing packing,
                          std::int64_t global_batch_sequences);

  std::int64_t windows() const { return windows_; }
  std::int64_t sequence_length() const { return sequence_length_; }
  std::int64_t global_batch_sequences() const { return global_batch_; }
  bool shuffled() const { return shuffled_; }
  /// Updates (in order: plans that are not empty) that see every window once, rounded up.
  std::int64_t steps_per_epoch() const { return (windows_ + global_batch_ - 1) / global_batch_; }

  WindowPlan plan(std::int64_t step) const;
  /// Rows of a window that predict something.
  std::int64_t target_count(std::int64_t window) const;
  /// Entries [begin, end) of the plan as a batch. Row ids are (place in the plan) * T + (place in
  /// the window), whatever `begin` is.
  TokenBatch batch(const WindowPlan& plan, std::int64_t begin, std::int64_t end) const;

 private:
  void append_window(TokenBatch& batch, std::int64_t window, std::int64_t plan_index) const;

  TokenStream stream_;
  std::int64_t sequence_length_;
  Packing packing_;
  std::int64_t global_batch_;
  std::uint64_t seed_ = 0;
  bool shuffled_ = true;
  std::int64_t windows_ = 0;
};

}  // namespace t2r
