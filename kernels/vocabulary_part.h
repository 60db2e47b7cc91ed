// Which entries of a vocabulary a table of embeddings, or a row of logits, has.
#pragma once

#include <cstdint>

namespace t2r {

/// The entries from `first` on of a vocabulary of `whole` entries.
struct VocabularyPart {
  std::int64_t first = 0;
  std::int64_t whole = -1;  // -1: all of it is here

  /// The column of an entry among the `columns` that are here, or -1.
  std::int64_t column_of(std::int32_t entry, std::int64_t columns) const {
    const std::int64_t column = entry - first;
    return 0 <= column && column < columns ? column : -1;
  }
};

}  // namespace t2r
