// A teacher's distribution as a target beside the data (Hinton et al. 2015): of a row, with the
// teacher's probabilities p and the model's q, both softmaxes of logits,
//   loss = (1 - share) cross-entropy + share KL(p || q)
// in two steps around cross_entropy(), which works in place.
#pragma once

#include <cstdint>

#include "core/base/tensor.h"
#include "kernels/cross_entropy.h"

namespace t2r {

/// Turns the teacher's logits (rows, vocabulary part) into probabilities, with statistics of the
/// whole vocabulary as cross_entropy_statistics() gives them. Returns, over the columns here, the
/// sum over the rows that count of sum_j p_j (log p_j - x_j) + x_target, where x are the model's
/// logits: with the sum of -log q_target (CrossEntropySums::nll) it is the sum of KL(p || q).
/// Summed in the order of rows.
double teacher_probabilities(Queue queue, Tensor teacher, const CrossEntropyStatistics& statistics,
                             Tensor logits, const std::int32_t* targets, VocabularyPart part);

/// dlogits, which hold grad_scale * (q - target distribution), become the gradient of the mixed
/// loss: += share * grad_scale * (target distribution - p). The target distribution is 1 -
/// smoothing on the target and smoothing / vocabulary everywhere, as in cross_entropy(). Rows that
/// are ignored stay as they are.
void blend_teacher(Queue queue, Tensor dlogits, Tensor probabilities, const std::int32_t* targets,
                   double share, double smoothing, double grad_scale, VocabularyPart part);

}  // namespace t2r
