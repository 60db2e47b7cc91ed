#include "core/model/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "core/base/error.h"

namespace t2r {
namespace {

template <class E, std::size_t N>
using Names = std::array<std::pair<E, const char*>, N>;

constexpr Names<Norm, 2> kNorms{{{Norm::layer_norm, "layer_norm"}, {Norm::rms_norm, "rms_norm"}}};
constexpr Names<Positions, 3> kPositions{{{Positions::learned, "learned"},
                                          {Positions::sinusoidal, "sinusoidal"},
                                          {Positions::rotary, "rotary"}}};
constexpr Names<Decay, 3> kDecays{
    {{Decay::none, "none"}, {Decay::fixed, "fixed"}, {Decay::learned, "learned"}}};
constexpr Names<Sinusoids, 2> kSinusoids{
    {{Sinusoids::tensor2tensor, "tensor2tensor"}, {Sinusoids::marian, "marian"}}};
constexpr Names<Activation, 5> kActivations{{{Activation::gelu_tanh, "gelu_tanh"},
                                             {Activation::gelu_erf, "gelu_erf"},
                                             {Activation::relu, "relu"},
                                             {Activation::silu, "silu"},
                                             {Activation::swiglu, "swiglu"}}};
constexpr Names<FeatureMap, 4> kFeatureMaps{{{FeatureMap::t2r, "t2r"},
                                             {FeatureMap::elu, "elu"},
                                             {FeatureMap::rfa, "rfa"},
                                             {FeatureMap::hedgehog, "hedgehog"}}};

template <class E, std::size_t N>
const char* find_name(const Names<E, N>& names, E value) {
  for (const auto& [e, name] : names)
    if (e == value) return name;
  return "?";
}

template <class E, std::size_t N>
E find_value(const Names<E, N>& names, const std::string& wanted, const char* what) {
  std::string choices;
  for (const auto& [e, name] : names) {
    if (wanted == name) return e;
    choices += (choices.empty() ? "" : ", ") + std::string(name);
  }
  fail_usage("unknown {} '{}': choose one of {}", what, wanted, choices);
}

}  // namespace

const char* name_of(Norm norm) {
  return find_name(kNorms, norm);
}
const char* name_of(Positions positions) {
  return find_name(kPositions, positions);
}
const char* name_of(Decay decay) {
  return find_name(kDecays, decay);
}
const char* name_of(Sinusoids kind) {
  return find_name(kSinusoids, kind);
}
const char* name_of(Activation activation) {
  return find_name(kActivations, activation);
}
const char* name_of(FeatureMap map) {
  return find_name(kFeatureMaps, map);
}
Norm parse_norm(const std::string& name) {
  return find_value(kNorms, name, "norm");
}
Positions parse_positions(const std::string& name) {
  return find_value(kPositions, name, "kind of positions");
}
Decay parse_decay(const std::string& name) {
  return find_value(kDecays, name, "decay");
}
Sinusoids parse_sinusoids(const std::string& name) {
  return find_value(kSinusoids, name, "kind of sinusoids");
}
Activation parse_activation(const std::string& name) {
  return find_value(kActivations, name, "activation");
}
FeatureMap parse_feature_map(const std::string& name) {
  return find_value(kFeatureMaps, name, "feature map");
}

bool ModelConfig::is_linear(std::int64_t layer) const {
  return std::binary_search(linear_layers.begin(), linear_layers.end(), layer);
}

void ModelConfig::validate() const {
  // Bounds far above any model, so that no product of two sizes overflows 63 bits.
  const auto size = [](std::int64_t value, const char* name, std::int64_t most) {
    check_usage(value >= 1 && value <= most, "{} is {}: it must be from 1 to {}", name, value,
                most);
  };
  size(vocab_size, "vocab_size", std::int64_t{1} << 24);
  size(layers, "layers", 4096);
  size(hidden_size, "hidden_size", 1 << 20);
  size(heads, "heads", 4096);
  size(key_value_heads, "key_value_heads", 4096);
  size(head_dim, "head_dim", 1 << 16);
  size(ffn_size, "ffn_size", 1 << 22);
  size(max_positions, "max_positions", std::int64_t{1} << 24);
  if (encoder_layers != 0) size(encoder_layers, "encoder_layers", 4096);
  if (source_vocab_size != 0) size(source_vocab_size, "source_vocab_size", std::int64_t{1} << 24);
  check_usage(position_offset >= 0 && position_offset <= (1 << 20),
              "position_offset is {}: it must be from 0 to {}", position_offset, 1 << 20);
  check_usage(!encoder_decoder() || positions != Positions::rotary,
              "an encoder-decoder model has learned or sinusoidal positions, not rotary ones");
  check_usage(heads % key_value_heads == 0,
              "{} heads cannot share {} key-value heads: the second must divide the first", heads,
              key_value_heads);
  check_usage(positions != Positions::rotary || head_dim % 2 == 0,
              "rotary positions need an even head dimension, not {}", head_dim);
  check_usage(
      !biases || !qkv_biases,
      "biases and qkv_biases are both set: the second is for models that have biases in the "
      "query, key and value projections alone");
  check_usage(norm_eps > 0, "norm_eps is {}: it must be above 0", norm_eps);
  for (auto [rate, name] : {std::pair{dropout, "dropout"},
                            {attention_dropout, "attention_dropout"},
                            {activation_dropout, "activation_dropout"},
                            {layer_drop, "layer_drop"}})
    check_usage(rate >= 0 && rate < 1, "{} is {}: it must be at least 0 and below 1", name, rate);
  for (std::size_t i = 0; i < linear_layers.size(); ++i)
    check_usage(linear_layers[i] >= (i ? linear_layers[i - 1] + 1 : 0) && linear_layers[i] < layers,
                "layer {} in the list of swapped layers: they must ascend from 0 to {}",
                linear_layers[i], layers - 1);
  if (linear_layers.empty()) return;
  for (const std::int64_t k : {linear.feature_size, causal_feature_size()}) {
    check_usage(k >= 1 && k <= (1 << 16), "a feature size of {}: it must be at least 1", k);
    check_usage(linear.feature_map != FeatureMap::elu || k == head_dim,
                "the elu map keeps the head dimension: its feature size is {}, not {}", head_dim,
                k);
    check_usage(
        (linear.feature_map != FeatureMap::rfa && linear.feature_map != FeatureMap::hedgehog) ||
            k % 2 == 0,
        "the {} map has pairs of features: the feature size {} must be even",
        name_of(linear.feature_map), k);
  }
  check_usage(linear.window >= 0 && linear.window <= (1 << 20),
              "a window of {} tokens: it must be from 1 to {}, or 0 for none", linear.window,
              1 << 20);
  check_usage(linear.window == 0 || linear.feature_map != FeatureMap::rfa,
              "a softmax window needs a feature map without negative values: t2r, elu or hedgehog, "
              "not rfa");
  check_usage(linear.clamp > 0, "the denominator's clamp is {}: it must be above 0", linear.clamp);
}

ModelConfig gpt2_config(std::int64_t vocab_size, std::int64_t layers, std::int64_t hidden_size,
                        std::int64_t heads, std::int64_t max_positions) {
  check_usage(heads >= 1 && hidden_size % heads == 0,
              "a hidden size of {} cannot be split into {} heads", hidden_size, heads);
  ModelConfig config;
  config.vocab_size = vocab_size;
  config.layers = layers;
  config.hidden_size = hidden_size;
  config.heads = config.key_value_heads = heads;
  config.head_dim = hidden_size / heads;
  config.ffn_size = 4 * hidden_size;
  config.max_positions = max_positions;
  return config;
}

ModelConfig translation_config(std::int64_t vocab_size, std::int64_t encoder_layers,
                               std::int64_t decoder_layers, std::int64_t hidden_size,
                               std::int64_t heads, std::int64_t max_positions) {
  ModelConfig config = gpt2_config(vocab_size, decoder_layers, hidden_size, heads, max_positions);
  config.encoder_layers = encoder_layers;
  config.activation = Activation::relu;
  config.positions = Positions::sinusoidal;
  config.embedding_scale = std::sqrt(static_cast<double>(hidden_size));
  return config;
}

ModelConfig llama_config(std::int64_t vocab_size, std::int64_t layers, std::int64_t hidden_size,
                         std::int64_t heads, std::int64_t key_value_heads,
                         std::int64_t max_positions) {
  ModelConfig config = gpt2_config(vocab_size, layers, hidden_size, heads, max_positions);
  config.key_value_heads = key_value_heads;
  config.ffn_size = (8 * hidden_size / 3 + 31) / 32 * 32;
  config.norm = Norm::rms_norm;
  config.activation = Activation::swiglu;
  config.positions = Positions::rotary;
  config.biases = false;
  config.tied_output = false;
  return config;
}

}  // namespace t2r
