// Decoding a batch of sequences token by token. Swapped layers keep a recurrent state of constant
// size; softmax layers a key-value cache.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/model/attention_step.h"
#include "core/model/transformer.h"

namespace t2r {

struct DecoderOptions {
  std::int64_t batch = 1;
  std::int64_t capacity = 0;       // most tokens of a sequence, prompt included (caches, positions)
  bool merge_feature_maps = true;  // fold phi into the projections where positions allow it
};

class Decoder {
 public:
  /// The model must outlive the decoder and not change.
  Decoder(const Transformer& model, const DecoderOptions& options);

  /// Runs the prompts (one a sequence, at least one token each) in parallel form and starts from
  /// their states. Returns logits (batch, vocab_size), accumulate_dtype, of the next token; valid
  /// until the next call.
  Tensor prefill(const std::vector<std::vector<std::int32_t>>& prompts);
  /// Feeds one token a sequence; returns the next token's logits as prefill does.
  Tensor step(std::span<const std::int32_t> tokens);

  /// Tokens so far in sequence `b`.
  std::int64_t length(std::int64_t b) const { return lengths_[static_cast<std::size_t>(b)]; }
  /// Bytes of recurrent states, and of caches as far as they are filled.
  std::int64_t state_bytes() const;
  /// Forgets all sequences.
  void reset();

 private:
  Tensor output_logits(Tensor x);

  const Transformer& model_;
  DecoderOptions options_;
  Arena memory_, activations_, scratch_;
  std::vector<SelfAttentionState> layers_;
  std::vector<std::int64_t> lengths_;
  std::vector<std::int32_t> positions_;
  Tensor logits_;
};

}  // namespace t2r
