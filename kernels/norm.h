// LayerNorm and RMSNorm over the columns of each row. Statistics in accumulate_dtype.
#pragma once

#include "core/base/tensor.h"

namespace t2r {

/// y = (x - mean) * rstd * weight + bias, rstd = 1 / sqrt(var + eps) (Ba et al. 2016).
/// x, y (rows, columns); weight, bias (columns); mean, rstd (rows) are kept for backward.
void layer_norm_forward(Queue queue, Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor weight,
                        Tensor bias, double eps);
/// dx = gradient of x, += when `accumulate` (the residual path's gradient is already there);
/// dweight, dbias +=, or both empty where they are not wanted.
void layer_norm_backward(Queue queue, Tensor dx, Tensor dweight, Tensor dbias, Tensor dy, Tensor x,
                         Tensor weight, Tensor mean, Tensor rstd, bool accumulate);

/// y = x * rstd * weight, rstd = 1 / sqrt(mean(x^2) + eps) (Zhang and Sennrich 2019).
void rms_norm_forward(Queue queue, Tensor y, Tensor rstd, Tensor x, Tensor weight, double eps);
/// dx =, or += when `accumulate`; dweight +=, or empty where it is not wanted.
void rms_norm_backward(Queue queue, Tensor dx, Tensor dweight, Tensor dy, Tensor x, Tensor weight,
                       Tensor rstd, bool accumulate);

}  // namespace t2r
