// Tiny models and ragged batches for the model tests.
#pragma once

#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "core/base/random.h"
#include "core/model/beam_search.h"
#include "core/model/swap.h"
#include "core/model/transformer.h"

namespace t2r::testing {

/// Random tokens in segments of given lengths, with the memory that they lie in.
struct TinyRows {
  std::vector<std::int32_t> inputs, positions;
  std::vector<std::int64_t> offsets{0}, row_ids, part_offsets;

  void add(std::int64_t length, std::int64_t vocab, std::uint64_t seed, std::uint64_t stream) {
    for (std::int64_t i = 0; i < length; ++i) {
      const auto n = static_cast<std::uint64_t>(inputs.size());
      inputs.push_back(static_cast<std::int32_t>(random_bits(seed, stream, n)[0] % vocab));
      positions.push_back(static_cast<std::int32_t>(i));
      row_ids.push_back(static_cast<std::int64_t>(n));
    }
    offsets.push_back(static_cast<std::int64_t>(inputs.size()));
  }

  /// Segments [first, last).
  TokenRows part(std::size_t first, std::size_t last) {
    const std::int64_t begin = offsets[first];
    part_offsets.assign(offsets.begin() + static_cast<std::ptrdiff_t>(first),
                        offsets.begin() + static_cast<std::ptrdiff_t>(last) + 1);
    for (std::int64_t& offset : part_offsets) offset -= begin;
    TokenRows rows;
    rows.rows = part_offsets.back();
    rows.inputs = inputs.data() + begin;
    rows.positions = positions.data() + begin;
    rows.segments = {static_cast<std::int64_t>(last - first), part_offsets.data()};
    rows.row_ids = row_ids.data() + begin;
    return rows;
  }
};

/// A batch that owns its memory: random tokens in segments of the given lengths, with random
/// sources for an encoder-decoder.
struct TinyBatch : TinyRows {
  std::vector<std::int32_t> targets;
  TinyRows source;
  bool has_source = false;

  TinyBatch(const std::vector<std::int64_t>& lengths, const ModelConfig& config, std::uint64_t seed)
      : has_source(config.encoder_decoder()) {
    for (std::int64_t length : lengths) {
      add(length, config.vocab_size, seed, 1);
      if (has_source) source.add((length * 3 + 1) % 7 + 1, config.source_vocabulary(), seed, 3);
    }
    for (std::uint64_t n = 0; n < inputs.size(); ++n)  // every seventh row has no target
      targets.push_back(
          n % 7 == 3 ? -1
                     : static_cast<std::int32_t>(random_bits(seed, 2, n)[0] % config.vocab_size));
  }

  /// Segments [first, last) as a batch of their own.
  Batch part(std::size_t first, std::size_t last) {
    Batch batch;
    static_cast<TokenRows&>(batch) = TinyRows::part(first, last);
    batch.targets = targets.data() + offsets[first];
    if (has_source) batch.source = source.part(first, last);
    return batch;
  }
  Batch all() { return part(0, offsets.size() - 1); }
};

/// Arenas and a step to go with them.
struct Workspace {
  Arena activations{std::int64_t{1} << 30}, scratch{std::int64_t{1} << 30};
  Step step{.activations = activations, .scratch = scratch, .queue = {}, .seed = 5, .step = 3};
};

struct Variant {
  std::string name;
  ModelConfig config;
};

/// One of each kind of model (rfa with many features: with few its denominator comes near zero,
/// where differences say nothing): both families, every feature map, decays, mixed layers.
inline std::vector<Variant> language_models() {
  ModelConfig gpt2 = gpt2_config(13, 2, 8, 2, 16);
  ModelConfig llama = llama_config(13, 2, 8, 4, 2, 16);
  llama.ffn_size = 7;
  gpt2.ffn_size = 11;
  ModelConfig sinusoidal = gpt2;
  sinusoidal.positions = Positions::sinusoidal;
  sinusoidal.embedding_scale = std::sqrt(8.0);
  sinusoidal.activation = Activation::relu;
  sinusoidal.tied_output = false;
  ModelConfig qwen2 = llama;
  qwen2.qkv_biases = true;
  qwen2.tied_output = true;
  ModelConfig some_biases = gpt2;  // merged into the map where it is folded into projections
  some_biases.biases = false;
  some_biases.qkv_biases = true;
  ModelConfig erf = gpt2;
  erf.activation = Activation::gelu_erf;
  const auto swap = [](const ModelConfig& config, FeatureMap map, std::int64_t k, Decay decay,
                       std::vector<std::int64_t> keep = {}, std::int64_t window = 0) {
    return swapped_config(
        config, {.feature_map = map, .feature_size = k, .decay = decay, .window = window}, keep);
  };
  return {
      {"gpt2", gpt2},
      {"gpt2_erf", erf},
      {"llama", llama},
      {"qwen2", qwen2},
      {"sinusoidal_untied", sinusoidal},
      {"gpt2_t2r", swap(gpt2, FeatureMap::t2r, 5, Decay::none)},
      {"gpt2_some_biases_t2r", swap(some_biases, FeatureMap::t2r, 5, Decay::none)},
      {"gpt2_t2r_decay", swap(gpt2, FeatureMap::t2r, 5, Decay::learned)},
      {"qwen2_t2r", swap(qwen2, FeatureMap::t2r, 3, Decay::none)},
      {"llama_t2r_grouped", swap(llama, FeatureMap::t2r, 3, Decay::none)},
      {"llama_t2r_grouped_decay", swap(llama, FeatureMap::t2r, 3, Decay::learned)},
      {"llama_elu_fixed_decay", swap(llama, FeatureMap::elu, 0, Decay::fixed)},
      {"sinusoidal_elu", swap(sinusoidal, FeatureMap::elu, 0, Decay::none)},
      {"gpt2_rfa", swap(gpt2, FeatureMap::rfa, 32, Decay::none)},
      {"llama_rfa_grouped", swap(llama, FeatureMap::rfa, 32, Decay::none)},
      {"sinusoidal_t2r_mixed", swap(sinusoidal, FeatureMap::t2r, 4, Decay::none, {1})},
      {"gpt2_hedgehog", swap(gpt2, FeatureMap::hedgehog, 8, Decay::none)},
      {"llama_hedgehog_grouped_decay", swap(llama, FeatureMap::hedgehog, 6, Decay::learned)},
      {"gpt2_t2r_window", swap(gpt2, FeatureMap::t2r, 5, Decay::none, {}, 3)},
      {"llama_t2r_grouped_decay_window", swap(llama, FeatureMap::t2r, 3, Decay::learned, {}, 2)},
      {"llama_hedgehog_grouped_window", swap(llama, FeatureMap::hedgehog, 6, Decay::none, {1}, 4)}};
}

/// Encoder-decoders: norms before and after, vocabularies shared and separate, every feature map
/// (with too few features denominators come near the clamp, where bf16 says nothing).
inline std::vector<Variant> translation_models() {
  ModelConfig softmax = translation_config(13, 2, 2, 8, 2, 16);
  softmax.ffn_size = 11;
  ModelConfig post = softmax;
  post.pre_norm = false;
  post.source_vocab_size = 9;
  post.activation = Activation::gelu_erf;
  ModelConfig untied = softmax;
  untied.encoder_layers = 1;
  untied.source_vocab_size = 17;
  untied.tied_output = false;
  untied.output_bias = true;
  untied.position_offset = 1;
  ModelConfig grouped = untied;
  grouped.heads = 4;
  grouped.head_dim = 2;
  grouped.positions = Positions::learned;
  grouped.norm = Norm::rms_norm;
  ModelConfig marian = softmax;
  marian.pre_norm = false;
  marian.activation = Activation::silu;
  marian.sinusoids = Sinusoids::marian;
  marian.output_bias = true;
  const auto swap = [](const ModelConfig& config, FeatureMap map, std::int64_t k,
                       std::int64_t causal, Decay decay, std::vector<std::int64_t> keep = {},
                       std::int64_t window = 0) {
    return swapped_config(config,
                          {.feature_map = map,
                           .feature_size = k,
                           .causal_feature_size = causal,
                           .decay = decay,
                           .window = window},
                          keep);
  };
  return {{"translation_post", post},
          {"translation_untied", untied},
          {"translation_marian", marian},
          {"translation_t2r", swap(softmax, FeatureMap::t2r, 16, 8, Decay::none)},
          {"translation_post_t2r_decay", swap(post, FeatureMap::t2r, 12, 0, Decay::learned)},
          {"translation_elu_grouped", swap(grouped, FeatureMap::elu, 0, 0, Decay::none)},
          {"translation_rfa_mixed", swap(untied, FeatureMap::rfa, 32, 0, Decay::none, {1})},
          {"translation_hedgehog_window",
           swap(softmax, FeatureMap::hedgehog, 16, 8, Decay::none, {}, 3)}};
}

inline std::vector<Variant> variants() {
  std::vector<Variant> all = language_models();
  for (Variant& variant : translation_models()) all.push_back(std::move(variant));
  return all;
}

/// A model with weights large enough that every part matters.
inline std::unique_ptr<Transformer> tiny_model(const ModelConfig& config, DType dtype,
                                               const TrainedPart& trained, std::uint64_t seed = 1) {
  auto model = std::make_unique<Transformer>(config, dtype, trained);
  model->params().initialize(seed);
  // Biases, norms and output matrices away from their special starting values.
  for (int p = 0; p < model->params().count(); ++p) {
    const ParamId id{p};
    if (!model->params().spec(id).trainable) continue;
    dispatch(dtype, [&]<class T>() {
      T* value = model->params().value(id).as<T>();
      for (std::int64_t i = 0; i < model->params().value(id).size(); ++i)
        value[i] = static_cast<T>(static_cast<accumulate_t<T>>(value[i]) +
                                  static_cast<accumulate_t<T>>(
                                      0.15 * random_normal(seed + 17, static_cast<std::uint64_t>(p),
                                                           static_cast<std::uint64_t>(i))));
    });
  }
  model->params().touch();
  return model;
}

/// translate() with a decoder of its own; the sources are numbered from `first`.
inline std::vector<std::vector<Hypothesis>> translate(
    Transformer& model, const std::vector<std::vector<std::int32_t>>& sources,
    const BeamSearchOptions& options, std::uint64_t first = 0) {
  std::vector<std::uint64_t> numbers(sources.size());
  std::iota(numbers.begin(), numbers.end(), first);
  TranslationDecoder decoder(model);
  return t2r::translate(decoder, sources, options, numbers);
}

/// logits of the whole batch, in double.
inline std::vector<double> logits_of(Transformer& model, const Batch& batch) {
  Workspace work;
  Arena out(std::int64_t{1} << 26);
  const Tensor logits = out.allocate(Shape{batch.rows, model.config().vocab_size},
                                     accumulate_dtype(model.params().dtype()));
  model.logits(work.step, batch, logits);
  std::vector<double> values(static_cast<std::size_t>(logits.size()));
  dispatch(logits.dtype, [&]<class T>() {
    const T* data = logits.as<T>();
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<double>(data[i]);
  });
  return values;
}

}  // namespace t2r::testing
