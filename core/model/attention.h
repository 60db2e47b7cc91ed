// Causal self-attention with one switch a layer: softmax, or linear recurrent attention (the swap).
#pragma once

#include <string>

#include "core/model/layers.h"
#include "kernels/softmax_attention.h"

namespace t2r {

/// What backward needs of a pass through attention.
struct AttentionActivations {
  Tensor qkv;                           // (rows, (heads + 2 kv_heads) d), rotated where rotary
  Tensor query_features, key_features;  // (rows, heads k): linear only
  Tensor context;                       // (rows, heads d): before the output projection
  Tensor statistics;                    // (rows, heads): log-sum-exp, or the denominator
};

class Attention {
 public:
  Attention() = default;
  Attention(ParamStore& params, const std::string& name, const ModelConfig& config,
            std::int64_t layer);
  void bind(const ParamStore& params);

  /// y (rows, hidden) = attention(x). Where `final` is given (linear layers) the state after each
  /// segment goes there.
  void forward(Step& step, const ParamStore& params, Tensor y, Tensor x, const Batch& batch,
               AttentionActivations* kept, LinearState final = {}) const;
  /// dx (rows, hidden) =.
  void backward(Step& step, const ParamStore& params, Tensor dx, Tensor dy, Tensor x,
                const Batch& batch, const AttentionActivations& kept) const;

  bool linear() const { return linear_; }
  const ModelConfig& config() const { return config_; }
  const Linear& projection() const { return qkv_; }
  const Linear& output() const { return output_; }
  FeatureMapWeights map_weights(const ParamStore& params) const;
  /// The heads' decay factors in accumulate_dtype from `arena`, or an empty tensor.
  Tensor gamma(const ParamStore& params, Arena& arena) const;
  AttentionShape softmax_shape() const;
  LinearAttentionShape linear_shape() const;
  double scale() const;

 private:
  ModelConfig config_;
  std::int64_t layer_ = 0;
  bool linear_ = false;
  Linear qkv_, output_;
  ParamId map_weight_, map_bias_, decay_;
};

}  // namespace t2r
