// Choosing the next token from logits.
#pragma once

#include <cstdint>

#include "core/base/tensor.h"

namespace t2r {

struct SamplingOptions {
  double temperature = 0;  // 0: greedy
  std::int64_t top_k = 0;  // 0: all
  double top_p = 1;        // nucleus (Holtzman et al. 2020)
  std::uint64_t seed = 0;
};

/// The next token for row `row` of logits (batch, vocabulary), drawn with random numbers keyed by
/// (seed, sequence, position): the same whatever else is in the batch. Ties go to the lower id.
std::int32_t sample_token(Tensor logits, std::int64_t row, const SamplingOptions& options,
                          std::uint64_t sequence, std::uint64_t position);

}  // namespace t2r
