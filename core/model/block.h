// One transformer block: x + attention(norm(x)), then x + feed_forward(norm(x)) (pre-norm).
#pragma once

#include "core/model/attention.h"
#include "core/model/layers.h"

namespace t2r {

/// What backward needs of a pass through a block.
struct BlockActivations {
  bool dropped = false;  // by LayerDrop: nothing else is set
  Tensor input, attention_input, middle, ffn_input, ffn_hidden, ffn_active;
  NormStats attention_norm, ffn_norm;
  AttentionActivations attention;
};

class Block {
 public:
  Block(ParamStore& params, const ModelConfig& config, std::int64_t layer);
  void bind(const ParamStore& params);

  /// x (rows, hidden) -> the returned tensor, both kept in step.activations. `final` as in
  /// Attention::forward.
  Tensor forward(Step& step, const ParamStore& params, Tensor x, const Batch& batch,
                 BlockActivations* kept, LinearState final = {}) const;
  /// dx (rows, hidden) is turned from the output's gradient into the input's.
  void backward(Step& step, const ParamStore& params, Tensor dx, const Batch& batch,
                const BlockActivations& kept) const;

  /// Elements of the arena before this block's first parameter.
  std::int64_t first_offset(const ParamStore& params) const { return params.offset(first_); }

  const NormLayer& attention_norm() const { return attention_norm_; }
  const NormLayer& ffn_norm() const { return ffn_norm_; }
  const Attention& attention() const { return attention_; }
  /// y = feed_forward(x); hidden and active are buffers that backward needs.
  void ffn_forward(Step& step, const ParamStore& params, Tensor y, Tensor x, Tensor hidden,
                   Tensor active, const std::int64_t* row_ids) const;
  std::int64_t ffn_hidden_size() const;  // twice ffn_size for SwiGLU

 private:
  /// The number of a place where dropout acts, unique in the model.
  std::uint64_t site(std::uint64_t place) const {
    return static_cast<std::uint64_t>(layer_) * 8 + place;
  }

  ModelConfig config_;
  std::int64_t layer_ = 0;
  ParamId first_;
  NormLayer attention_norm_, ffn_norm_;
  Attention attention_;
  Linear ffn_in_, ffn_out_;
};

}  // namespace t2r
