#include "core/train/bleu.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <unordered_map>
#include <vector>

#include "core/train/ngram_matches.h"
#include "core/train/sentence_pairs.h"
#include "core/train/unicode_text.h"

namespace t2r {
namespace {

constexpr std::size_t kOrder = 4;

using Tokenize = std::function<std::vector<std::string>(std::string_view)>;

/// Tokens as numbers: equal ones are equal over the whole corpus.
class TokenNumbers {
 public:
  std::vector<std::uint32_t> operator()(std::vector<std::string> tokens) {
    std::vector<std::uint32_t> numbers;
    numbers.reserve(tokens.size());
    for (std::string& token : tokens)
      numbers.push_back(
          numbers_.try_emplace(std::move(token), static_cast<std::uint32_t>(numbers_.size()))
              .first->second);
    return numbers;
  }

 private:
  std::unordered_map<std::string, std::uint32_t> numbers_;
};

/// Sums over the corpus.
struct Counts {
  std::array<std::int64_t, kOrder> correct{}, total{};
  std::int64_t hypothesis_length = 0, reference_length = 0;
};

Counts count(std::span<const std::string> hypotheses, std::span<const std::string> references,
             const Tokenize& tokenize, bool lowercase) {
  Counts counts;
  TokenNumbers numbers;
  const auto numbers_of = [&](const std::string& sentence) {
    return numbers(tokenize(lowercase ? lower_case(sentence) : sentence));
  };
  for (std::size_t i = 0; i < hypotheses.size(); ++i) {
    const auto hypothesis = numbers_of(hypotheses[i]), reference = numbers_of(references[i]);
    const NgramMatches matches = match_ngrams(hypothesis, reference, kOrder);
    for (std::size_t n = 0; n < kOrder; ++n) {
      counts.correct[n] += matches.both[n];
      counts.total[n] += matches.first[n];
    }
    counts.hypothesis_length += static_cast<std::int64_t>(hypothesis.size());
    counts.reference_length += static_cast<std::int64_t>(reference.size());
  }
  return counts;
}

double brevity_penalty(const Counts& counts) {
  if (counts.hypothesis_length >= counts.reference_length) return 1;
  if (counts.hypothesis_length == 0) return 0;
  return std::exp(1 - static_cast<double>(counts.reference_length) /
                          static_cast<double>(counts.hypothesis_length));
}

std::array<double, kOrder> precisions(const Counts& counts, bool smooth) {
  std::array<double, kOrder> out{};
  // With no match at all there is nothing to smooth.
  if (std::ranges::all_of(counts.correct, [](std::int64_t c) { return c == 0; })) return out;
  double divisor = 1;
  for (std::size_t n = 0; n < kOrder && counts.total[n] > 0; ++n) {
    const auto total = static_cast<double>(counts.total[n]);
    if (counts.correct[n] > 0)
      out[n] = 100 * static_cast<double>(counts.correct[n]) / total;
    else if (smooth)
      out[n] = 100 / ((divisor *= 2) * total);
  }
  return out;
}

BleuResult bleu_of(const Counts& counts, bool smooth) {
  BleuResult result;
  result.precisions = precisions(counts, smooth);
  result.brevity_penalty = brevity_penalty(counts);
  result.hypothesis_length = counts.hypothesis_length;
  result.reference_length = counts.reference_length;
  double logarithms = 0;
  for (const double precision : result.precisions) logarithms += std::log(precision);
  result.score = result.brevity_penalty * std::exp(logarithms / kOrder);  // log 0: exp(-inf) = 0
  return result;
}

BleuResult score(std::span<const std::string> hypotheses, std::span<const std::string> references,
                 const Tokenize& tokenize, std::string_view tokenizer_name, bool lowercase,
                 bool smooth) {
  check_sentence_pairs(hypotheses, references);
  BleuResult result = bleu_of(count(hypotheses, references, tokenize, lowercase), smooth);
  result.signature =
      fmt::format("nrefs:1|case:{}|eff:no|tok:{}|smooth:{}|version:t2r", lowercase ? "lc" : "mixed",
                  tokenizer_name, smooth ? "exp" : "none");
  return result;
}

}  // namespace

BleuResult corpus_bleu(std::span<const std::string> hypotheses,
                       std::span<const std::string> references, const BleuOptions& options) {
  return score(hypotheses, references, ScoreTokenizer(options.tokenization),
               name_of(options.tokenization), options.lowercase, true);
}

BleuResult compound_split_bleu(std::span<const std::string> hypotheses,
                               std::span<const std::string> references, bool lowercase,
                               bool tokenised) {
  return score(hypotheses, references, CompoundTokenizer(tokenised),
               tokenised ? "none+compound-split" : "13a+compound-split", lowercase, false);
}

}  // namespace t2r
