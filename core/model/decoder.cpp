#include "core/model/decoder.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/model/block_step.h"
#include "kernels/elementwise.h"

namespace t2r {
namespace {

/// Room for one decoding step, or for a prompt: reserved, used only as touched.
constexpr std::int64_t kWorkingMemory = std::int64_t{16} << 30;

}  // namespace

Decoder::Decoder(const Transformer& model, const DecoderOptions& options)
    : model_(model),
      options_(options),
      memory_(model.config().layers *
                  SelfAttentionState::bytes(model.config(), options.batch, options.capacity) +
              8 * options.batch * model.config().vocab_size + (std::int64_t{1} << 20)),
      activations_(kWorkingMemory),
      scratch_(kWorkingMemory),
      lengths_(static_cast<std::size_t>(options.batch), 0) {
  const ModelConfig& c = model.config();
  const std::int64_t batch = options.batch;
  check(!c.encoder_decoder(), "a translation model needs a TranslationDecoder");
  check_usage(batch >= 1, "a decoder for {} sequences: there must be at least one", batch);
  check_usage(options.capacity >= 1, "a decoder for sequences of {} tokens", options.capacity);
  check_usage(c.positions == Positions::rotary || options.capacity <= c.max_positions,
              "sequences of {} tokens were asked for, but the model has {} positions: generate "
              "fewer tokens",
              options.capacity, c.max_positions);
  for (std::int64_t layer = 0; layer < c.layers; ++layer)
    layers_.push_back(SelfAttentionState::make(model.block(layer).attention(), model.params(),
                                               batch, options.capacity, options.merge_feature_maps,
                                               memory_));
  logits_ = memory_.allocate(Shape{batch, c.vocab_size}, accumulate_dtype(model.params().dtype()));
  reset();
}

void Decoder::reset() {
  std::fill(lengths_.begin(), lengths_.end(), 0);
  for (const SelfAttentionState& state : layers_) state.clear();
}

std::int64_t Decoder::state_bytes() const {
  std::int64_t bytes = 0;
  for (const SelfAttentionState& state : layers_)
    for (const std::int64_t length : lengths_) bytes += state.held_bytes(length);
  return bytes;
}

Tensor Decoder::output_logits(Tensor x) {
  Step step{.activations = activations_, .scratch = scratch_, .queue = {}};
  const Tensor normed = scratch_.allocate(x.shape, x.dtype);
  model_.apply_final_norm(step, normed, x);
  model_.output_logits(step, logits_, normed);
  return logits_;
}

Tensor Decoder::prefill(const std::vector<std::vector<std::int32_t>>& prompts) {
  const ModelConfig& c = model_.part_config();
  const std::int64_t batch = options_.batch;
  check(static_cast<std::int64_t>(prompts.size()) == batch, "{} prompts for a decoder of {}",
        prompts.size(), batch);
  std::vector<std::int32_t> inputs, positions;
  std::vector<std::int64_t> offsets{0};
  for (std::size_t b = 0; b < prompts.size(); ++b) {
    check_usage(!prompts[b].empty(), "prompt {} is empty: a prompt needs at least one token", b);
    check_usage(static_cast<std::int64_t>(prompts[b].size()) <= options_.capacity,
                "prompt {} has {} tokens, more than the {} that fit: shorten it", b,
                prompts[b].size(), options_.capacity);
    inputs.insert(inputs.end(), prompts[b].begin(), prompts[b].end());
    for (std::size_t i = 0; i < prompts[b].size(); ++i)
      positions.push_back(static_cast<std::int32_t>(i));
    offsets.push_back(static_cast<std::int64_t>(inputs.size()));
    lengths_[b] = static_cast<std::int64_t>(prompts[b].size());
  }
  Batch input;
  input.rows = static_cast<std::int64_t>(inputs.size());
  input.inputs = inputs.data();
  input.positions = positions.data();
  input.segments = {batch, offsets.data()};

  activations_.reset();
  scratch_.reset();
  Step step{.activations = activations_, .scratch = scratch_, .queue = {}};
  const Shape shape{input.rows, c.hidden_size};
  const DType dtype = model_.params().dtype();
  Tensor x = activations_.allocate(shape, dtype);
  model_.embedding().forward(step, model_.params(), x, input);
  const Tensor next = activations_.allocate(shape, dtype);
  for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
    const ArenaScope scope(activations_);
    BlockActivations kept;
    const Tensor y =
        model_.block(static_cast<std::int64_t>(layer))
            .forward(step, model_.params(), x, input, {}, &kept, layers_[layer].linear);
    layers_[layer].fill_caches(step.queue, kept.attention.k, kept.attention.v, input.segments);
    copy(step.queue, next, y);
    x = next;
  }
  const Tensor last = scratch_.allocate(Shape{batch, c.hidden_size}, dtype);
  for (std::int64_t b = 0; b < batch; ++b) {
    const std::int64_t row = offsets[static_cast<std::size_t>(b) + 1] - 1;
    copy(step.queue, last.row_range(b, b + 1), x.row_range(row, row + 1));
  }
  return output_logits(last);
}

Tensor Decoder::step(std::span<const std::int32_t> tokens) {
  const ModelConfig& c = model_.part_config();
  const std::int64_t batch = options_.batch;
  check(static_cast<std::int64_t>(tokens.size()) == batch, "{} tokens for a decoder of {}",
        tokens.size(), batch);
  positions_.resize(tokens.size());
  for (std::size_t b = 0; b < tokens.size(); ++b) {
    check_usage(lengths_[b] < options_.capacity,
                "sequence {} already has the {} tokens that the decoder was made for", b,
                options_.capacity);
    positions_[b] = static_cast<std::int32_t>(lengths_[b]);
  }
  // One token a sequence: every row is a segment of its own.
  std::vector<std::int64_t> offsets(tokens.size() + 1);
  std::iota(offsets.begin(), offsets.end(), 0);
  Batch input;
  input.rows = batch;
  input.inputs = tokens.data();
  input.positions = positions_.data();
  input.segments = {batch, offsets.data()};

  activations_.reset();
  scratch_.reset();
  Step step{.activations = activations_, .scratch = scratch_, .queue = {}};
  const ParamStore& params = model_.params();
  const DType dtype = params.dtype();
  const Shape shape{batch, c.hidden_size};
  const Tensor x = scratch_.allocate(shape, dtype);
  model_.embedding().forward(step, params, x, input);
  for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
    const ArenaScope scope(scratch_);
    const Block& block = model_.block(static_cast<std::int64_t>(layer));
    residual_step(step, block.attention_norm(), c.pre_norm, params, x, [&](Tensor y, Tensor in) {
      self_attention_step(step, params, block.attention(), layers_[layer], y, in, positions_.data(),
                          lengths_.data());
    });
    residual_step(step, block.ffn_norm(), c.pre_norm, params, x,
                  [&](Tensor y, Tensor in) { ffn_step(step, params, block, y, in); });
  }
  for (std::int64_t& length : lengths_) ++length;
  return output_logits(x);
}

}  // namespace t2r
