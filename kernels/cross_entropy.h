// Cross-entropy with label smoothing over rows of logits, gradient in place.
#pragma once

#include <cstdint>

#include "core/base/tensor.h"
#include "kernels/vocabulary_part.h"

namespace t2r {

/// What a row with this target contributes: nothing.
constexpr std::int32_t kIgnoredTarget = -1;

struct CrossEntropySums {
  double loss = 0;        // nats, label smoothing included, summed over rows
  double nll = 0;         // nats, -log p(target), summed over rows
  std::int64_t rows = 0;  // that were not ignored
};

/// loss of a row = -(1 - smoothing) log p[target] - smoothing * mean over vocabulary of log p.
/// logits (rows, vocabulary), accumulate_dtype or the storage dtype. When `dlogits` is given (it
/// may be logits itself; any dtype) it becomes grad_scale * d loss / d logits, zero for ignored
/// rows.
CrossEntropySums cross_entropy(Queue queue, Tensor logits, const std::int32_t* targets,
                               double smoothing, double grad_scale, Tensor dlogits);

// The same where each rank has a part of the vocabulary's columns, in three calls:
// cross_entropy_statistics(); maxima = the largest of all ranks; cross_entropy_rescale(); sums =
// the sums over all ranks; cross_entropy_finish().

/// Of the columns here, in fp64: a row's largest logit; and, relative to it, the sum of exp(x), the
/// sum of x, and the target's x (0 where the target's column is elsewhere).
struct CrossEntropyStatistics {
  Tensor maxima;  // (rows)
  Tensor sums;    // (rows, 3)
};

/// `part` says which columns `logits` has. Throws when a target is outside the vocabulary.
void cross_entropy_statistics(Queue queue, const CrossEntropyStatistics& statistics, Tensor logits,
                              const std::int32_t* targets, VocabularyPart part);
/// Makes the sums relative to `maxima` (rows), which the statistics take over.
void cross_entropy_rescale(Queue queue, const CrossEntropyStatistics& statistics, Tensor maxima,
                           const std::int32_t* targets, std::int64_t columns, VocabularyPart part);
/// As cross_entropy(), for the columns here, from the statistics of all.
CrossEntropySums cross_entropy_finish(Queue queue, const CrossEntropyStatistics& statistics,
                                      Tensor logits, const std::int32_t* targets, double smoothing,
                                      double grad_scale, Tensor dlogits, VocabularyPart part);

}  // namespace t2r
