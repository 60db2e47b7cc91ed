// What a model is fed, and the surroundings of one forward and backward pass.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/arena.h"
#include "kernels/dropout.h"
#include "kernels/linear_attention.h"
#include "kernels/segments.h"

namespace t2r {

class ContextParallel;
class GradientReducer;
class Teacher;
struct Transfer;

/// Tokens of several sequences, one after the other, without padding. All memory is the caller's.
struct TokenRows {
  std::int64_t rows = 0;
  const std::int32_t* inputs = nullptr;     // (rows) token ids
  const std::int32_t* positions = nullptr;  // (rows) place in the sequence
  Segments segments;                        // the sequences
  const std::int64_t* row_ids = nullptr;    // (rows) number of the row in the update's whole batch
  // Where ranks share out the tokens of each sequence, `segments` are the stretches that lie here
  // of the sequences `whole`. Else null.
  const ContextParallel* context = nullptr;
  Segments whole;

  /// The sequences, whole on every rank.
  const Segments& sequences() const { return context ? whole : segments; }
};

/// Token rows that own their memory, sequence by sequence; positions count from 0.
class TokenRowsBuffer {
 public:
  void add(std::span<const std::int32_t> tokens) {
    inputs_.insert(inputs_.end(), tokens.begin(), tokens.end());
    for (std::size_t i = 0; i < tokens.size(); ++i)
      positions_.push_back(static_cast<std::int32_t>(i));
    offsets_.push_back(std::ssize(inputs_));
  }
  /// Valid until the next add(). No row ids: there is no dropout here.
  TokenRows rows() const {
    TokenRows rows;
    rows.rows = std::ssize(inputs_);
    rows.inputs = inputs_.data();
    rows.positions = positions_.data();
    rows.segments = {std::ssize(offsets_) - 1, offsets_.data()};
    return rows;
  }
  const std::vector<std::int64_t>& offsets() const { return offsets_; }

 private:
  std::vector<std::int32_t> inputs_, positions_;
  std::vector<std::int64_t> offsets_{0};
};

/// What a model is trained on: rows that it reads, and the token that each of them predicts.
struct Batch : TokenRows {
  const std::int32_t* targets = nullptr;  // (rows) next tokens, kIgnoredTarget where none
  TokenRows source;                       // encoder-decoder: segment s is the source of segment s
};

/// One pass: where it works, and what keys its random numbers.
struct Step {
  Arena& activations;  // kept from forward to backward
  Arena& scratch;      // given back inside a layer
  Queue queue;
  bool train = false;      // dropout and LayerDrop on
  std::uint64_t seed = 0;  // with `step` keys dropout
  std::uint64_t step = 0;
  std::vector<LinearAttentionHealth>* health = nullptr;  // where given: an entry a swapped layer
  GradientReducer* reducer = nullptr;  // where given: layers tell it what is final, let it go on
  // Tensor-parallel ranks each have a stretch of the rows between the layers that they share out.
  bool sequence_parallel = false;
  bool recompute = false;      // keep only what goes from block to block; backward repeats the rest
  Teacher* teacher = nullptr;  // where given, training learns from it too (distillation.h)
  Transfer* transfer = nullptr;  // where given, a pass is one of attention transfer

  /// The dropout of one place in the model: `site` is unique within a pass.
  Dropout dropout(float rate, std::uint64_t site, const std::int64_t* row_ids) const {
    return Dropout{train ? rate : 0.0f, seed, step * 65536 + site, row_ids};
  }
};

}  // namespace t2r
