// Attention with one switch a layer: softmax, or linear recurrent attention (the swap). Causal
// self-attention, a bidirectional one for encoders, and cross attention of a decoder to a source.
#pragma once

#include <string>
#include <vector>

#include "core/model/layers.h"
#include "kernels/softmax_attention.h"

namespace t2r {

enum class AttentionKind : std::uint8_t { causal, bidirectional, cross };

/// What backward needs of a pass through attention.
struct AttentionActivations {
  // The projections, rotated where rotary: q (query rows, heads d), k and v (key rows, kv_heads d).
  // Self-attention has them side by side in one matrix, cross attention k and v.
  Tensor q, k, v;
  Tensor query_features, key_features;  // (rows, heads k): linear only
  Tensor context;                       // (query rows, heads d): before the output projection
  Tensor statistics;                    // (query rows, heads): log-sum-exp, or the denominator
  Tensor window, window_statistics;     // softmax attention to the window, where there is one
  LinearState initial;  // context-parallel: of the ranks before this one, linear only
};

class Attention {
 public:
  Attention() = default;
  /// `site`: number of the place in the model where this attention's dropout acts. Tensor-parallel
  /// ranks share out the heads, with their feature maps and states.
  Attention(ParamStore& params, const std::string& name, const ModelConfig& config,
            AttentionKind kind, bool linear, std::uint64_t site, const TensorParallel& parallel);
  void bind(const ParamStore& params);

  /// y (rows, hidden) = attention(x). Where `final` is given (linear layers) the state after each
  /// segment goes there.
  void forward(Step& step, const ParamStore& params, Tensor y, Tensor x, const TokenRows& rows,
               AttentionActivations* kept, LinearState final = {}) const {
    forward(step, params, y, x, rows, x, rows, kept, final);
  }
  /// Cross attention: queries from x, keys and values from `memory` (source rows, hidden).
  void forward(Step& step, const ParamStore& params, Tensor y, Tensor x, const TokenRows& rows,
               Tensor memory, const TokenRows& source, AttentionActivations* kept,
               LinearState final = {}) const;

  /// dx (rows, hidden) =.
  void backward(Step& step, const ParamStore& params, Tensor dx, Tensor dy, Tensor x,
                const TokenRows& rows, const AttentionActivations& kept) const {
    backward(step, params, dx, {}, dy, x, rows, x, rows, kept);
  }
  /// Cross attention: dx =, dmemory += (this rank's part of a sum over tensor-parallel ranks).
  void backward(Step& step, const ParamStore& params, Tensor dx, Tensor dmemory, Tensor dy,
                Tensor x, const TokenRows& rows, Tensor memory, const TokenRows& source,
                const AttentionActivations& kept) const;

  /// Keys and values (source rows, kv_heads d) of cross attention, side by side in step.scratch.
  void project_memory(Step& step, const ParamStore& params, Tensor* keys, Tensor* values,
                      Tensor memory) const;

  /// Where backward has told a reducer that gradients are final, in that order.
  void add_ready_offsets(const ParamStore& params, std::vector<std::int64_t>& offsets) const {
    offsets.push_back(output_.first_offset(params));
    if (kind_ == AttentionKind::cross) offsets.push_back(key_value_.first_offset(params));
    offsets.push_back(query_.first_offset(params));
  }

  bool linear() const { return linear_; }
  const ModelConfig& config() const { return config_; }  // with the heads that are here
  const Linear& projection() const { return query_; }    // cross: of the queries alone
  const Linear& output() const { return output_; }
  std::int64_t feature_size() const { return feature_size_; }
  /// Tokens that softmax attention of a swapped layer sees beside its linear attention; 0: none.
  std::int64_t window() const {
    return linear_ && kind_ == AttentionKind::causal ? config_.linear.window : 0;
  }
  FeatureMapWeights map_weights(const ParamStore& params) const;
  /// The heads' decay factors in accumulate_dtype from `arena`, or an empty tensor.
  Tensor gamma(const ParamStore& params, Arena& arena) const;
  /// The gates of the heads' softmax windows in accumulate_dtype from `arena`.
  Tensor gates(const ParamStore& params, Arena& arena) const;
  AttentionShape softmax_shape() const;
  AttentionShape window_shape() const;  // of a swapped layer's softmax window
  LinearAttentionShape linear_shape() const;
  double scale() const;

 private:
  void add_feature_map(ParamStore& params, const std::string& name);
  /// From kept q, k, v: features, context, denominator.
  void linear_forward(Step& step, const ParamStore& params, const TokenRows& rows,
                      const TokenRows& source, AttentionActivations* kept, LinearState final) const;
  void linear_backward(Step& step, const ParamStore& params, Tensor dq, Tensor dk, Tensor dv,
                       Tensor dcontext, const TokenRows& rows, const TokenRows& source,
                       const AttentionActivations& kept) const;

  /// Attention transfer in a swapped layer, from what softmax attention kept: adds the gradients of
  /// map and decay, and to the sums of step.transfer.
  void learn_from_softmax(Step& step, const ParamStore& params, const TokenRows& rows,
                          const TokenRows& source, const AttentionActivations& softmax) const;
  /// x (key rows, columns) with each segment's rows moved down by the window, in step.scratch: what
  /// linear attention has seen by then. x itself where there is no window.
  Tensor behind_window(Step& step, Tensor x, const Segments& segments) const;

  /// Gradients through the softmax window: the gates' +=; dq, dk, dv +=.
  void window_backward(Step& step, const ParamStore& params, Tensor dq, Tensor dk, Tensor dv,
                       Tensor dcontext, const TokenRows& rows,
                       const AttentionActivations& kept) const;

  /// Softmax attention with keys and values of all context-parallel ranks up to this one.
  void shared_softmax_forward(Step& step, const TokenRows& rows,
                              const AttentionActivations& kept) const;
  void shared_softmax_backward(Step& step, Tensor dq, Tensor dk, Tensor dv, Tensor dcontext,
                               const TokenRows& rows, const AttentionActivations& kept) const;

  /// The dropout of attention weights, whose columns are the whole model's heads.
  Dropout weight_dropout(const Step& step, const TokenRows& rows) const;

  ModelConfig config_;
  TensorParallel parallel_;
  AttentionKind kind_ = AttentionKind::causal;
  bool linear_ = false;
  std::uint64_t site_ = 0;
  std::int64_t feature_size_ = 0;
  Linear query_;      // self-attention: of queries, keys and values as one product
  Linear key_value_;  // cross attention only
  Linear output_;
  ParamId map_weight_, map_bias_, decay_, gate_;
};

}  // namespace t2r
