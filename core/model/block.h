// One transformer block: self-attention, in decoders of a source cross attention, and the
// feed-forward layer, each with a residual connection and a norm before it (or after the sum).
#pragma once

#include "core/model/attention.h"
#include "core/model/layers.h"

namespace t2r {

/// What backward needs of a residual connection: out = x + f(norm(x)), or norm(x + f(x)).
struct ResidualActivations {
  Tensor x;      // what came in
  Tensor input;  // of f
  Tensor sum;
  NormStats stats;
};

/// What backward needs of a pass through a block.
struct BlockActivations {
  bool dropped = false;  // by LayerDrop: nothing else is set
  ResidualActivations self, cross, ffn;
  AttentionActivations attention, cross_attention;
  Tensor ffn_hidden, ffn_active;
};

/// The output of an encoder, which decoder blocks read, and the rows it belongs to.
struct Memory {
  Tensor values;     // (source rows, hidden)
  TokenRows source;  // rows == 0 and no values: there is none
};

class Block {
 public:
  enum class Role : std::uint8_t { language_model, encoder, decoder };

  Block(ParamStore& params, const ModelConfig& config, Role role, std::int64_t layer,
        const TensorParallel& parallel);
  void bind(const ParamStore& params);

  /// x (rows, hidden; with sequence parallelism the rows that are here) -> the returned tensor,
  /// both kept in step.activations. `memory` for decoders; `final` as in Attention::forward, of the
  /// self-attention.
  Tensor forward(Step& step, const ParamStore& params, Tensor x, const TokenRows& rows,
                 const Memory& memory, BlockActivations* kept, LinearState final = {}) const;
  /// dx (rows, hidden) is turned from the output's gradient into the input's. dmemory +=
  /// (decoders), this rank's part of a sum over tensor-parallel ranks.
  void backward(Step& step, const ParamStore& params, Tensor dx, const TokenRows& rows,
                const Memory& memory, Tensor dmemory, const BlockActivations& kept) const;

  /// Gradients before those of this block.
  std::int64_t first_offset(const ParamStore& params) const {
    return params.gradient_offset(first_);
  }
  /// Whether anything before this block, or in it too, is trained.
  bool trained_before(const ParamStore& params) const { return params.trained_before(first_); }
  bool wants_gradients(const ParamStore& params) const { return params.trained_before(last_); }

  /// Where backward has told a reducer that gradients are final, in that order.
  void add_ready_offsets(const ParamStore& params, std::vector<std::int64_t>& offsets) const;

  bool has_cross() const { return role_ == Role::decoder; }
  const NormLayer& attention_norm() const { return attention_norm_; }
  const NormLayer& cross_norm() const { return cross_norm_; }
  const NormLayer& ffn_norm() const { return ffn_norm_; }
  const Attention& attention() const { return attention_; }
  const Attention& cross_attention() const { return cross_attention_; }
  /// y = feed_forward(x); hidden and active are buffers that backward needs.
  void ffn_forward(Step& step, const ParamStore& params, Tensor y, Tensor x, Tensor hidden,
                   Tensor active, const std::int64_t* row_ids) const;
  std::int64_t ffn_hidden_size() const;                       // twice ffn_size for SwiGLU
  std::int64_t ffn_size() const { return config_.ffn_size; }  // of the columns that are here

 private:
  /// The number of a place where dropout acts, unique in the model.
  std::uint64_t site(std::uint64_t place) const { return site_layer_ * 8 + place; }
  void ffn_backward(Step& step, const ParamStore& params, Tensor dx, Tensor dy, Tensor x,
                    const TokenRows& rows, const BlockActivations& kept) const;

  Dropout hidden_dropout(const Step& step, const std::int64_t* row_ids) const;

  ModelConfig config_;  // with the heads and feed-forward columns that are here
  TensorParallel parallel_;
  Role role_ = Role::language_model;
  std::uint64_t site_layer_ = 0;  // encoder blocks are counted after the decoder's
  ParamId first_, last_;          // its parameters, last_ not included
  NormLayer attention_norm_, cross_norm_, ffn_norm_;
  Attention attention_, cross_attention_;
  Linear ffn_in_, ffn_out_;
};

}  // namespace t2r
