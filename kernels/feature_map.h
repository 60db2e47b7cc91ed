// phi: the maps that turn queries and keys into features, one per head, forward and backward.
#pragma once

#include <cstdint>

#include "core/base/tensor.h"

namespace t2r {

enum class FeatureMap : std::uint8_t {
  t2r,      // relu(W x + b), learned (Kasai et al. 2021); any k
  elu,      // elu(x) + 1 (Katharopoulos et al. 2020); k = head_dim, nothing to learn
  rfa,      // sqrt(2/k) [sin(W x'/s) ; cos(W x'/s)], x' = x / |x| (Peng et al. 2021); k even
  hedgehog  // [softmax(W x) ; softmax(-W x)], learned (Zhang et al. 2024); k even
};

/// Parameters of one layer's map. t2r: weight (heads, k, d), bias (heads, k). rfa: weight (heads,
/// k/2, d), not trained, bias (heads) = the learned scale s. hedgehog: weight (heads, k/2, d), no
/// bias. elu: both empty.
struct FeatureMapWeights {
  FeatureMap kind = FeatureMap::t2r;
  Tensor weight, bias;
};

/// y (rows, heads * k) = phi(scale * x) head by head; x (rows, input_heads * d), where input_heads
/// divides heads and head h reads input head h / (heads / input_heads). x and y may be column
/// ranges. rfa ignores `scale` (its input is normalised), and so does hedgehog.
void feature_map_forward(Queue queue, Tensor y, Tensor x, const FeatureMapWeights& weights,
                         std::int64_t heads, std::int64_t input_heads, double scale);
/// dx = (overwritten; summed over the heads that share an input head). dweights' tensors, in
/// accumulate_dtype, += (for rfa only bias; its weight gradient is ignored and may be empty; for
/// hedgehog only weight).
/// y is what forward returned.
void feature_map_backward(Queue queue, Tensor dx, FeatureMapWeights dweights, Tensor dy, Tensor y,
                          Tensor x, const FeatureMapWeights& weights, std::int64_t heads,
                          std::int64_t input_heads, double scale);

/// relu in place, the tail of a t2r map that was merged into the projection before it.
void relu_inplace(Queue queue, Tensor x);

}  // namespace t2r
