// Linear recurrent attention (Kasai et al. 2021, section 2; Katharopoulos et al. 2020). Per head,
// with token i seeing itself:
//   S_i = gamma S_{i-1} + phi(k_i) v_i^T   (k x d)      z_i = gamma z_{i-1} + phi(k_i)   (k)
//   o_i = phi(q_i)^T S_i / max(phi(q_i)^T z_i, clamp)
// S, z, denominators and the division are in accumulate_dtype.
#pragma once

#include "core/base/tensor.h"
#include "kernels/segments.h"

namespace t2r {

struct LinearAttentionShape {
  std::int64_t heads = 0;         // of queries and of key features
  std::int64_t value_heads = 0;   // divides heads; head h reads value head h / (heads / this)
  std::int64_t feature_size = 0;  // k
  std::int64_t head_dim = 0;      // d, of the values
  bool causal = true;             // else S and z are sums over the whole key segment
  double clamp = 0.01;            // lower bound of the denominator
  std::int64_t chunk = 64;        // tokens a chunk (forms agree for any value)
};

/// Recurrent states of a batch of sequences: s (count, heads, k, d), z (count, heads, k), both in
/// accumulate_dtype. Empty tensors where not wanted.
struct LinearState {
  Tensor s, z;
};

/// Backward's states at the ends of segments that are stretches of longer sequences. Each may be
/// empty: zeros, or not wanted.
struct LinearEnds {
  LinearState initial;   // the state that forward started from
  LinearState dfinal;    // gradient of the state after each segment
  LinearState dinitial;  // = gradient of `initial` (needs one)
};

/// How the sums are formed. All forms give the same result; `automatic` picks the fastest, in
/// chunks of at most shape.chunk.
enum class LinearForm : std::uint8_t { automatic, recurrent, masked, chunkwise };

/// out (query rows, heads * d); denominator (query rows, heads), before the clamp, kept for
/// backward. query_features, key_features (rows, heads * k); v (key rows, value_heads * d); all may
/// be column ranges. gamma (heads) in accumulate_dtype, each in (0, 1], or empty for no decay
/// (causal only). `initial` (one state a segment) may be empty: zeros. `final` is written where
/// given; `initial` and `final` may be the same memory.
void linear_attention_forward(Queue queue, Tensor out, Tensor denominator, Tensor query_features,
                              Tensor key_features, Tensor v, const Segments& queries,
                              const Segments& keys, const LinearAttentionShape& shape,
                              Tensor gamma = {}, LinearState initial = {}, LinearState final = {},
                              LinearForm form = LinearForm::automatic);
/// dquery_features, dkey_features, dv = (overwritten); dgamma (heads) += where given. With `ends`
/// (causal; not in the masked form) gradients flow through the states at the ends of segments.
void linear_attention_backward(Queue queue, Tensor dquery_features, Tensor dkey_features, Tensor dv,
                               Tensor dgamma, Tensor dout, Tensor out, Tensor denominator,
                               Tensor query_features, Tensor key_features, Tensor v,
                               const Segments& queries, const Segments& keys,
                               const LinearAttentionShape& shape, Tensor gamma = {},
                               LinearForm form = LinearForm::automatic,
                               const LinearEnds& ends = {});

/// state = the one after each segment from zeros, without any output: what forward gives as
/// `final` (causal). key_features, v, gamma as in forward.
void linear_attention_state(Queue queue, LinearState state, Tensor key_features, Tensor v,
                            const Segments& keys, const LinearAttentionShape& shape,
                            Tensor gamma = {});
/// dinitial = gradient of the state before each segment through the segment's own outputs: what
/// backward gives where dfinal is zero (causal). dout, out, denominator, query_features, gamma as
/// in backward.
void linear_attention_state_backward(Queue queue, LinearState dinitial, Tensor dout, Tensor out,
                                     Tensor denominator, Tensor query_features,
                                     const Segments& queries, const LinearAttentionShape& shape,
                                     Tensor gamma = {});

/// One decoding step for a batch: updates state (batch, heads, ...) with key_features (batch,
/// heads * k) and v (batch, value_heads * d), then out (batch, heads * d). `denominator` (batch,
/// heads), before the clamp, where wanted.
void linear_attention_step(Queue queue, Tensor out, LinearState state, Tensor query_features,
                           Tensor key_features, Tensor v, const LinearAttentionShape& shape,
                           Tensor gamma = {}, Tensor denominator = {});

/// Figures that show whether a swapped layer is healthy (METHOD: relu features can die).
struct LinearAttentionHealth {
  double max_feature = 0;         // largest phi of queries and keys
  double max_denominator = 0;     // largest phi(q) . z
  double clamped_share = 0;       // of the (row, head): those whose denominator was clamped
  double dead_feature_share = 0;  // of the (head, feature): those <= 0 in every query and key
};
LinearAttentionHealth linear_attention_health(Tensor query_features, Tensor key_features,
                                              Tensor denominator,
                                              const LinearAttentionShape& shape);

}  // namespace t2r
