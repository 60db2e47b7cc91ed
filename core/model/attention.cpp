#include "core/model/attention.h"

#include <cmath>

#include "core/base/random.h"
#include "kernels/elementwise.h"
#include "kernels/rotary.h"

namespace t2r {
namespace {

/// The columns of a fused (query | key | value) matrix.
struct QueryKeyValue {
  Tensor q, k, v;
  QueryKeyValue(const Tensor& qkv, const ModelConfig& config) {
    const std::int64_t nq = config.heads * config.head_dim;
    const std::int64_t nk = config.key_value_heads * config.head_dim;
    q = qkv.column_range(0, nq);
    k = qkv.column_range(nq, nq + nk);
    v = qkv.column_range(nq + nk, nq + 2 * nk);
  }
};

double sigmoid(double x) {
  return 1.0 / (1.0 + std::exp(-x));
}

}  // namespace

Attention::Attention(ParamStore& params, const std::string& name, const ModelConfig& config,
                     std::int64_t layer)
    : config_(config), layer_(layer), linear_(config.is_linear(layer)) {
  const std::int64_t d = config.head_dim, heads = config.heads, k = config.linear.feature_size;
  const double scale = std::sqrt(0.4 / static_cast<double>(config.hidden_size));
  qkv_ = Linear(params,
                {{name + ".q_proj", heads * d},
                 {name + ".k_proj", config.key_value_heads * d},
                 {name + ".v_proj", config.key_value_heads * d}},
                config.hidden_size, config.biases, scale);
  if (linear_) {
    const double bound = 1 / std::sqrt(static_cast<double>(d));
    if (config.linear.feature_map == FeatureMap::t2r) {
      map_weight_ = params.add({.name = name + ".phi.weight",
                                .shape = Shape{heads, k, d},
                                .init = Init::uniform,
                                .scale = bound,
                                .weight_decay = true});
      map_bias_ = params.add({.name = name + ".phi.bias",
                              .shape = Shape{heads, k},
                              .init = Init::uniform,
                              .scale = bound});
    } else if (config.linear.feature_map == FeatureMap::rfa) {
      map_weight_ = params.add({.name = name + ".phi.weight",
                                .shape = Shape{heads, k / 2, d},
                                .init = Init::normal,
                                .trainable = false});
      map_bias_ =
          params.add({.name = name + ".phi.scale", .shape = Shape{heads}, .init = Init::ones});
    }
    if (config.linear.decay != Decay::none)
      decay_ = params.add({.name = name + ".decay",
                           .shape = Shape{heads},
                           .init = Init::decay,
                           .trainable = config.linear.decay == Decay::learned});
  }
  output_ = Linear(params, {{name + ".o_proj", config.hidden_size}}, heads * d, config.biases,
                   scale / std::sqrt(2.0 * static_cast<double>(config.layers)));
}

void Attention::bind(const ParamStore& params) {
  qkv_.bind(params);
  output_.bind(params);
}

FeatureMapWeights Attention::map_weights(const ParamStore& params) const {
  return {config_.linear.feature_map, map_weight_ ? params.value(map_weight_) : Tensor{},
          map_bias_ ? params.value(map_bias_) : Tensor{}};
}

Tensor Attention::gamma(const ParamStore& params, Arena& arena) const {
  if (!decay_) return {};
  const Tensor logits = params.value(decay_);
  const Tensor gamma = arena.allocate(logits.shape, accumulate_dtype(logits.dtype));
  dispatch(logits.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    for (std::int64_t h = 0; h < gamma.size(); ++h)
      gamma.as<A>()[h] = static_cast<A>(sigmoid(static_cast<A>(logits.as<T>()[h])));
  });
  return gamma;
}

AttentionShape Attention::softmax_shape() const {
  return {.heads = config_.heads,
          .key_value_heads = config_.key_value_heads,
          .head_dim = config_.head_dim};
}

LinearAttentionShape Attention::linear_shape() const {
  return {.heads = config_.heads,
          .value_heads = config_.key_value_heads,
          .feature_size = config_.linear.feature_size,
          .head_dim = config_.head_dim,
          .clamp = config_.linear.clamp};
}

double Attention::scale() const {
  return 1 / std::sqrt(static_cast<double>(config_.head_dim));
}

void Attention::forward(Step& step, const ParamStore& params, Tensor y, Tensor x,
                        const Batch& batch, AttentionActivations* kept, LinearState final) const {
  const std::int64_t rows = x.rows(), d = config_.head_dim, heads = config_.heads;
  const DType wide = accumulate_dtype(x.dtype);
  kept->qkv = step.activations.allocate(Shape{rows, qkv_.out()}, x.dtype);
  qkv_.forward(step, params, kept->qkv, x);
  const QueryKeyValue in(kept->qkv, config_);
  if (config_.positions == Positions::rotary) {
    rotary(step.queue, in.q, batch.positions, d, config_.rope_theta, false);
    rotary(step.queue, in.k, batch.positions, d, config_.rope_theta, false);
  }
  kept->context = step.activations.allocate(Shape{rows, heads * d}, x.dtype);
  kept->statistics = step.activations.allocate(Shape{rows, heads}, wide);
  if (linear_) {
    const std::int64_t k = config_.linear.feature_size;
    kept->query_features = step.activations.allocate(Shape{rows, heads * k}, x.dtype);
    kept->key_features = step.activations.allocate(Shape{rows, heads * k}, x.dtype);
    const FeatureMapWeights map = map_weights(params);
    feature_map_forward(step.queue, kept->query_features, in.q, map, heads, heads, scale());
    feature_map_forward(step.queue, kept->key_features, in.k, map, heads, config_.key_value_heads,
                        1.0);
    const ArenaScope scope(step.scratch);
    linear_attention_forward(step.queue, kept->context, kept->statistics, kept->query_features,
                             kept->key_features, in.v, batch.segments, batch.segments,
                             linear_shape(), gamma(params, step.scratch), {}, final);
    if (step.health)
      step.health->push_back(linear_attention_health(kept->query_features, kept->key_features,
                                                     kept->statistics, linear_shape()));
  } else {
    softmax_attention_forward(step.queue, kept->context, kept->statistics, in.q, in.k, in.v,
                              batch.segments, batch.segments, softmax_shape(), scale(),
                              step.dropout(config_.attention_dropout,
                                           static_cast<std::uint64_t>(layer_) * 8, batch.row_ids));
  }
  output_.forward(step, params, y, kept->context);
}

void Attention::backward(Step& step, const ParamStore& params, Tensor dx, Tensor dy, Tensor x,
                         const Batch& batch, const AttentionActivations& kept) const {
  const ArenaScope scope(step.scratch);
  const std::int64_t d = config_.head_dim, heads = config_.heads;
  const Tensor dcontext = step.scratch.allocate(kept.context.shape, x.dtype);
  output_.backward(step, params, dcontext, dy, kept.context);

  const Tensor dqkv = step.scratch.allocate(kept.qkv.shape, x.dtype);
  const QueryKeyValue in(kept.qkv, config_), grad(dqkv, config_);
  if (linear_) {
    const Tensor dquery = step.scratch.allocate(kept.query_features.shape, x.dtype);
    const Tensor dkey = step.scratch.allocate(kept.key_features.shape, x.dtype);
    const Tensor factors = gamma(params, step.scratch);
    const bool learned = config_.linear.decay == Decay::learned;
    Tensor dfactors;
    if (learned) {
      dfactors = step.scratch.allocate(factors.shape, factors.dtype);
      fill(step.queue, dfactors, 0);
    }
    linear_attention_backward(step.queue, dquery, dkey, grad.v, dfactors, dcontext, kept.context,
                              kept.statistics, kept.query_features, kept.key_features, in.v,
                              batch.segments, batch.segments, linear_shape(), factors);
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
    feature_map_backward(step.queue, grad.q, dmap, dquery, kept.query_features, in.q, map, heads,
                         heads, scale());
    feature_map_backward(step.queue, grad.k, dmap, dkey, kept.key_features, in.k, map, heads,
                         config_.key_value_heads, 1.0);
  } else {
    softmax_attention_backward(step.queue, grad.q, grad.k, grad.v, dcontext, kept.context,
                               kept.statistics, in.q, in.k, in.v, batch.segments, batch.segments,
                               softmax_shape(), scale(),
                               step.dropout(config_.attention_dropout,
                                            static_cast<std::uint64_t>(layer_) * 8, batch.row_ids));
  }
  if (config_.positions == Positions::rotary) {
    rotary(step.queue, grad.q, batch.positions, d, config_.rope_theta, true);
    rotary(step.queue, grad.k, batch.positions, d, config_.rope_theta, true);
  }
  qkv_.backward(step, params, dx, dqkv, x);
}

}  // namespace t2r
