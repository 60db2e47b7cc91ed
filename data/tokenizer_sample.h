// The text that a tokenizer is trained on: all lines, or a random share where there is much.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "data/tokenizer.h"

namespace t2r {

/// More text than a few tens of megabytes hardly changes the pieces: beyond, lines are drawn.
class TokenizerSample {
 public:
  /// `total_bytes`: of all lines that will be added. The draw is keyed by (seed, line).
  TokenizerSample(std::int64_t total_bytes, std::uint64_t seed);
  /// Adds the lines of `text`.
  void add(std::string_view text);
  /// Trains on what was drawn, writes the model to `path` and loads it; says what it does, and
  /// warns where the text yields fewer entries than asked for.
  Tokenizer train(const SentencePieceTraining& training, const std::string& path) const;

 private:
  std::int64_t total_bytes_;
  std::uint64_t seed_, number_ = 0;
  std::string text_;
};

}  // namespace t2r
