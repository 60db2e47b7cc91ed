#include "core/model/layers.h"

#include <cmath>

#include "dist/gradient_reducer.h"
#include "kernels/elementwise.h"
#include "kernels/norm.h"

namespace t2r {

Linear::Linear(ParamStore& params, const std::vector<Part>& parts, std::int64_t in, bool bias,
               double init_scale, Split split, const TensorParallel& parallel)
    : split_(split), parallel_(parallel) {
  const bool rows = split == Split::outputs, columns = split == Split::inputs;
  const auto out_here = [&](const Part& part) {
    return rows ? parallel.share_of(part.out) : part.out;
  };
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const ParamId id =
        params.add({.name = parts[i].name + ".weight",
                    .shape = Shape{out_here(parts[i]), columns ? parallel.share_of(in) : in},
                    .init = Init::normal,
                    .scale = init_scale,
                    .weight_decay = true,
                    .glued = i > 0,
                    .part = rows      ? parallel.part(0, parts[i].out)
                            : columns ? parallel.part(1, in)
                                      : ParamPart{}});
    if (i == 0) first_weight_ = id;
    last_weight_ = id;
  }
  for (std::size_t i = 0; bias && i < parts.size(); ++i) {
    const ParamId id = params.add({.name = parts[i].name + ".bias",
                                   .shape = Shape{out_here(parts[i])},
                                   .glued = i > 0,
                                   .part = rows ? parallel.part(0, parts[i].out) : ParamPart{}});
    if (i == 0) first_bias_ = id;
    last_bias_ = id;
  }
  std::vector<LowRankAdapters::Part> adapted;
  std::int64_t begin = 0;
  for (const Part& part : parts) {
    adapted.push_back({part.name, begin, {out_here(part), part.out}});
    begin += out_here(part);
  }
  adapters_.add(params, adapted, {columns ? parallel.share_of(in) : in, in},
                rows      ? 0
                : columns ? 1
                          : -1,
                parallel);
}

Linear Linear::tied(ParamId weight, ParamId bias) {
  Linear layer;
  layer.first_weight_ = layer.last_weight_ = weight;
  layer.first_bias_ = layer.last_bias_ = bias;
  return layer;
}

void Linear::bind(const ParamStore& params) {
  packed_ = LinearWeight(params.value(first_weight_, last_weight_), params.version());
  adapters_.bind(params);
}

Tensor Linear::bias(const ParamStore& params) const {
  return first_bias_ ? params.value(first_bias_, last_bias_) : Tensor{};
}

void Linear::forward(Step& step, const ParamStore& params, Tensor y, Tensor x) const {
  const bool summed = split_ == Split::inputs && parallel_.active();
  const bool adds_bias = !summed || parallel_.rank() == 0;
  linear_forward(step.queue, y, x, packed_, adds_bias ? bias(params) : Tensor{});
  if (adapters_) adapters_.forward(step, y, x);
  if (summed) parallel_.sum_unless_shared(step, y);
}

void Linear::backward(Step& step, const ParamStore& params, Tensor dx, Tensor dy, Tensor x,
                      bool accumulate) const {
  if (params.trained(first_weight_))
    linear_backward_weight(step.queue, params.grad(first_weight_, last_weight_),
                           first_bias_ ? params.grad(first_bias_, last_bias_) : Tensor{}, dy, x);
  const ArenaScope scope(step.scratch);
  const Tensor dhidden = adapters_ ? adapters_.backward(step, params, dy, x) : Tensor{};
  // Parameters are used in the order of the arena, so all behind this layer's are final as well;
  // but for those that are sums over tensor-parallel ranks, which the block has to form first.
  if (step.reducer && !parallel_.shares_rows(step) && !params.sums_gradients())
    step.reducer->ready(first_offset(params));
  if (dx) linear_backward_input(step.queue, dx, dy, packed_, accumulate);
  if (dx && adapters_) adapters_.backward_input(step, dx, dhidden);
  if (step.reducer) step.reducer->progress();
}

NormLayer::NormLayer(ParamStore& params, const std::string& name, const ModelConfig& config)
    : kind_(config.norm), eps_(config.norm_eps) {
  const Shape shape{config.hidden_size};
  weight_ = params.add(
      {.name = name + ".weight", .shape = shape, .init = Init::ones, .rows_shared = true});
  if (kind_ == Norm::layer_norm)
    bias_ = params.add({.name = name + ".bias", .shape = shape, .rows_shared = true});
}

void NormLayer::forward(Step& step, const ParamStore& params, Tensor y, Tensor x,
                        NormStats* stats) const {
  const DType wide = accumulate_dtype(x.dtype);
  stats->rstd = step.activations.allocate(Shape{x.rows()}, wide);
  if (kind_ == Norm::rms_norm) {
    rms_norm_forward(step.queue, y, stats->rstd, x, params.value(weight_), eps_);
    return;
  }
  stats->mean = step.activations.allocate(Shape{x.rows()}, wide);
  layer_norm_forward(step.queue, y, stats->mean, stats->rstd, x, params.value(weight_),
                     params.value(bias_), eps_);
}

void NormLayer::backward(Step& step, const ParamStore& params, Tensor dx, Tensor dy, Tensor x,
                         const NormStats& stats, bool accumulate) const {
  const auto gradient = [&](ParamId id) { return params.trained(id) ? params.grad(id) : Tensor{}; };
  if (kind_ == Norm::rms_norm)
    rms_norm_backward(step.queue, dx, gradient(weight_), dy, x, params.value(weight_), stats.rstd,
                      accumulate);
  else
    layer_norm_backward(step.queue, dx, gradient(weight_), gradient(bias_), dy, x,
                        params.value(weight_), stats.mean, stats.rstd, accumulate);
}

Embedding::Embedding(ParamStore& params, const ModelConfig& config, const std::string& name,
                     std::int64_t vocab_size, const TensorParallel& parallel)
    : scale_(config.embedding_scale),
      max_positions_(config.max_positions),
      vocab_size_(vocab_size),
      parallel_(parallel),
      kind_(config.positions) {
  // Scaled tables begin so that scale * value has unit variance.
  const double deviation = scale_ == 1 ? 0.02 : 1 / scale_;
  tokens_ = params.add({.name = name + ".embed_tokens.weight",
                        .shape = Shape{parallel.share_of(vocab_size), config.hidden_size},
                        .init = Init::normal,
                        .scale = deviation,
                        .weight_decay = true,
                        .part = parallel.part(0, vocab_size)});
  if (kind_ == Positions::learned)
    positions_ = params.add({.name = name + ".embed_positions.weight",
                             .shape = Shape{config.max_positions, config.hidden_size},
                             .init = Init::normal,
                             .scale = 0.02,
                             .weight_decay = true});
}

void Embedding::bind(const ModelConfig& config, DType dtype) {
  if (kind_ != Positions::sinusoidal) return;
  const Shape shape{config.max_positions, config.hidden_size};
  table_arena_ = std::make_shared<Arena>(shape.size() * size_of(dtype) + 64);
  sinusoids_ = table_arena_->allocate(shape, dtype);
  sinusoidal_positions(sinusoids_, config.position_offset, config.sinusoids);
}

void Embedding::forward(Step& step, const ParamStore& params, Tensor y,
                        const TokenRows& rows) const {
  if (kind_ != Positions::rotary)
    for (std::int64_t s = 0; s < rows.sequences().count; ++s)
      check_usage(rows.sequences().length(s) <= max_positions_,
                  "a sequence of {} tokens, but the model has {} positions: use shorter sequences",
                  rows.sequences().length(s), max_positions_);
  // Positions are added by one rank of those that share the vocabulary.
  const Tensor table = parallel_.rank() > 0 ? Tensor{}
                       : positions_         ? params.value(positions_)
                                            : sinusoids_;
  embedding_forward(step.queue, y, rows.inputs, params.value(tokens_), scale_, rows.positions,
                    table, part());
  parallel_.sum_unless_shared(step, y);
}

VocabularyPart Embedding::part() const {
  return {parallel_.begin_of(vocab_size_), vocab_size_};
}

void Embedding::backward(Step& step, const ParamStore& params, Tensor dy,
                         const TokenRows& rows) const {
  embedding_backward(step.queue, params.grad(tokens_),
                     positions_ ? params.grad(positions_) : Tensor{}, rows.inputs, rows.positions,
                     dy, scale_, part());
}

}  // namespace t2r
