// Corpus chrF (Popovic, 2015), with the numbers that the Python package sacrebleu prints.
#pragma once

#include <span>
#include <string>

namespace t2r {

struct ChrfResult {
  double score = 0;       // 0 to 100
  std::string signature;  // how it was counted, as sacrebleu's
};

/// The F-score with recall twice as heavy as precision (beta 2) of character n-grams up to 6, white
/// space left out; precision and recall are averages over the orders that occur. Sentence N of both
/// spans belongs together. Throws as check_sentence_pairs() does.
ChrfResult corpus_chrf(std::span<const std::string> hypotheses,
                       std::span<const std::string> references, bool lowercase = false);

}  // namespace t2r
