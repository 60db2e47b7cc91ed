// Decoding the targets of several sources at once, with several hypotheses a source. The encoder
// runs once; of it each decoder layer keeps, a source and not a hypothesis, either the state (S, z)
// of linear cross attention or the projected keys and values of softmax.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/model/attention_step.h"
#include "core/model/transformer.h"

namespace t2r {

class TranslationDecoder {
 public:
  /// /// The model must outlive the decoder and not change.
  explicit TranslationDecoder(Transformer& model);

  /// Encodes the sources and starts `beams` hypotheses of each, without tokens yet, of at most
  /// `capacity` tokens. Rows are grouped by source: row = source * beams + hypothesis. May be
  /// called again, and then uses the same memory.
  void begin(const TokenRows& sources, std::int64_t beams, std::int64_t capacity);

  const Transformer& model() const { return model_; }

  std::int64_t rows() const { return sources() * beams_; }
  std::int64_t sources() const { return static_cast<std::int64_t>(source_lengths_.size()); }
  std::int64_t beams() const { return beams_; }
  std::int64_t length() const { return length_; }  // tokens so far, the same in every row

  /// Feeds one token a row; returns logits (rows, vocab_size), accumulate_dtype, of the next; valid
  /// until the next call.
  Tensor step(std::span<const std::int32_t> tokens);
  /// Row r becomes what row parents[r] was. A row that others take must keep itself: parents[p] ==
  /// p wherever some parents[r] == p. Then only the rows that change are copied.
  void take(std::span<const std::int64_t> parents);
  /// Keeps these sources (ascending) and forgets the others.
  void keep(std::span<const std::int64_t> sources);

  /// Bytes of states, and of caches as far as they are filled.
  std::int64_t state_bytes() const;

 private:
  struct CrossState {
    LinearState linear;   // (sources, heads, k, d), (sources, heads, k)
    Tensor keys, values;  // (source tokens, kv_heads d)
  };

  CrossState make_cross(Step& step, const Attention& attention, const Memory& memory);
  void cross_step(Step& step, const Attention& attention, const CrossState& state, Tensor y,
                  Tensor x) const;
  void copy_row(std::int64_t to, std::int64_t from) const;
  void set_offsets();

  Transformer& model_;
  std::int64_t capacity_ = 0, beams_ = 0, length_ = 0;
  Arena memory_, activations_, scratch_;
  std::vector<SelfAttentionState> self_;  // a decoder layer
  std::vector<CrossState> cross_;
  std::vector<std::int64_t> source_lengths_;
  std::vector<std::int64_t> query_offsets_, source_offsets_, no_keys_;  // sources + 1
};

}  // namespace t2r
