#include "core/model/attention_step.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "kernels/attention_window.h"
#include "kernels/elementwise.h"
#include "kernels/rotary.h"

namespace t2r {
namespace {

/// rows of `merged` for one head = map (k, d) times the head's rows of the projection (d, hidden):
/// phi(W x + b) = relu(scale W_phi W x + (b_phi + scale W_phi b)) (METHOD of Kasai et al.,
/// sec. 2.3).
template <class T>
void merge_head(T* merged, T* merged_bias, const T* map, const T* map_bias, const T* projection,
                const T* projection_bias, std::int64_t k, std::int64_t d, std::int64_t hidden,
                double scale) {
  using A = accumulate_t<T>;
  std::vector<A> row(static_cast<std::size_t>(hidden));
  for (std::int64_t f = 0; f < k; ++f) {
    std::fill(row.begin(), row.end(), A(0));
    A bias = 0;
    for (std::int64_t j = 0; j < d; ++j) {
      const A w = static_cast<A>(scale) * static_cast<A>(map[f * d + j]);
      if (projection_bias) bias += w * static_cast<A>(projection_bias[j]);
      const T* in = projection + j * hidden;
      for (std::int64_t c = 0; c < hidden; ++c)
        row[static_cast<std::size_t>(c)] += w * static_cast<A>(in[c]);
    }
    for (std::int64_t c = 0; c < hidden; ++c)
      merged[f * hidden + c] = static_cast<T>(row[static_cast<std::size_t>(c)]);
    merged_bias[f] = static_cast<T>(static_cast<A>(map_bias[f]) + bias);
  }
}

/// The projection (2 heads k + kv_heads d, hidden) that yields unclipped features and values.
template <class T>
void merge_projection(T* weight, T* bias, const Attention& attention, const ParamStore& params) {
  const ModelConfig& c = attention.config();
  const std::int64_t k = attention.feature_size(), d = c.head_dim, hidden = c.hidden_size;
  const FeatureMapWeights map = attention.map_weights(params);
  check(params.trained_part().kind != TrainedPart::lora,
        "decoding with adapters that are not merged: load the model that the run has written");
  const T* projection = attention.projection().weight().tensor().as<T>();
  const Tensor bias_tensor = attention.projection().bias(params);
  const T* projection_bias = bias_tensor ? bias_tensor.as<T>() : nullptr;
  for (std::int64_t part = 0; part < 2; ++part)
    for (std::int64_t h = 0; h < c.heads; ++h) {
      // Rows of the query head, or of the key head that this head shares.
      const std::int64_t first =
          part == 0 ? h * d : (c.heads + h / (c.heads / c.key_value_heads)) * d;
      const std::int64_t out = (part * c.heads + h) * k;
      merge_head(weight + out * hidden, bias + out, map.weight.as<T>() + h * k * d,
                 map.bias.as<T>() + h * k, projection + first * hidden,
                 projection_bias ? projection_bias + first : nullptr, k, d, hidden,
                 part == 0 ? attention.scale() : 1.0);
    }
  const std::int64_t values = c.key_value_heads * d, first = (c.heads + c.key_value_heads) * d;
  T* out = weight + 2 * c.heads * k * hidden;
  std::copy_n(projection + first * hidden, values * hidden, out);
  for (std::int64_t i = 0; i < values; ++i)
    bias[2 * c.heads * k + i] = projection_bias ? projection_bias[first + i] : T(0);
}

/// Keys and values (rows, kv_heads d) of the tokens that the next ones push out of the window, in
/// step.scratch; zeros where the window is not full.
struct Leaving {
  Tensor keys, values;
};

Leaving leave_window(Step& step, const SelfAttentionState& state, const std::int64_t* lengths,
                     std::int64_t rows) {
  const std::int64_t heads = state.keys.shape[1], window = state.keys.shape[2],
                     d = state.keys.shape[3];
  const auto take = [&](const Tensor& ring) {
    const Tensor out = step.scratch.allocate(Shape{rows, heads * d}, ring.dtype);
    dispatch(ring.dtype, [&]<class T>() {
      for (std::int64_t b = 0; b < rows; ++b)
        for (std::int64_t h = 0; h < heads; ++h) {
          const T* from = ring.as<T>() + ((b * heads + h) * window + lengths[b] % window) * d;
          T* to = out.as<T>() + b * out.row_stride + h * d;
          if (lengths[b] < window)
            std::fill_n(to, d, T(0));
          else
            std::copy_n(from, d, to);
        }
    });
    return out;
  };
  return {take(state.keys), take(state.values)};
}

}  // namespace

SelfAttentionState SelfAttentionState::make(const Attention& attention, const ParamStore& params,
                                            std::int64_t batch, std::int64_t capacity, bool merge,
                                            Arena& memory) {
  const ModelConfig& c = attention.config();
  const DType dtype = params.dtype(), wide = accumulate_dtype(dtype);
  SelfAttentionState state;
  const std::int64_t cached = attention.linear() ? attention.window() : capacity;
  if (cached) {
    const Shape cache{batch, c.key_value_heads, cached, c.head_dim};
    state.keys = memory.allocate(cache, dtype);
    state.values = memory.allocate(cache, dtype);
  }
  if (!attention.linear()) return state;
  const std::int64_t k = attention.feature_size();
  state.linear.s = memory.allocate(Shape{batch, c.heads, k, c.head_dim}, wide);
  state.linear.z = memory.allocate(Shape{batch, c.heads, k}, wide);
  state.gamma = attention.gamma(params, memory);
  if (attention.window()) state.gates = attention.gates(params, memory);
  if (!merge || c.positions == Positions::rotary || c.linear.feature_map != FeatureMap::t2r ||
      attention.window())
    return state;
  const std::int64_t rows = 2 * c.heads * k + c.key_value_heads * c.head_dim;
  const Tensor weight = memory.allocate(Shape{rows, c.hidden_size}, dtype);
  state.merged_bias = memory.allocate(Shape{rows}, dtype);
  dispatch(dtype, [&]<class T>() {
    merge_projection(weight.as<T>(), state.merged_bias.as<T>(), attention, params);
  });
  state.merged = LinearWeight(weight);
  return state;
}

std::int64_t SelfAttentionState::bytes(const ModelConfig& c, std::int64_t batch,
                                       std::int64_t capacity) {
  const std::int64_t head = std::max(c.head_dim, std::int64_t{1}) + 1;
  const std::int64_t k = c.causal_feature_size();
  const std::int64_t entries = std::max(capacity, c.linear.window);
  const std::int64_t cache = 2 * batch * c.key_value_heads * entries * head;
  const std::int64_t state = batch * c.heads * k * head;
  const std::int64_t merged = (2 * c.heads * k + c.key_value_heads * head) * (c.hidden_size + 1);
  return 8 * (cache + state + merged + 2 * c.heads + 64);
}

void SelfAttentionState::fill_caches(Queue queue, Tensor prompt_keys, Tensor prompt_values,
                                     const Segments& prompts) const {
  if (!keys) return;
  const std::int64_t heads = keys.shape[1], entries = keys.shape[2], d = keys.shape[3];
  for (std::int64_t b = 0; b < prompts.count; ++b) {
    const std::int64_t length = prompts.length(b);
    for (std::int64_t t = std::max<std::int64_t>(0, length - entries); t < length;) {
      // Up to the end of the prompt, or of the ring.
      const std::int64_t place = t % entries, count = std::min(length - t, entries - place);
      const std::int64_t row = prompts.offsets[b] + t;
      for (std::int64_t h = 0; h < heads; ++h)
        for (const auto& [cache, from] : {std::pair{keys, prompt_keys}, {values, prompt_values}})
          copy(queue,
               cache.view(Shape{cache.shape[0] * heads, entries * d})
                   .row_range(b * heads + h, b * heads + h + 1)
                   .column_range(place * d, (place + count) * d)
                   .view(Shape{count, d}),
               from.row_range(row, row + count).column_range(h * d, h * d + d));
      t += count;
    }
  }
}

std::int64_t SelfAttentionState::held_bytes(std::int64_t length) const {
  std::int64_t bytes = 0;
  if (linear.s)
    bytes += (linear.s.bytes() + linear.z.bytes()) / std::max<std::int64_t>(linear.s.rows(), 1);
  if (keys)
    bytes +=
        2 * std::min(length, keys.shape[2]) * keys.shape[1] * keys.shape[3] * size_of(keys.dtype);
  return bytes;
}

void SelfAttentionState::clear() const {
  if (!linear.s) return;
  fill(Queue{}, linear.s, 0);
  fill(Queue{}, linear.z, 0);
}

SelfAttentionState SelfAttentionState::first(std::int64_t rows) const {
  SelfAttentionState part = *this;
  for (Tensor* tensor : {&part.linear.s, &part.linear.z, &part.keys, &part.values})
    if (*tensor) *tensor = tensor->row_range(0, rows);
  return part;
}

void self_attention_step(Step& step, const ParamStore& params, const Attention& attention,
                         const SelfAttentionState& state, Tensor y, Tensor x,
                         const std::int32_t* positions, const std::int64_t* lengths) {
  const ModelConfig& c = attention.config();
  const std::int64_t rows = x.rows(), d = c.head_dim, k = attention.feature_size();
  const Tensor context = step.scratch.allocate(Shape{rows, c.heads * d}, x.dtype);
  if (state.merged.tensor()) {
    const std::int64_t features = 2 * c.heads * k;
    const Tensor all = step.scratch.allocate(Shape{rows, state.merged.out()}, x.dtype);
    linear_forward(step.queue, all, x, state.merged, state.merged_bias);
    relu_inplace(step.queue, all.column_range(0, features));
    linear_attention_step(step.queue, context, state.linear, all.column_range(0, c.heads * k),
                          all.column_range(c.heads * k, features),
                          all.column_range(features, all.shape[1]), attention.linear_shape(),
                          state.gamma);
    attention.output().forward(step, params, y, context);
    return;
  }
  const std::int64_t nq = c.heads * d, nk = c.key_value_heads * d;
  const Tensor qkv = step.scratch.allocate(Shape{rows, nq + 2 * nk}, x.dtype);
  attention.projection().forward(step, params, qkv, x);
  const Tensor q = qkv.column_range(0, nq), key = qkv.column_range(nq, nq + nk),
               value = qkv.column_range(nq + nk, nq + 2 * nk);
  if (c.positions == Positions::rotary) {
    rotary(step.queue, q, positions, d, c.rope_theta, false);
    rotary(step.queue, key, positions, d, c.rope_theta, false);
  }
  if (attention.linear()) {
    const FeatureMapWeights map = attention.map_weights(params);
    const Tensor query_features = step.scratch.allocate(Shape{rows, c.heads * k}, x.dtype);
    const Tensor key_features = step.scratch.allocate(Shape{rows, c.heads * k}, x.dtype);
    feature_map_forward(step.queue, query_features, q, map, c.heads, c.heads, attention.scale());
    if (attention.window()) {
      const Leaving leaving = leave_window(step, state, lengths, rows);
      feature_map_forward(step.queue, key_features, leaving.keys, map, c.heads, c.key_value_heads,
                          1.0);
      for (std::int64_t b = 0; b < rows; ++b)  // nothing has left yet: phi(0) may not be 0
        if (lengths[b] < attention.window()) fill(step.queue, key_features.row_range(b, b + 1), 0);
      const Tensor denominator =
          step.scratch.allocate(Shape{rows, c.heads}, accumulate_dtype(x.dtype));
      const Tensor near = step.scratch.allocate(context.shape, x.dtype);
      linear_attention_step(step.queue, context, state.linear, query_features, key_features,
                            leaving.values, attention.linear_shape(), state.gamma, denominator);
      softmax_attention_step(step.queue, near, state.keys, state.values, q, key, value, lengths,
                             attention.window_shape(), attention.scale());
      window_combine(step.queue, context, denominator, near, state.gates,
                     attention.linear_shape().clamp);
    } else {
      feature_map_forward(step.queue, key_features, key, map, c.heads, c.key_value_heads, 1.0);
      linear_attention_step(step.queue, context, state.linear, query_features, key_features, value,
                            attention.linear_shape(), state.gamma);
    }
  } else {
    softmax_attention_step(step.queue, context, state.keys, state.values, q, key, value, lengths,
                           attention.softmax_shape(), attention.scale());
  }
  attention.output().forward(step, params, y, context);
}

}  // namespace t2r
