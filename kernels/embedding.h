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

/// Frequencies w_i, i < n/2: 10000^(-i / (n/2 - 1)) in tensor2tensor and fairseq; 10000^(-2i / n)
/// in Vaswani et al. (2017), section 3.5, as printed, and in Marian.
enum class Sinusoids : std::uint8_t { tensor2tensor, marian };

/// Fills table (positions, n) with sinusoids: with p = first + row, column i < n/2 is sin(p * w_i),
/// column n/2 + i is cos(p * w_i).
void sinusoidal_positions(Tensor table, std::int64_t first = 0,
                          Sinusoids kind = Sinusoids::tensor2tensor);

}  // namespace t2r
