// Floating-point operations, counted per operation (a multiply-add is 2).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/model/config.h"
#include "core/model/trained_part.h"
#include "kernels/segments.h"

namespace t2r {

struct OperationCost {
  std::string name;     // "qkv projection", "softmax attention", ...
  double forward = 0;   // FLOPs of a forward pass over the given sequences
  double backward = 0;  // of a backward pass
};

/// Operations of one pass over sequences of these lengths, summed over layers. Encoder-decoder:
/// `sources` holds the source of each of them. Backward ends at the lowest layer with something
/// that is `trained`, and forms gradients of weights for that alone.
std::vector<OperationCost> operation_costs(const ModelConfig& config, const Segments& segments,
                                           const Segments& sources = {},
                                           const TrainedPart& trained = TrainedPart::all);

double forward_flops(const ModelConfig& config, const Segments& segments,
                     const Segments& sources = {});
/// Forward plus backward.
double training_flops(const ModelConfig& config, const Segments& segments,
                      const Segments& sources = {}, const TrainedPart& trained = TrainedPart::all);
/// The part of training_flops() that feature maps, linear recurrent attention and softmax windows
/// of swapped layers take: what attention transfer trains.
double linear_training_flops(const ModelConfig& config, const Segments& segments,
                             const Segments& sources = {});
/// Operations to decode one token when `context` tokens came before it, of a source of
/// `source_length` tokens (its encoding aside).
double decoding_flops(const ModelConfig& config, std::int64_t context,
                      std::int64_t source_length = 0);
/// Bytes that decoding keeps for one sequence of `context` tokens: recurrent state and caches, of
/// the source too.
double decoding_state_bytes(const ModelConfig& config, std::int64_t context,
                            std::int64_t element_bytes, std::int64_t source_length = 0);
/// Parameters, by the configuration alone.
std::int64_t parameter_count(const ModelConfig& config);

}  // namespace t2r
