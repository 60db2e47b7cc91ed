// Which entries of a vocabulary a table of embeddings, or a row of logits, has.
#pragma once

#include <cstdint>

namespace t2r {

/// The entries from `first` on of a vocabulary of `whole` entries.
struct VocabularyPart {
  std::int64_t first = 0;
  std::int64_t whole = -1;  // -1: all of it is here
};

}  // namespace t2r
