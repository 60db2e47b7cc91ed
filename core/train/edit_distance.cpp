#include "core/train/edit_distance.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/train/sentence_pairs.h"
#include "core/train/unicode_text.h"

namespace t2r {

std::int64_t edit_distance(std::string_view a, std::string_view b) {
  const std::u32string from = decode_utf8(a), to = decode_utf8(b);
  // row[j]: from the first i code points of `from` to the first j of `to`.
  std::vector<std::int64_t> row(to.size() + 1);
  std::iota(row.begin(), row.end(), std::int64_t{0});
  for (std::size_t i = 0; i < from.size(); ++i) {
    std::int64_t diagonal = row[0]++;
    for (std::size_t j = 0; j < to.size(); ++j) {
      const std::int64_t replaced = diagonal + (from[i] == to[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, diagonal + 1, row[j] + 1});
    }
  }
  return row.back();
}

CharacterErrors corpus_character_errors(std::span<const std::string> hypotheses,
                                        std::span<const std::string> references, bool lowercase) {
  check_sentence_pairs(hypotheses, references);
  std::int64_t errors = 0, characters = 0, exact = 0;
  for (std::size_t i = 0; i < hypotheses.size(); ++i) {
    const std::string hypothesis = lowercase ? lower_case(hypotheses[i]) : hypotheses[i];
    const std::string reference = lowercase ? lower_case(references[i]) : references[i];
    errors += edit_distance(hypothesis, reference);
    characters += std::ssize(decode_utf8(reference));
    exact += hypothesis == reference;
  }
  const auto n = static_cast<double>(hypotheses.size());
  return {100 * static_cast<double>(errors) /
              static_cast<double>(std::max<std::int64_t>(1, characters)),
          100 * static_cast<double>(exact) / n};
}

}  // namespace t2r
