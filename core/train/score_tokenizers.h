// How translation scores cut a sentence into tokens: the published rules under the names that
// sacrebleu gives them, so that scores can be set beside published ones.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/train/text_rewrite.h"

namespace t2r {

enum class ScoreTokenization {
  mteval13a,      // "13a": NIST's mteval-v13a.pl, for European languages
  chinese,        // "zh": a CJK character is a token, the rest as 13a
  international,  // "intl": NIST's mteval-v14.pl, by Unicode's punctuation, symbols, numbers
  characters,     // "char": a character is a token
  none,           // "none": the text is tokenised already; tokens lie between white space
};

/// "13a", "zh", "intl", "char" or "none"; anything else is a usage error.
ScoreTokenization parse_score_tokenization(std::string_view name);
std::string_view name_of(ScoreTokenization tokenization);

/// Not for several threads at once.
class ScoreTokenizer {
 public:
  explicit ScoreTokenizer(ScoreTokenization tokenization);
  /// The tokens of a sentence in valid UTF-8. White space is never part of one, white space at the
  /// end never matters.
  std::vector<std::string> operator()(std::string_view sentence) const;

 private:
  ScoreTokenization tokenization_;
  std::vector<TextRewrite> rules_;
};

/// Tokens as the Moses tokenizer makes them, nearly, and then compounds split, for BLEU as Vaswani
/// et al. (2017) and Kasai et al. (2021) report it on English-German:
/// 1. the rules of 13a but for its last one, which would cut a hyphen from the digit before it
///    (unlike Moses: no list of abbreviations, no cut at apostrophes, no entities for < > & " '),
///    or nothing when the text is `tokenised` already;
/// 2. a hyphen between letters or digits, x-y, becomes three tokens: x ##AT##-##AT## y.
class CompoundTokenizer {
 public:
  explicit CompoundTokenizer(bool tokenised);
  std::vector<std::string> operator()(std::string_view sentence) const;

 private:
  bool tokenised_;
  std::vector<TextRewrite> rules_;
};

}  // namespace t2r
