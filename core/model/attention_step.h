// Self-attention while decoding: one token a sequence against what came before it, which is a
// recurrent state in swapped layers and a key-value cache in softmax layers.
#pragma once

#include <cstdint>

#include "core/model/attention.h"

namespace t2r {

/// What one layer keeps of every sequence of a batch.
struct SelfAttentionState {
  LinearState linear;  // swapped layers: (batch, heads, k, d), (batch, heads, k)
  // Softmax layers: (batch, kv_heads, capacity, d). Swapped layers with a softmax window: rings of
  // the last window tokens, (batch, kv_heads, window, d), of which `linear` has seen none.
  Tensor keys, values;
  LinearWeight merged;  // swapped layers with a merged map: (2 heads k + kv_heads d, hidden)
  Tensor merged_bias;
  Tensor gamma, gates;

  /// Memory for `batch` sequences of at most `capacity` tokens. `merge`: fold phi into the
  /// projections where positions and map allow it.
  static SelfAttentionState make(const Attention& attention, const ParamStore& params,
                                 std::int64_t batch, std::int64_t capacity, bool merge,
                                 Arena& memory);
  /// Bytes that make() takes, rounded up generously.
  static std::int64_t bytes(const ModelConfig& config, std::int64_t batch, std::int64_t capacity);
  /// Takes over keys and values (rows, kv_heads d) of prompts, as far as they are kept.
  void fill_caches(Queue queue, Tensor prompt_keys, Tensor prompt_values,
                   const Segments& prompts) const;
  /// Bytes that a sequence of `length` tokens fills.
  std::int64_t held_bytes(std::int64_t length) const;
  /// No sequence has any tokens.
  void clear() const;
  /// The first `rows` sequences alone; the weights are shared.
  SelfAttentionState first(std::int64_t rows) const;
};

/// y (rows, hidden) = attention of x (rows, hidden), one token a sequence of the state, which takes
/// it in. positions and lengths (rows): tokens before this one.
void self_attention_step(Step& step, const ParamStore& params, const Attention& attention,
                         const SelfAttentionState& state, Tensor y, Tensor x,
                         const std::int32_t* positions, const std::int64_t* lengths);

}  // namespace t2r
