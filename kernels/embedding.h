// Token and position embeddings.
#pragma once

#include <cstdint>

#include "core/base/tensor.h"
#include "kernels/vocabulary_part.h"

namespace t2r {

/// y (rows, n) = scale * table[ids[row]] + positions[position_ids[row]]; `positions` may be empty.
/// table (vocabulary, n), or a part of it: ids elsewhere add nothing. Throws when an id is outside
/// the vocabulary.
void embedding_forward(Queue queue, Tensor y, const std::int32_t* ids, Tensor table, double scale,
                       const std::int32_t* position_ids, Tensor positions,
                       VocabularyPart part = {});
/// dtable[ids[row]] += scale * dy[row] and dpositions[position_ids[row]] += dy[row], rows in order
/// whatever the number of threads; gradients in accumulate_dtype; either may be empty.
void embedding_backward(Queue queue, Tensor dtable, Tensor dpositions, const std::int32_t* ids,
                        const std::int32_t* position_ids, Tensor dy, double scale,
                        VocabularyPart part = {});

/// Fills table (positions, n) with sinusoids: with p = first + row, column i < n/2 is sin(p * w_i),
/// column n/2 + i is cos(p * w_i), w_i = 10000^(-i / (n/2 - 1)) (tensor2tensor's layout of Vaswani
/// et al. 2017).
void sinusoidal_positions(Tensor table, std::int64_t first = 0);

}  // namespace t2r
