// Ragged sequences: all tokens of a batch lie in one row range, one segment after the other. There
// is no padding anywhere, so nothing can leak through it.
#pragma once

#include <cstdint>

namespace t2r {

/// Segment s holds rows [offsets[s], offsets[s + 1]); offsets has count + 1 entries.
struct Segments {
  std::int64_t count = 0;
  const std::int64_t* offsets = nullptr;

  std::int64_t rows() const { return count ? offsets[count] : 0; }
  std::int64_t length(std::int64_t s) const { return offsets[s + 1] - offsets[s]; }
};

}  // namespace t2r
