#include "dist/bucket_plan.h"

#include <algorithm>

#include "core/base/error.h"

namespace t2r {

std::vector<Range> cut_buckets(std::int64_t span, const std::vector<std::int64_t>& offsets,
                               std::int64_t bucket_elements) {
  check(bucket_elements > 0, "buckets of {} elements: there must be at least one", bucket_elements);
  std::vector<Range> buckets;
  std::int64_t end = span, last = span;
  for (const std::int64_t offset : offsets) {
    check(0 <= offset && offset <= last,
          "gradients are ready from element {} after {} of {}: backward must finish them from the "
          "end to the beginning",
          offset, last, span);
    last = offset;
    if (end - offset < bucket_elements) continue;
    buckets.push_back({offset, end});
    end = offset;
  }
  if (end > 0) buckets.push_back({0, end});
  return buckets;
}

}  // namespace t2r
