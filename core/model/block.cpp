#include "core/model/block.h"

#include <cmath>

#include "core/base/random.h"
#include "kernels/elementwise.h"

namespace t2r {
namespace {

// Places of dropout within a layer.
enum Site : std::uint64_t {
  kAttentionWeights = 0,
  kAttentionOut = 1,
  kFfnHidden = 2,
  kFfnOut = 3,
  kCrossWeights = 4,
  kCrossOut = 5
};

constexpr std::uint64_t kLayerDropStream = 65534;

bool drop_layer(const Step& step, float rate, std::uint64_t layer) {
  return step.train && rate > 0 &&
         random_uniform(step.seed, step.step * 65536 + kLayerDropStream, layer) <
             static_cast<double>(rate);
}

std::string name_of_layer(Block::Role role, std::int64_t layer) {
  const char* stack = role == Block::Role::encoder   ? "model.encoder.layers."
                      : role == Block::Role::decoder ? "model.decoder.layers."
                                                     : "model.layers.";
  return stack + std::to_string(layer);
}

/// One residual connection of a pass: norm, branch, dropout, sum; and all of it in reverse. With
/// sequence parallelism all but the branch works on this rank's stretch of the rows.
struct Residual {
  Step& step;
  const ParamStore& params;
  const NormLayer& norm;
  const TensorParallel& parallel;
  bool pre_norm;
  Dropout dropout;
  std::int64_t rows;  // of the whole

  /// f(y, x) computes the branch.
  template <class F>
  Tensor forward(Tensor x, ResidualActivations* kept, F&& f) const {
    const auto keep = [&] { return step.activations.allocate(x.shape, x.dtype); };
    kept->x = kept->input = x;
    if (pre_norm) {
      kept->input = keep();
      norm.forward(step, params, kept->input, x, &kept->stats);
    }
    kept->sum = keep();
    {
      const ArenaScope scope(step.scratch);
      const Tensor branch = branch_forward(kept->input, f);
      dropout_add_forward(step.queue, kept->sum, branch, x, dropout);
    }
    if (pre_norm) return kept->sum;
    const Tensor y = keep();
    norm.forward(step, params, y, kept->sum, &kept->stats);
    return y;
  }

  /// f(dinput, dbranch, input) is the branch's backward.
  template <class F>
  void backward(Tensor dx, const ResidualActivations& kept, F&& f) const {
    const ArenaScope scope(step.scratch);
    const Tensor dinput = step.scratch.allocate(dx.shape, dx.dtype);
    if (!pre_norm) {
      norm.backward(step, params, dinput, dx, kept.sum, kept.stats, false);
      copy(step.queue, dx, dinput);
    }
    // The gradient of a branch is dx itself where nothing was dropped.
    Tensor dbranch = dx;
    if (dropout.active()) {
      dbranch = step.scratch.allocate(dx.shape, dx.dtype);
      dropout_backward(step.queue, dbranch, dx, dropout);
    }
    branch_backward(dinput, dbranch, kept.input, f);
    if (pre_norm)
      norm.backward(step, params, dx, dinput, kept.x, kept.stats, true);
    else
      add_to(step.queue, dx, dinput);
  }

 private:
  template <class F>
  Tensor branch_forward(Tensor input, F&& f) const {
    const Tensor branch = step.scratch.allocate(input.shape, input.dtype);
    if (!parallel.shares_rows(step)) {
      f(branch, input);
      return branch;
    }
    const ArenaScope scope(step.scratch);
    const Tensor part = step.scratch.allocate(input.shape.with(0, rows), input.dtype);
    f(part, parallel.gather_rows(step, input, rows));
    parallel.sum_rows(step, branch, part);
    return branch;
  }

  template <class F>
  void branch_backward(Tensor dinput, Tensor dbranch, Tensor input, F&& f) const {
    if (!parallel.shares_rows(step)) {
      f(dinput, dbranch, input);
      return;
    }
    // The input is gathered once more rather than kept whole.
    const ArenaScope scope(step.scratch);
    const Tensor part = step.scratch.allocate(dinput.shape.with(0, rows), dinput.dtype);
    const Tensor dwhole = parallel.gather_rows(step, dbranch, rows);
    f(part, dwhole, parallel.gather_rows(step, input, rows));
    parallel.sum_rows(step, dinput, part);
  }
};

}  // namespace

Block::Block(ParamStore& params, const ModelConfig& config, Role role, std::int64_t layer,
             const TensorParallel& parallel)
    : config_(part_of_model(config, parallel)), parallel_(parallel), role_(role) {
  site_layer_ = static_cast<std::uint64_t>(role == Role::encoder ? config.layers + layer : layer);
  const std::string name = name_of_layer(role, layer);
  const bool linear = role != Role::encoder && config.is_linear(layer);
  first_ = ParamId{params.count()};
  attention_norm_ = NormLayer(params, name + ".input_layernorm", config);
  attention_ =
      Attention(params, name + ".self_attn", config,
                role == Role::encoder ? AttentionKind::bidirectional : AttentionKind::causal,
                linear, site(kAttentionWeights), parallel);
  if (role == Role::decoder) {
    cross_norm_ = NormLayer(params, name + ".encoder_attn_layernorm", config);
    cross_attention_ = Attention(params, name + ".encoder_attn", config, AttentionKind::cross,
                                 linear, site(kCrossWeights), parallel);
  }
  ffn_norm_ = NormLayer(params, name + ".post_attention_layernorm", config);
  const double scale = std::sqrt(0.4 / static_cast<double>(config.hidden_size));
  std::vector<Linear::Part> parts{{name + ".mlp.up_proj", config.ffn_size}};
  if (config.activation == Activation::swiglu)
    parts.insert(parts.begin(), {name + ".mlp.gate_proj", config.ffn_size});
  ffn_in_ = Linear(params, parts, config.hidden_size, config.biases, scale, Linear::Split::outputs,
                   parallel);
  // Smaller with depth, so that the sum of all residual branches keeps its size.
  ffn_out_ = Linear(params, {{name + ".mlp.down_proj", config.hidden_size}}, config.ffn_size,
                    config.biases,
                    std::sqrt(0.4 / static_cast<double>(config.ffn_size)) /
                        std::sqrt(2.0 * static_cast<double>(config.layers)),
                    Linear::Split::inputs, parallel);
  last_ = ParamId{params.count()};
}

void Block::bind(const ParamStore& params) {
  attention_.bind(params);
  if (has_cross()) cross_attention_.bind(params);
  ffn_in_.bind(params);
  ffn_out_.bind(params);
}

void Block::add_ready_offsets(const ParamStore& params, std::vector<std::int64_t>& offsets) const {
  offsets.push_back(ffn_out_.first_offset(params));
  offsets.push_back(ffn_in_.first_offset(params));
  if (has_cross()) cross_attention_.add_ready_offsets(params, offsets);
  attention_.add_ready_offsets(params, offsets);
  offsets.push_back(first_offset(params));
}

std::int64_t Block::ffn_hidden_size() const {
  return ffn_in_.out();
}

Dropout Block::hidden_dropout(const Step& step, const std::int64_t* row_ids) const {
  Dropout dropout = step.dropout(config_.activation_dropout, site(kFfnHidden), row_ids);
  dropout.whole_columns = config_.ffn_size * parallel_.size();
  dropout.first_column = config_.ffn_size * parallel_.rank();
  return dropout;
}

void Block::ffn_forward(Step& step, const ParamStore& params, Tensor y, Tensor x, Tensor hidden,
                        Tensor active, const std::int64_t* row_ids) const {
  ffn_in_.forward(step, params, hidden, x);
  if (config_.activation == Activation::swiglu)
    swiglu_forward(step.queue, active, hidden);
  else
    activation_forward(step.queue, config_.activation, active, hidden);
  const Dropout dropout = hidden_dropout(step, row_ids);
  if (dropout.active()) dropout_add_forward(step.queue, active, active, {}, dropout);
  ffn_out_.forward(step, params, y, active);
}

void Block::ffn_backward(Step& step, const ParamStore& params, Tensor dx, Tensor dy, Tensor x,
                         const TokenRows& rows, const BlockActivations& kept) const {
  const ArenaScope scope(step.scratch);
  const Tensor dactive = step.scratch.allocate(kept.ffn_active.shape, dx.dtype);
  ffn_out_.backward(step, params, dactive, dy, kept.ffn_active);
  const Dropout dropout = hidden_dropout(step, rows.row_ids);
  if (dropout.active()) dropout_backward(step.queue, dactive, dactive, dropout);
  Tensor dhidden = dactive;
  if (config_.activation == Activation::swiglu) {
    dhidden = step.scratch.allocate(kept.ffn_hidden.shape, dx.dtype);
    swiglu_backward(step.queue, dhidden, dactive, kept.ffn_hidden);
  } else {
    activation_backward(step.queue, config_.activation, dhidden, dactive, kept.ffn_hidden);
  }
  ffn_in_.backward(step, params, dx, dhidden, x);
  parallel_.sum_unless_shared(step, dx);
}

Tensor Block::forward(Step& step, const ParamStore& params, Tensor x, const TokenRows& rows,
                      const Memory& memory, BlockActivations* kept, LinearState final) const {
  kept->dropped = drop_layer(step, config_.layer_drop, site_layer_);
  if (kept->dropped) return x;
  const auto residual = [&](const NormLayer& norm, Site place) {
    const std::int64_t* ids = parallel_.row_ids_here(step, rows.rows, rows.row_ids);
    return Residual{step,      params,           norm,
                    parallel_, config_.pre_norm, step.dropout(config_.dropout, site(place), ids),
                    rows.rows};
  };
  x = residual(attention_norm_, kAttentionOut).forward(x, &kept->self, [&](Tensor y, Tensor input) {
    attention_.forward(step, params, y, input, rows, &kept->attention, final);
  });
  if (has_cross())
    x = residual(cross_norm_, kCrossOut).forward(x, &kept->cross, [&](Tensor y, Tensor input) {
      cross_attention_.forward(step, params, y, input, rows, memory.values, memory.source,
                               &kept->cross_attention);
    });
  return residual(ffn_norm_, kFfnOut).forward(x, &kept->ffn, [&](Tensor y, Tensor input) {
    const auto keep = [&](std::int64_t columns) {
      return step.activations.allocate(Shape{rows.rows, columns}, x.dtype);
    };
    kept->ffn_hidden = keep(ffn_hidden_size());
    kept->ffn_active = keep(config_.ffn_size);
    ffn_forward(step, params, y, input, kept->ffn_hidden, kept->ffn_active, rows.row_ids);
  });
}

void Block::backward(Step& step, const ParamStore& params, Tensor dx, const TokenRows& rows,
                     const Memory& memory, Tensor dmemory, const BlockActivations& kept) const {
  if (kept.dropped) return;
  const auto residual = [&](const NormLayer& norm, Site place) {
    const std::int64_t* ids = parallel_.row_ids_here(step, rows.rows, rows.row_ids);
    return Residual{step,      params,           norm,
                    parallel_, config_.pre_norm, step.dropout(config_.dropout, site(place), ids),
                    rows.rows};
  };
  residual(ffn_norm_, kFfnOut).backward(dx, kept.ffn, [&](Tensor dinput, Tensor dy, Tensor input) {
    ffn_backward(step, params, dinput, dy, input, rows, kept);
  });
  if (has_cross())
    residual(cross_norm_, kCrossOut)
        .backward(dx, kept.cross, [&](Tensor dinput, Tensor dy, Tensor input) {
          cross_attention_.backward(step, params, dinput, dmemory, dy, input, rows, memory.values,
                                    memory.source, kept.cross_attention);
        });
  residual(attention_norm_, kAttentionOut)
      .backward(dx, kept.self, [&](Tensor dinput, Tensor dy, Tensor input) {
        attention_.backward(step, params, dinput, dy, input, rows, kept.attention);
      });
}

}  // namespace t2r
