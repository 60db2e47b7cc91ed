#include "core/model/decoder.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/elementwise.h"
#include "kernels/rotary.h"

namespace t2r {
namespace {

/// Room for one decoding step, or for a prompt: reserved, used only as touched.
constexpr std::int64_t kWorkingMemory = std::int64_t{16} << 30;

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
  const std::int64_t k = c.linear.feature_size, d = c.head_dim, hidden = c.hidden_size;
  const FeatureMapWeights map = attention.map_weights(params);
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

/// Bytes of everything that lives as long as the decoder, rounded up generously (reserved only).
std::int64_t memory_needed(const ModelConfig& c, const DecoderOptions& options) {
  const std::int64_t head = std::max(c.head_dim, std::int64_t{1}) + 1;
  const std::int64_t cache = 2 * options.batch * c.key_value_heads * options.capacity * head;
  const std::int64_t state = options.batch * c.heads * c.linear.feature_size * head;
  const std::int64_t merged =
      (2 * c.heads * c.linear.feature_size + c.key_value_heads * head) * (c.hidden_size + 1);
  return 8 * (c.layers * (cache + state + merged + c.heads + 64) + options.batch * c.vocab_size) +
         (std::int64_t{1} << 20);
}

}  // namespace

Decoder::Decoder(const Transformer& model, const DecoderOptions& options)
    : model_(model),
      options_(options),
      memory_(memory_needed(model.config(), options)),
      activations_(kWorkingMemory),
      scratch_(kWorkingMemory),
      lengths_(static_cast<std::size_t>(options.batch), 0) {
  const ModelConfig& c = model.config();
  const std::int64_t batch = options.batch;
  check_usage(batch >= 1, "a decoder for {} sequences: there must be at least one", batch);
  check_usage(options.capacity >= 1, "a decoder for sequences of {} tokens", options.capacity);
  check_usage(c.positions == Positions::rotary || options.capacity <= c.max_positions,
              "sequences of {} tokens were asked for, but the model has {} positions: generate "
              "fewer tokens",
              options.capacity, c.max_positions);
  const DType dtype = model.params().dtype(), wide = accumulate_dtype(dtype);
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    const Attention& attention = model.block(layer).attention();
    LayerState state;
    if (!attention.linear()) {
      const Shape cache{batch, c.key_value_heads, options.capacity, c.head_dim};
      state.keys = memory_.allocate(cache, dtype);
      state.values = memory_.allocate(cache, dtype);
    } else {
      const std::int64_t k = c.linear.feature_size;
      state.linear.s = memory_.allocate(Shape{batch, c.heads, k, c.head_dim}, wide);
      state.linear.z = memory_.allocate(Shape{batch, c.heads, k}, wide);
      state.gamma = attention.gamma(model.params(), memory_);
      if (options.merge_feature_maps && c.positions != Positions::rotary &&
          c.linear.feature_map == FeatureMap::t2r) {
        const std::int64_t rows = 2 * c.heads * k + c.key_value_heads * c.head_dim;
        const Tensor weight = memory_.allocate(Shape{rows, c.hidden_size}, dtype);
        state.merged_bias = memory_.allocate(Shape{rows}, dtype);
        dispatch(dtype, [&]<class T>() {
          merge_projection(weight.as<T>(), state.merged_bias.as<T>(), attention, model.params());
        });
        state.merged = LinearWeight(weight);
      }
    }
    layers_.push_back(std::move(state));
  }
  logits_ = memory_.allocate(Shape{batch, c.vocab_size}, wide);
  reset();
}

void Decoder::reset() {
  std::fill(lengths_.begin(), lengths_.end(), 0);
  for (LayerState& state : layers_)
    if (state.linear.s) {
      fill(Queue{}, state.linear.s, 0);
      fill(Queue{}, state.linear.z, 0);
    }
}

std::int64_t Decoder::state_bytes() const {
  const std::int64_t tokens = std::accumulate(lengths_.begin(), lengths_.end(), std::int64_t{0});
  const ModelConfig& c = model_.config();
  std::int64_t bytes = 0;
  for (const LayerState& state : layers_)
    bytes += state.linear.s
                 ? state.linear.s.bytes() + state.linear.z.bytes()
                 : 2 * tokens * c.key_value_heads * c.head_dim * size_of(model_.params().dtype());
  return bytes;
}

Tensor Decoder::output_logits(Tensor x) {
  Step step{.activations = activations_, .scratch = scratch_, .queue = {}};
  const Tensor normed = scratch_.allocate(x.shape, x.dtype);
  model_.apply_final_norm(step, normed, x);
  model_.output().forward(step, model_.params(), logits_, normed);
  return logits_;
}

Tensor Decoder::prefill(const std::vector<std::vector<std::int32_t>>& prompts) {
  const ModelConfig& c = model_.config();
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
    if (layers_[layer].keys) {
      const std::int64_t d = c.head_dim, kv = c.key_value_heads;
      for (std::int64_t b = 0; b < batch; ++b)
        for (std::int64_t part = 0; part < 2; ++part)
          for (std::int64_t h = 0; h < kv; ++h) {
            const Tensor& cache = part == 0 ? layers_[layer].keys : layers_[layer].values;
            const Tensor place = cache.view(Shape{batch * kv, options_.capacity * d})
                                     .row_range(b * kv + h, b * kv + h + 1)
                                     .column_range(0, input.segments.length(b) * d)
                                     .view(Shape{input.segments.length(b), d});
            copy(step.queue, place,
                 (part == 0 ? kept.attention.k : kept.attention.v)
                     .row_range(offsets[static_cast<std::size_t>(b)],
                                offsets[static_cast<std::size_t>(b) + 1])
                     .column_range(h * d, h * d + d));
          }
    }
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

void Decoder::attention_step(std::size_t layer, Tensor y, Tensor x) {
  const Block& block = model_.block(static_cast<std::int64_t>(layer));
  const Attention& attention = block.attention();
  const ModelConfig& c = model_.config();
  const ParamStore& params = model_.params();
  LayerState& state = layers_[layer];
  Step step{.activations = activations_, .scratch = scratch_, .queue = {}};
  const std::int64_t rows = x.rows(), d = c.head_dim, k = c.linear.feature_size;
  const Tensor context = scratch_.allocate(Shape{rows, c.heads * d}, x.dtype);

  if (state.merged.tensor()) {
    const std::int64_t features = 2 * c.heads * k;
    const Tensor all = scratch_.allocate(Shape{rows, state.merged.out()}, x.dtype);
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
  const Tensor qkv = scratch_.allocate(Shape{rows, nq + 2 * nk}, x.dtype);
  attention.projection().forward(step, params, qkv, x);
  const Tensor q = qkv.column_range(0, nq), key = qkv.column_range(nq, nq + nk),
               value = qkv.column_range(nq + nk, nq + 2 * nk);
  if (c.positions == Positions::rotary) {
    rotary(step.queue, q, positions_.data(), d, c.rope_theta, false);
    rotary(step.queue, key, positions_.data(), d, c.rope_theta, false);
  }
  if (attention.linear()) {
    const FeatureMapWeights map = attention.map_weights(params);
    const Tensor query_features = scratch_.allocate(Shape{rows, c.heads * k}, x.dtype);
    const Tensor key_features = scratch_.allocate(Shape{rows, c.heads * k}, x.dtype);
    feature_map_forward(step.queue, query_features, q, map, c.heads, c.heads, attention.scale());
    feature_map_forward(step.queue, key_features, key, map, c.heads, c.key_value_heads, 1.0);
    linear_attention_step(step.queue, context, state.linear, query_features, key_features, value,
                          attention.linear_shape(), state.gamma);
  } else {
    softmax_attention_step(step.queue, context, state.keys, state.values, q, key, value,
                           lengths_.data(), attention.softmax_shape(), attention.scale());
  }
  attention.output().forward(step, params, y, context);
}

Tensor Decoder::step(std::span<const std::int32_t> tokens) {
  const ModelConfig& c = model_.config();
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
  const Tensor x = scratch_.allocate(shape, dtype), normed = scratch_.allocate(shape, dtype),
               branch = scratch_.allocate(shape, dtype);
  model_.embedding().forward(step, params, x, input);
  for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
    const ArenaScope scope(scratch_);
    const Block& block = model_.block(static_cast<std::int64_t>(layer));
    NormStats stats;
    block.attention_norm().forward(step, params, normed, x, &stats);
    attention_step(layer, branch, normed);
    add_to(step.queue, x, branch);
    block.ffn_norm().forward(step, params, normed, x, &stats);
    const Tensor hidden = scratch_.allocate(Shape{batch, block.ffn_hidden_size()}, dtype);
    const Tensor active = scratch_.allocate(Shape{batch, c.ffn_size}, dtype);
    block.ffn_forward(step, params, branch, normed, hidden, active, nullptr);
    add_to(step.queue, x, branch);
  }
  for (std::int64_t& length : lengths_) ++length;
  return output_logits(x);
}

}  // namespace t2r
