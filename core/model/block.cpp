#include "core/model/block.h"

#include <cmath>

#include "core/base/random.h"

namespace t2r {
namespace {

// Places of dropout within a layer; attention's own is 0 (attention.cpp).
enum Site : std::uint64_t { kAttentionOut = 1, kFfnHidden = 2, kFfnOut = 3 };

constexpr std::uint64_t kLayerDropStream = 65534;

bool drop_layer(const Step& step, float rate, std::int64_t layer) {
  return step.train && rate > 0 &&
         random_uniform(step.seed, step.step * 65536 + kLayerDropStream,
                        static_cast<std::uint64_t>(layer)) < static_cast<double>(rate);
}

}  // namespace

Block::Block(ParamStore& params, const ModelConfig& config, std::int64_t layer)
    : config_(config), layer_(layer) {
  const std::string name = "model.layers." + std::to_string(layer);
  first_ = ParamId{params.count()};
  attention_norm_ = NormLayer(params, name + ".input_layernorm", config);
  attention_ = Attention(params, name + ".self_attn", config, layer);
  ffn_norm_ = NormLayer(params, name + ".post_attention_layernorm", config);
  const double scale = std::sqrt(0.4 / static_cast<double>(config.hidden_size));
  std::vector<Linear::Part> parts{{name + ".mlp.up_proj", config.ffn_size}};
  if (config.activation == Activation::swiglu)
    parts.insert(parts.begin(), {name + ".mlp.gate_proj", config.ffn_size});
  ffn_in_ = Linear(params, parts, config.hidden_size, config.biases, scale);
  // Smaller with depth, so that the sum of all residual branches keeps its size.
  ffn_out_ = Linear(params, {{name + ".mlp.down_proj", config.hidden_size}}, config.ffn_size,
                    config.biases,
                    std::sqrt(0.4 / static_cast<double>(config.ffn_size)) /
                        std::sqrt(2.0 * static_cast<double>(config.layers)));
}

void Block::bind(const ParamStore& params) {
  attention_.bind(params);
  ffn_in_.bind(params);
  ffn_out_.bind(params);
}

std::int64_t Block::ffn_hidden_size() const {
  return ffn_in_.out();
}

void Block::ffn_forward(Step& step, const ParamStore& params, Tensor y, Tensor x, Tensor hidden,
                        Tensor active, const std::int64_t* row_ids) const {
  ffn_in_.forward(step, params, hidden, x);
  if (config_.activation == Activation::swiglu)
    swiglu_forward(step.queue, active, hidden);
  else
    activation_forward(step.queue, config_.activation, active, hidden);
  const Dropout dropout = step.dropout(config_.activation_dropout, site(kFfnHidden), row_ids);
  if (dropout.active()) dropout_add_forward(step.queue, active, active, {}, dropout);
  ffn_out_.forward(step, params, y, active);
}

Tensor Block::forward(Step& step, const ParamStore& params, Tensor x, const Batch& batch,
                      BlockActivations* kept, LinearState final) const {
  kept->dropped = drop_layer(step, config_.layer_drop, layer_);
  if (kept->dropped) return x;
  const auto keep = [&](std::int64_t columns) {
    return step.activations.allocate(Shape{x.rows(), columns}, x.dtype);
  };
  const std::int64_t hidden = config_.hidden_size;
  kept->input = x;
  kept->attention_input = keep(hidden);
  kept->middle = keep(hidden);
  kept->ffn_input = keep(hidden);
  kept->ffn_hidden = keep(ffn_hidden_size());
  kept->ffn_active = keep(config_.ffn_size);
  const Tensor y = keep(hidden);
  const ArenaScope scope(step.scratch);
  const Tensor branch = step.scratch.allocate(x.shape, x.dtype);

  attention_norm_.forward(step, params, kept->attention_input, x, &kept->attention_norm);
  attention_.forward(step, params, branch, kept->attention_input, batch, &kept->attention, final);
  dropout_add_forward(step.queue, kept->middle, branch, x,
                      step.dropout(config_.dropout, site(kAttentionOut), batch.row_ids));

  ffn_norm_.forward(step, params, kept->ffn_input, kept->middle, &kept->ffn_norm);
  ffn_forward(step, params, branch, kept->ffn_input, kept->ffn_hidden, kept->ffn_active,
              batch.row_ids);
  dropout_add_forward(step.queue, y, branch, kept->middle,
                      step.dropout(config_.dropout, site(kFfnOut), batch.row_ids));
  return y;
}

void Block::backward(Step& step, const ParamStore& params, Tensor dx, const Batch& batch,
                     const BlockActivations& kept) const {
  if (kept.dropped) return;
  const ArenaScope scope(step.scratch);
  const Tensor branch = step.scratch.allocate(dx.shape, dx.dtype);
  const Tensor dnormed = step.scratch.allocate(dx.shape, dx.dtype);

  // The gradient of a residual branch is dx itself where nothing was dropped.
  const auto branch_gradient = [&](Site place) {
    const Dropout dropout = step.dropout(config_.dropout, site(place), batch.row_ids);
    if (!dropout.active()) return dx;
    dropout_backward(step.queue, branch, dx, dropout);
    return branch;
  };

  {
    const ArenaScope ffn_scope(step.scratch);
    const Tensor dactive = step.scratch.allocate(kept.ffn_active.shape, dx.dtype);
    ffn_out_.backward(step, params, dactive, branch_gradient(kFfnOut), kept.ffn_active);
    const Dropout dropout =
        step.dropout(config_.activation_dropout, site(kFfnHidden), batch.row_ids);
    if (dropout.active()) dropout_backward(step.queue, dactive, dactive, dropout);
    Tensor dhidden = dactive;
    if (config_.activation == Activation::swiglu) {
      dhidden = step.scratch.allocate(kept.ffn_hidden.shape, dx.dtype);
      swiglu_backward(step.queue, dhidden, dactive, kept.ffn_hidden);
    } else {
      activation_backward(step.queue, config_.activation, dhidden, dactive, kept.ffn_hidden);
    }
    ffn_in_.backward(step, params, dnormed, dhidden, kept.ffn_input);
  }
  ffn_norm_.backward(step, params, dx, dnormed, kept.middle, kept.ffn_norm, true);

  attention_.backward(step, params, dnormed, branch_gradient(kAttentionOut), kept.attention_input,
                      batch, kept.attention);
  attention_norm_.backward(step, params, dx, dnormed, kept.input, kept.attention_norm, true);
}

}  // namespace t2r
