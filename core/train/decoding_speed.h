// How fast a model decodes at a given length, and how much memory its state takes.
#pragma once

#include <cstdint>
#include <vector>

#include "core/model/transformer.h"

namespace t2r {

struct DecodingSpeed {
  std::int64_t length = 0;  // tokens before the measured ones
  std::int64_t batch = 0;
  double seconds_per_token = 0;  // of one step of the whole batch, median
  double tokens_per_second = 0;  // batch / seconds_per_token
  std::int64_t state_bytes = 0;  // recurrent states and filled caches of the batch
};

/// Decodes `batch` sequences of random tokens and times steps around each of `lengths` (softmax:
/// with the cache filled to there). `seconds` is about how long each length may take beside the
/// prompt. Translation models: whole translations of sources and targets of that length with 5
/// hypotheses each, the mean over them. Lengths beyond what the model's positions allow are left
/// out with a warning.
std::vector<DecodingSpeed> measure_decoding(Transformer& model, std::int64_t batch,
                                            const std::vector<std::int64_t>& lengths,
                                            double seconds = 1.0);

}  // namespace t2r
