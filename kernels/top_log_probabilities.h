// The likeliest tokens of each row of logits, for searches.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/tensor.h"

namespace t2r {

/// Of one row: tokens and their natural log-probabilities, best first.
struct TopTokens {
  std::vector<std::int32_t> tokens;
  std::vector<double> log_probabilities;
  double log_normalizer = 0;          // log of the sum of exp(logit)
  double wanted_log_probability = 0;  // of the token that was asked for
};

/// The `count` likeliest tokens (all, when there are fewer) of each row of logits (rows,
/// vocabulary), fp32 or fp64, and the log-probability of the token `wanted`. Ties go to the lower
/// id. Throws where a row has no finite maximum.
std::vector<TopTokens> top_log_probabilities(Queue queue, Tensor logits, std::int64_t count,
                                             std::int32_t wanted);

/// The log-probability of `token` in a row whose sums `row_sums` holds.
double log_probability(Tensor logits, std::int64_t row, const TopTokens& row_sums,
                       std::int32_t token);

}  // namespace t2r
