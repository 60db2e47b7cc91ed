// How the flat span of gradients is cut into buckets, and with a sharded optimizer each bucket into
// parts that belong to one rank each.
#pragma once

#include <cstdint>
#include <vector>

namespace t2r {

struct Range {
  std::int64_t begin = 0, end = 0;  // elements of the span
  std::int64_t size() const { return end - begin; }
  bool operator==(const Range&) const = default;
};

/// Buckets of at least `bucket_elements`, from the tail to the beginning, that end at the offsets
/// where backward finishes (`offsets`, falling); the last one may be smaller. Where they lie
/// depends on the model and the size only: the same sums, bit for bit, in every step and run.
std::vector<Range> cut_buckets(std::int64_t span, const std::vector<std::int64_t>& offsets,
                               std::int64_t bucket_elements);

/// The equal parts of the ranks lie one after the other at the front of a bucket.
inline Range part_of_bucket(const Range& bucket, int rank, int ranks) {
  const std::int64_t part = bucket.size() / ranks;
  return {bucket.begin + rank * part, bucket.begin + (rank + 1) * part};
}

/// What is left behind them: fewer elements than ranks, kept by all.
inline Range rest_of_bucket(const Range& bucket, int ranks) {
  return {bucket.begin + bucket.size() / ranks * ranks, bucket.end};
}

}  // namespace t2r
