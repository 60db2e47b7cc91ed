// Errors a character, as transliteration and speech recognition count them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace t2r {

/// Fewest code points to insert, delete or replace that turn one text into the other (Levenshtein,
/// 1966). Both are valid UTF-8.
std::int64_t edit_distance(std::string_view a, std::string_view b);

struct CharacterErrors {
  double error_rate = 0;   // edit distances over code points of the references, times 100
  double exact_match = 0;  // share of sentences without an error, times 100
};

/// Sentence N of both spans belongs together. Throws as check_sentence_pairs() does.
CharacterErrors corpus_character_errors(std::span<const std::string> hypotheses,
                                        std::span<const std::string> references,
                                        bool lowercase = false);

}  // namespace t2r
