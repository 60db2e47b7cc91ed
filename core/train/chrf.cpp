#include "core/train/chrf.h"

#include <fmt/format.h>

#include <vector>

#include "core/train/ngram_matches.h"
#include "core/train/sentence_pairs.h"
#include "core/train/unicode_text.h"

namespace t2r {
namespace {

constexpr std::size_t kOrder = 6;
constexpr double kBetaSquared = 4;

std::vector<std::uint32_t> characters_of(const std::string& sentence, bool lowercase) {
  std::vector<std::uint32_t> out;
  for (const char32_t c : decode_utf8(lowercase ? lower_case(sentence) : sentence))
    if (!is_white_space(c)) out.push_back(c);
  return out;
}

NgramMatches count(std::span<const std::string> hypotheses, std::span<const std::string> references,
                   bool lowercase) {
  NgramMatches sums;
  for (std::size_t i = 0; i < hypotheses.size(); ++i) {
    const NgramMatches matches = match_ngrams(characters_of(hypotheses[i], lowercase),
                                              characters_of(references[i], lowercase), kOrder);
    for (std::size_t n = 0; n < kOrder; ++n) {
      // A reference too short for the order says nothing about the hypothesis either.
      if (matches.second[n] > 0) sums.first[n] += matches.first[n];
      sums.second[n] += matches.second[n];
      sums.both[n] += matches.both[n];
    }
  }
  return sums;
}

double f_score(const NgramMatches& sums) {
  double precision = 0, recall = 0;
  int orders = 0;
  for (std::size_t n = 0; n < kOrder; ++n) {
    if (sums.first[n] == 0 || sums.second[n] == 0) continue;
    precision += static_cast<double>(sums.both[n]) / static_cast<double>(sums.first[n]);
    recall += static_cast<double>(sums.both[n]) / static_cast<double>(sums.second[n]);
    ++orders;
  }
  if (precision + recall == 0) return 0;
  precision /= orders;
  recall /= orders;
  return 100 * (1 + kBetaSquared) * precision * recall / (kBetaSquared * precision + recall);
}

}  // namespace

ChrfResult corpus_chrf(std::span<const std::string> hypotheses,
                       std::span<const std::string> references, bool lowercase) {
  check_sentence_pairs(hypotheses, references);
  return {f_score(count(hypotheses, references, lowercase)),
          fmt::format("nrefs:1|case:{}|eff:yes|nc:{}|nw:0|space:no|version:t2r",
                      lowercase ? "lc" : "mixed", kOrder)};
}

}  // namespace t2r
