// N-grams that two sequences share, of all orders at once: what BLEU and chrF count.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace t2r {

constexpr std::size_t kMaxNgramOrder = 6;

/// [n - 1] holds n-grams; occurrences count, not kinds. A shared n-gram counts as often as it
/// occurs in the sequence where it is rarer.
struct NgramMatches {
  std::array<std::int64_t, kMaxNgramOrder> first{}, second{}, both{};
};

/// The n-grams of two sequences up to `order` (at most kMaxNgramOrder). Symbols are below 2^32 - 1.
/// Time n log n in the length.
NgramMatches match_ngrams(std::span<const std::uint32_t> first,
                          std::span<const std::uint32_t> second, std::size_t order);

}  // namespace t2r
