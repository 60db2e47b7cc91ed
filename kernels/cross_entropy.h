// Cross-entropy with label smoothing over rows of logits, gradient in place.
#pragma once

#include <cstdint>

#include "core/base/tensor.h"

namespace t2r {

/// What a row with this target contributes: nothing.
constexpr std::int32_t kIgnoredTarget = -1;

struct CrossEntropySums {
  double loss = 0;        // nats, label smoothing included, summed over rows
  double nll = 0;         // nats, -log p(target), summed over rows
  std::int64_t rows = 0;  // that were not ignored
};

/// loss of a row = -(1 - smoothing) log p[target] - smoothing * mean over vocabulary of log p.
/// logits (rows, vocabulary), accumulate_dtype or the storage dtype. When `dlogits` is given (it
/// may be logits itself; any dtype) it becomes grad_scale * d loss / d logits, zero for ignored
/// rows.
CrossEntropySums cross_entropy(Queue queue, Tensor logits, const std::int32_t* targets,
                               double smoothing, double grad_scale, Tensor dlogits);

}  // namespace t2r
