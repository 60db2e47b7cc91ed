// AdamW (Loshchilov and Hutter 2019) over one span of the arena.
#pragma once

#include <cstdint>

#include "core/base/tensor.h"

namespace t2r {

struct AdamWStep {
  double learning_rate = 0;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double weight_decay = 0;  // decoupled: multiplied by the learning rate
  double grad_scale = 1;    // gradients are multiplied by this first (clipping)
  std::int64_t step = 1;    // counts from 1, for the bias correction
};

/// values, master, grads, m, v: spans of equal length. values has the storage dtype; the others
/// accumulate_dtype; master may be the same memory as values when the dtypes agree.
void adamw(Queue queue, Tensor values, Tensor master, Tensor grads, Tensor m, Tensor v,
           const AdamWStep& step);

}  // namespace t2r
