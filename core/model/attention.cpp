#include "core/model/attention.h"

#include <cmath>

#include "core/base/random.h"
#include "core/model/context_parallel.h"
#include "core/model/distillation.h"
#include "kernels/attention_window.h"
#include "kernels/elementwise.h"
#include "kernels/rotary.h"

namespace t2r {
namespace {

double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

/// The gate's logarithm at the start: the window weighs what as many tokens before it do, when
/// phi(q) . phi(k) is what fresh maps give on the average.
double first_gate(const LinearAttentionConfig& linear, std::int64_t feature_size) {
  const auto k = static_cast<double>(feature_size);
  const double product = linear.feature_map == FeatureMap::hedgehog ? 4 / k  // two that sum to 1
                         : linear.feature_map == FeatureMap::elu    ? k
                                                                    : k / 10;  // half are 0
  return std::log(static_cast<double>(linear.window) * product);
}

/// y (heads) = f(x), from a parameter's type to accumulate_dtype.
template <class F>
Tensor map_heads(Tensor x, Arena& arena, F f) {
  const Tensor y = arena.allocate(x.shape, accumulate_dtype(x.dtype));
  dispatch(x.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    for (std::int64_t h = 0; h < y.size(); ++h)
      y.as<A>()[h] = static_cast<A>(f(static_cast<A>(x.as<T>()[h])));
  });
  return y;
}

}  // namespace

Attention::Attention(ParamStore& params, const std::string& name, const ModelConfig& config,
                     AttentionKind kind, bool linear, std::uint64_t site,
                     const TensorParallel& parallel)
    : config_(part_of_model(config, parallel)),
      parallel_(parallel),
      kind_(kind),
      linear_(linear),
      site_(site) {
  feature_size_ =
      kind == AttentionKind::causal ? config.causal_feature_size() : config.linear.feature_size;
  const ParamId first{params.count()};
  const double scale = std::sqrt(0.4 / static_cast<double>(config.hidden_size));
  const std::int64_t nq = config.heads * config.head_dim;
  const std::int64_t nk = config.key_value_heads * config.head_dim;
  std::vector<Linear::Part> q{{name + ".q_proj", nq}};
  const std::vector<Linear::Part> kv{{name + ".k_proj", nk}, {name + ".v_proj", nk}};
  if (kind != AttentionKind::cross) q.insert(q.end(), kv.begin(), kv.end());
  const auto by_heads = [&](const std::vector<Linear::Part>& parts) {
    return Linear(params, parts, config.hidden_size, config.has_qkv_biases(), scale,
                  Linear::Split::outputs, parallel);
  };
  query_ = by_heads(q);
  if (kind == AttentionKind::cross) key_value_ = by_heads(kv);
  const ParamId first_of_map{params.count()};
  if (linear_) add_feature_map(params, name);
  params.assign(first_of_map, ParamGroup::feature_map);
  output_ = Linear(params, {{name + ".o_proj", config.hidden_size}}, nq, config.biases,
                   scale / std::sqrt(2.0 * static_cast<double>(config.layers)),
                   Linear::Split::inputs, parallel);
  if (linear_) params.assign(first, ParamGroup::swapped_attention);
}

void Attention::add_feature_map(ParamStore& params, const std::string& name) {
  const std::int64_t d = config_.head_dim, heads = config_.heads, k = feature_size_;
  const ParamPart part = parallel_.part(0, heads * parallel_.size());
  const double bound = 1 / std::sqrt(static_cast<double>(d));
  if (config_.linear.feature_map == FeatureMap::t2r) {
    map_weight_ = params.add({.name = name + ".phi.weight",
                              .shape = Shape{heads, k, d},
                              .init = Init::uniform,
                              .scale = bound,
                              .weight_decay = true,
                              .part = part});
    map_bias_ = params.add({.name = name + ".phi.bias",
                            .shape = Shape{heads, k},
                            .init = Init::uniform,
                            .scale = bound,
                            .part = part});
  } else if (config_.linear.feature_map == FeatureMap::rfa) {
    map_weight_ = params.add({.name = name + ".phi.weight",
                              .shape = Shape{heads, k / 2, d},
                              .init = Init::normal,
                              .trainable = false,
                              .part = part});
    map_bias_ = params.add(
        {.name = name + ".phi.scale", .shape = Shape{heads}, .init = Init::ones, .part = part});
  } else if (config_.linear.feature_map == FeatureMap::hedgehog) {
    map_weight_ = params.add({.name = name + ".phi.weight",
                              .shape = Shape{heads, k / 2, d},
                              .init = Init::identity,
                              .scale = bound,
                              .weight_decay = true,
                              .part = part});
  }
  if (config_.linear.decay != Decay::none && kind_ == AttentionKind::causal)
    decay_ = params.add({.name = name + ".decay",
                         .shape = Shape{heads},
                         .init = Init::decay,
                         .trainable = config_.linear.decay == Decay::learned,
                         .part = part});
  if (window())
    gate_ = params.add({.name = name + ".window_gate",
                        .shape = Shape{heads},
                        .init = Init::constant,
                        .scale = first_gate(config_.linear, k),
                        .part = part});
}

void Attention::bind(const ParamStore& params) {
  query_.bind(params);
  if (kind_ == AttentionKind::cross) key_value_.bind(params);
  output_.bind(params);
}

FeatureMapWeights Attention::map_weights(const ParamStore& params) const {
  return {config_.linear.feature_map, map_weight_ ? params.value(map_weight_) : Tensor{},
          map_bias_ ? params.value(map_bias_) : Tensor{}};
}

Tensor Attention::gamma(const ParamStore& params, Arena& arena) const {
  if (!decay_) return {};
  return map_heads(params.value(decay_), arena, sigmoid);
}

Tensor Attention::gates(const ParamStore& params, Arena& arena) const {
  return map_heads(params.value(gate_), arena, [](double x) { return std::exp(x); });
}

AttentionShape Attention::softmax_shape() const {
  return {.heads = config_.heads,
          .key_value_heads = config_.key_value_heads,
          .head_dim = config_.head_dim,
          .causal = kind_ == AttentionKind::causal};
}

AttentionShape Attention::window_shape() const {
  AttentionShape shape = softmax_shape();
  shape.window = window();
  return shape;
}

LinearAttentionShape Attention::linear_shape() const {
  return {.heads = config_.heads,
          .value_heads = config_.key_value_heads,
          .feature_size = feature_size_,
          .head_dim = config_.head_dim,
          .causal = kind_ == AttentionKind::causal,
          // Beside a window the gate keeps the denominator away from 0: nothing is clamped.
          .clamp = window() ? 1e-30 : config_.linear.clamp};
}

double Attention::scale() const {
  return 1 / std::sqrt(static_cast<double>(config_.head_dim));
}

Dropout Attention::weight_dropout(const Step& step, const TokenRows& rows) const {
  Dropout dropout = step.dropout(config_.attention_dropout, site_, rows.row_ids);
  dropout.whole_columns = config_.heads * parallel_.size();
  dropout.first_column = config_.heads * parallel_.rank();
  return dropout;
}

void Attention::forward(Step& step, const ParamStore& params, Tensor y, Tensor x,
                        const TokenRows& rows, Tensor memory, const TokenRows& source,
                        AttentionActivations* kept, LinearState final) const {
  const std::int64_t d = config_.head_dim, heads = config_.heads;
  const std::int64_t nq = heads * d, nk = config_.key_value_heads * d;
  const auto keep = [&](std::int64_t count, std::int64_t columns, DType dtype) {
    return step.activations.allocate(Shape{count, columns}, dtype);
  };
  const Tensor projected = keep(x.rows(), query_.out(), x.dtype);
  query_.forward(step, params, projected, x);
  kept->q = projected.column_range(0, nq);
  Tensor key_value;
  if (kind_ == AttentionKind::cross) {
    key_value = keep(memory.rows(), 2 * nk, x.dtype);
    key_value_.forward(step, params, key_value, memory);
  } else {
    key_value = projected.column_range(nq, nq + 2 * nk);
  }
  kept->k = key_value.column_range(0, nk);
  kept->v = key_value.column_range(nk, 2 * nk);
  if (config_.positions == Positions::rotary) {
    rotary(step.queue, kept->q, rows.positions, d, config_.rope_theta, false);
    rotary(step.queue, kept->k, rows.positions, d, config_.rope_theta, false);
  }
  kept->context = keep(x.rows(), nq, x.dtype);
  kept->statistics = keep(x.rows(), heads, accumulate_dtype(x.dtype));
  if (linear_ && !step.transfer) {
    linear_forward(step, params, rows, source, kept, final);
  } else if (rows.context) {
    shared_softmax_forward(step, rows, *kept);
  } else {
    softmax_attention_forward(step.queue, kept->context, kept->statistics, kept->q, kept->k,
                              kept->v, rows.segments, source.segments, softmax_shape(), scale(),
                              weight_dropout(step, rows));
  }
  if (linear_ && step.transfer) learn_from_softmax(step, params, rows, source, *kept);
  output_.forward(step, params, y, kept->context);
}

void Attention::learn_from_softmax(Step& step, const ParamStore& params, const TokenRows& rows,
                                   const TokenRows& source,
                                   const AttentionActivations& softmax) const {
  const ArenaScope activations_scope(step.activations), scope(step.scratch);
  const Tensor& target = softmax.context;
  AttentionActivations linear = softmax;
  linear.context = step.activations.allocate(target.shape, target.dtype);
  linear.statistics = step.activations.allocate(softmax.statistics.shape, softmax.statistics.dtype);
  linear_forward(step, params, rows, source, &linear, {});
  const auto scratch = [&](Tensor like) {
    return step.scratch.allocate(Shape{like.rows(), like.columns_count()}, like.dtype);
  };
  const Tensor dcontext = scratch(target);
  Transfer& transfer = *step.transfer;
  check(transfer.next < transfer.layers.size(), "attention transfer: more swapped layers than {}",
        transfer.layers.size());
  Transfer::Layer& layer = transfer.layers[transfer.next++];
  layer.error +=
      squared_difference(step.queue, dcontext, linear.context, target, 2 * transfer.scale);
  layer.target += sum_of_squares(step.queue, target);
  linear_backward(step, params, scratch(linear.q), scratch(linear.k), scratch(linear.v), dcontext,
                  rows, source, linear);
}

void Attention::linear_forward(Step& step, const ParamStore& params, const TokenRows& rows,
                               const TokenRows& source, AttentionActivations* kept,
                               LinearState final) const {
  const std::int64_t heads = config_.heads;
  const auto keep = [&](std::int64_t count, std::int64_t columns, DType dtype) {
    return step.activations.allocate(Shape{count, columns}, dtype);
  };
  kept->query_features = keep(kept->q.rows(), heads * feature_size_, kept->q.dtype);
  kept->key_features = keep(kept->k.rows(), heads * feature_size_, kept->k.dtype);
  const FeatureMapWeights map = map_weights(params);
  feature_map_forward(step.queue, kept->query_features, kept->q, map, heads, heads, scale());
  feature_map_forward(step.queue, kept->key_features, kept->k, map, heads, config_.key_value_heads,
                      1.0);
  if (rows.context) {
    const StateMessage message(step.activations, linear_shape(), rows.segments.count,
                               kept->statistics.dtype);
    const ArenaScope scope(step.scratch);
    const Tensor factors = gamma(params, step.scratch);
    linear_attention_state(step.queue, message.state, kept->key_features, kept->v, rows.segments,
                           linear_shape(), factors);
    states_before(step, rows, message, factors);
    kept->initial = message.state;
  }
  if (window()) {
    kept->window = keep(kept->context.rows(), kept->context.columns_count(), kept->q.dtype);
    kept->window_statistics = keep(kept->context.rows(), heads, kept->statistics.dtype);
    softmax_attention_forward(step.queue, kept->window, kept->window_statistics, kept->q, kept->k,
                              kept->v, rows.segments, rows.segments, window_shape(), scale(), {});
  }
  const ArenaScope scope(step.scratch);
  const Tensor keys = behind_window(step, kept->key_features, rows.segments);
  const Tensor values = behind_window(step, kept->v, rows.segments);
  linear_attention_forward(step.queue, kept->context, kept->statistics, kept->query_features, keys,
                           values, rows.segments, source.segments, linear_shape(),
                           gamma(params, step.scratch), kept->initial, final);
  if (step.health)
    step.health->push_back(linear_attention_health(kept->query_features, kept->key_features,
                                                   kept->statistics, linear_shape()));
  if (window())
    window_combine(step.queue, kept->context, kept->statistics, kept->window,
                   gates(params, step.scratch), linear_shape().clamp);
}

Tensor Attention::behind_window(Step& step, Tensor x, const Segments& segments) const {
  if (window() == 0) return x;
  const Tensor shifted = step.scratch.allocate(Shape{x.rows(), x.columns_count()}, x.dtype);
  shift_rows(step.queue, shifted, x, segments, window());
  return shifted;
}

void Attention::window_backward(Step& step, const ParamStore& params, Tensor dq, Tensor dk,
                                Tensor dv, Tensor dcontext, const TokenRows& rows,
                                const AttentionActivations& kept) const {
  const ArenaScope scope(step.scratch);
  const auto scratch = [&](Tensor like) {
    return step.scratch.allocate(Shape{like.rows(), like.columns_count()}, like.dtype);
  };
  const Tensor dwindow = scratch(dcontext);
  const Tensor gate = gates(params, step.scratch);
  const Tensor dgate = step.scratch.allocate(gate.shape, gate.dtype);
  fill(step.queue, dgate, 0);
  window_gradient(step.queue, dwindow, dgate, dcontext, kept.context, kept.statistics, kept.window,
                  gate);
  dispatch(gate.dtype, [&]<class A>() {  // of the gate's logarithm
    for (std::int64_t h = 0; h < gate.size(); ++h)
      params.grad(gate_).as<accumulate_t<A>>()[h] +=
          dgate.as<accumulate_t<A>>()[h] * gate.as<accumulate_t<A>>()[h];
  });
  if (step.transfer) return;
  const Tensor near_q = scratch(dq), near_k = scratch(dk), near_v = scratch(dv);
  softmax_attention_backward(step.queue, near_q, near_k, near_v, dwindow, kept.window,
                             kept.window_statistics, kept.q, kept.k, kept.v, rows.segments,
                             rows.segments, window_shape(), scale(), {});
  add_to(step.queue, dq, near_q);
  add_to(step.queue, dk, near_k);
  add_to(step.queue, dv, near_v);
}

void Attention::linear_backward(Step& step, const ParamStore& params, Tensor dq, Tensor dk,
                                Tensor dv, Tensor dcontext, const TokenRows& rows,
                                const TokenRows& source, const AttentionActivations& kept) const {
  const std::int64_t heads = config_.heads;
  const DType dtype = dcontext.dtype;
  const Tensor dquery = step.scratch.allocate(kept.query_features.shape, dtype);
  const Tensor dkey = step.scratch.allocate(kept.key_features.shape, dtype);
  // Of what has left the window, where there is one.
  const auto behind = [&](Tensor x) {
    return window() ? step.scratch.allocate(Shape{x.rows(), x.columns_count()}, x.dtype) : x;
  };
  const Tensor far_dkey = behind(dkey), far_dv = behind(dv);
  const Tensor factors = gamma(params, step.scratch);
  const bool learned = decay_ && config_.linear.decay == Decay::learned;
  Tensor dfactors;
  if (learned) {
    dfactors = step.scratch.allocate(factors.shape, factors.dtype);
    fill(step.queue, dfactors, 0);
  }
  LinearEnds ends;
  if (rows.context) {
    const StateMessage message(step.scratch, linear_shape(), rows.segments.count,
                               kept.statistics.dtype);
    linear_attention_state_backward(step.queue, message.state, dcontext, kept.context,
                                    kept.statistics, kept.query_features, rows.segments,
                                    linear_shape(), factors);
    state_gradients_after(step, rows, message, factors);
    ends = {kept.initial, message.state, {}};
  }
  linear_attention_backward(step.queue, dquery, far_dkey, far_dv, dfactors, dcontext, kept.context,
                            kept.statistics, kept.query_features,
                            behind_window(step, kept.key_features, rows.segments),
                            behind_window(step, kept.v, rows.segments), rows.segments,
                            source.segments, linear_shape(), factors, LinearForm::automatic, ends);
  if (window()) {
    shift_rows(step.queue, dkey, far_dkey, rows.segments, -window());
    shift_rows(step.queue, dv, far_dv, rows.segments, -window());
  }
  if (learned)
    dispatch(factors.dtype, [&]<class T>() {
      using A = accumulate_t<T>;
      A* dlogits = params.grad(decay_).as<A>();
      for (std::int64_t h = 0; h < heads; ++h) {
        const A g = factors.as<A>()[h];
        dlogits[h] += dfactors.as<A>()[h] * g * (1 - g);
      }
    });
  const FeatureMapWeights map = map_weights(params);
  const bool fixed_weight = map.kind == FeatureMap::rfa;  // drawn once, not trained
  const FeatureMapWeights dmap{map.kind,
                               map_weight_ && !fixed_weight ? params.grad(map_weight_) : Tensor{},
                               map_bias_ ? params.grad(map_bias_) : Tensor{}};
  feature_map_backward(step.queue, dq, dmap, dquery, kept.query_features, kept.q, map, heads, heads,
                       scale());
  feature_map_backward(step.queue, dk, dmap, dkey, kept.key_features, kept.k, map, heads,
                       config_.key_value_heads, 1.0);
  if (window()) window_backward(step, params, dq, dk, dv, dcontext, rows, kept);
}

void Attention::shared_softmax_forward(Step& step, const TokenRows& rows,
                                       const AttentionActivations& kept) const {
  const ArenaScope scope(step.scratch);
  const KeyValues source = gather_key_values(step, rows, kept.k, kept.v);
  softmax_attention_forward(step.queue, kept.context, kept.statistics, kept.q, source.k, source.v,
                            rows.segments, source.segments, softmax_shape(), scale(),
                            weight_dropout(step, rows));
}

void Attention::shared_softmax_backward(Step& step, Tensor dq, Tensor dk, Tensor dv,
                                        Tensor dcontext, const TokenRows& rows,
                                        const AttentionActivations& kept) const {
  const ArenaScope scope(step.scratch);
  // Once more: kept from forward they would be the whole sequences' on every rank.
  const KeyValues source = gather_key_values(step, rows, kept.k, kept.v);
  KeyValues gradients;
  gradients.k = step.scratch.allocate(source.k.shape, dk.dtype);
  gradients.v = step.scratch.allocate(source.v.shape, dv.dtype);
  softmax_attention_backward(step.queue, dq, gradients.k, gradients.v, dcontext, kept.context,
                             kept.statistics, kept.q, source.k, source.v, rows.segments,
                             source.segments, softmax_shape(), scale(), weight_dropout(step, rows));
  scatter_key_value_gradients(step, rows, gradients, dk, dv);
}

void Attention::backward(Step& step, const ParamStore& params, Tensor dx, Tensor dmemory, Tensor dy,
                         Tensor x, const TokenRows& rows, Tensor memory, const TokenRows& source,
                         const AttentionActivations& kept) const {
  const ArenaScope scope(step.scratch);
  const std::int64_t d = config_.head_dim;
  const std::int64_t nq = config_.heads * d, nk = config_.key_value_heads * d;
  const Tensor dcontext = step.scratch.allocate(kept.context.shape, x.dtype);
  output_.backward(step, params, dcontext, dy, kept.context);

  const Tensor dprojected = step.scratch.allocate(Shape{x.rows(), query_.out()}, x.dtype);
  const Tensor dkey_value = kind_ == AttentionKind::cross
                                ? step.scratch.allocate(Shape{memory.rows(), 2 * nk}, x.dtype)
                                : dprojected.column_range(nq, nq + 2 * nk);
  const Tensor dq = dprojected.column_range(0, nq), dk = dkey_value.column_range(0, nk),
               dv = dkey_value.column_range(nk, 2 * nk);
  if (linear_)
    linear_backward(step, params, dq, dk, dv, dcontext, rows, source, kept);
  else if (rows.context)
    shared_softmax_backward(step, dq, dk, dv, dcontext, rows, kept);
  else
    softmax_attention_backward(step.queue, dq, dk, dv, dcontext, kept.context, kept.statistics,
                               kept.q, kept.k, kept.v, rows.segments, source.segments,
                               softmax_shape(), scale(), weight_dropout(step, rows));
  if (config_.positions == Positions::rotary) {
    rotary(step.queue, dq, rows.positions, d, config_.rope_theta, true);
    rotary(step.queue, dk, rows.positions, d, config_.rope_theta, true);
  }
  if (kind_ == AttentionKind::cross)
    key_value_.backward(step, params, dmemory, dkey_value, memory, true);
  if (!query_.trained_before(params)) {  // nobody reads dx
    query_.backward(step, params, {}, dprojected, x);
    fill(step.queue, dx, 0);
    return;
  }
  query_.backward(step, params, dx, dprojected, x);
  parallel_.sum_unless_shared(step, dx);
}

void Attention::project_memory(Step& step, const ParamStore& params, Tensor* keys, Tensor* values,
                               Tensor memory) const {
  const std::int64_t nk = config_.key_value_heads * config_.head_dim;
  const Tensor both = step.scratch.allocate(Shape{memory.rows(), 2 * nk}, memory.dtype);
  key_value_.forward(step, params, both, memory);
  *keys = both.column_range(0, nk);
  *values = both.column_range(nk, 2 * nk);
}

}  // namespace t2r
