// Corpus BLEU (Papineni et al., 2002), with the numbers that the Python package sacrebleu prints.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>

#include "core/train/score_tokenizers.h"

namespace t2r {

struct BleuResult {
  double score = 0;                    // 0 to 100
  std::array<double, 4> precisions{};  // of 1-grams to 4-grams, 0 to 100, smoothed
  double brevity_penalty = 1;
  std::int64_t hypothesis_length = 0, reference_length = 0;  // tokens
  std::string signature;                                     // how it was counted, as sacrebleu's
};

struct BleuOptions {
  ScoreTokenization tokenization = ScoreTokenization::mteval13a;
  bool lowercase = false;
};

/// BLEU with n-grams up to 4, one reference a sentence, and smoothing "exp": the k-th order without
/// a match counts 2^-k matches (Chen and Cherry, 2014, method 3). Sentence N of both spans belongs
/// together. Throws as check_sentence_pairs() does.
BleuResult corpus_bleu(std::span<const std::string> hypotheses,
                       std::span<const std::string> references, const BleuOptions& options = {});

/// Tokenised BLEU with compounds split, as English-German is reported: CompoundTokenizer's tokens
/// (`tokenised`: the text is tokenised already), then BLEU without smoothing.
BleuResult compound_split_bleu(std::span<const std::string> hypotheses,
                               std::span<const std::string> references, bool lowercase = false,
                               bool tokenised = false);

}  // namespace t2r
