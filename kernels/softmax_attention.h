// softmax(scale q k^T) v within segments, causal or cross, with grouped key-value heads. Works in
// tiles (Dao et al. 2022): the n x n weights never exist in memory.
#pragma once

#include "core/base/tensor.h"
#include "kernels/dropout.h"
#include "kernels/segments.h"

namespace t2r {

struct AttentionShape {
  std::int64_t heads = 0;            // of the queries
  std::int64_t key_value_heads = 0;  // divides heads; query head h reads h / (heads / this)
  std::int64_t head_dim = 0;
  // The queries of a segment are its last rows, and each sees the keys up to its own place (at
  // most as many queries as keys); else each sees all its segment.
  bool causal = true;
  // Causal: a query sees only the last `window` of these keys, its own included; 0: all.
  std::int64_t window = 0;
};

/// out (query rows, heads * head_dim); log_sum_exp (query rows, heads) in accumulate_dtype, kept
/// for backward. q (query rows, heads * head_dim), k, v (key rows, key_value_heads * head_dim); all
/// may be column ranges. queries.count == keys.count: segment s of one reads segment s of the
/// other. `dropout` acts on the normalised weights: element (row_ids[query row] * heads + head) *
/// 2^20 + key's place in its segment, as described in dropout.h (its columns are the heads);
/// key segments then hold at most 2^20 rows. Queries whose segment has no keys get out = 0 and
/// log_sum_exp = 0. The result does not depend on the number of threads, bit for bit.
void softmax_attention_forward(Queue queue, Tensor out, Tensor log_sum_exp, Tensor q, Tensor k,
                               Tensor v, const Segments& queries, const Segments& keys,
                               const AttentionShape& shape, double scale, const Dropout& dropout);
/// dq, dk, dv = (overwritten; may be column ranges).
void softmax_attention_backward(Queue queue, Tensor dq, Tensor dk, Tensor dv, Tensor dout,
                                Tensor out, Tensor log_sum_exp, Tensor q, Tensor k, Tensor v,
                                const Segments& queries, const Segments& keys,
                                const AttentionShape& shape, double scale, const Dropout& dropout);

/// One decoding step for a batch of sequences. q (batch, heads * head_dim); k, v (batch,
/// key_value_heads * head_dim) are appended to the caches at place lengths[b] (before the step),
/// then q attends to lengths[b] + 1 entries. Caches: (batch, key_value_heads, capacity, head_dim).
/// With a window the caches are rings of window = capacity entries: a token's place is its number
/// modulo the window. out as q.
void softmax_attention_step(Queue queue, Tensor out, Tensor key_cache, Tensor value_cache, Tensor q,
                            Tensor k, Tensor v, const std::int64_t* lengths,
                            const AttentionShape& shape, double scale);

}  // namespace t2r
