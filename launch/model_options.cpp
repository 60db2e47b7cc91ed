#include "launch/model_options.h"

#include <cmath>
#include <filesystem>

#include "core/base/error.h"
#include "core/model/swap.h"

namespace t2r {

void add_attention_options(CLI::App& app, AttentionOptions& options,
                           const std::string& default_map) {
  options.feature_map = default_map;
  const char* group = "Linear attention";
  app.add_option("--feature-map", options.feature_map,
                 default_map.empty()
                     ? "t2r, elu, rfa or hedgehog; without it all attention is softmax"
                     : "t2r, elu, rfa or hedgehog")
      ->group(group);
  app.add_option("--feature-size", options.feature_size,
                 "Features a head, k (not given: 32, hedgehog: twice the head size; elu: the head "
                 "size, whatever is given)")
      ->group(group);
  app.add_option("--causal-feature-size", options.causal_feature_size,
                 "Translation: features of the decoder's causal attention, where --feature-size is "
                 "of its cross attention (0: the same)")
      ->group(group);
  app.add_option("--keep-softmax", options.keep_softmax,
                 "Layers that keep softmax: none, every-4th (counted from the top), or a list such "
                 "as 0,3,11")
      ->group(group);
  app.add_option("--decay", options.decay,
                 "Decay of the recurrent state, a factor a head: none, fixed or learned")
      ->group(group);
  app.add_option("--window", options.window,
                 "Softmax attention to the last N tokens beside the linear attention to those "
                 "before them, under one normaliser (0: none)")
      ->group(group);
}

ModelConfig with_linear_attention(const ModelConfig& config, const AttentionOptions& options) {
  if (options.feature_map.empty()) return config;
  LinearAttentionConfig linear;
  linear.feature_map = parse_feature_map(options.feature_map);
  const std::int64_t usual = linear.feature_map == FeatureMap::hedgehog ? 2 * config.head_dim : 32;
  const std::int64_t features = options.feature_size.value_or(usual);
  linear.feature_size = linear.feature_map == FeatureMap::elu ? 0 : features;
  check_usage(linear.feature_map == FeatureMap::elu || features >= 1,
              "--feature-size is {}: the map {} needs at least 1 feature a head (the usual is {})",
              features, options.feature_map, usual);
  check_usage(options.causal_feature_size >= 0,
              "--causal-feature-size is {}: it must be at least 1, or 0 for the same as "
              "--feature-size",
              options.causal_feature_size);
  if (config.encoder_decoder()) linear.causal_feature_size = options.causal_feature_size;
  linear.decay = parse_decay(options.decay);
  linear.window = options.window;
  return swapped_config(config, linear, layers_to_keep(options.keep_softmax, config.layers));
}

void add_architecture_options(CLI::App& app, ArchitectureOptions& options) {
  const char* group = "Model, when training from nothing";
  app.add_option("--family", options.family, "gpt2 or llama: what the options below default to")
      ->group(group);
  app.add_option("--layers", options.layers, "Blocks (translation: of the decoder)")->group(group);
  app.add_option("--encoder-layers", options.encoder_layers,
                 "Translation: blocks of the encoder (0: as many as the decoder has)")
      ->group(group);
  app.add_option("--hidden-size", options.hidden_size, "Width of the residual stream")
      ->group(group);
  app.add_option("--heads", options.heads, "Attention heads")->group(group);
  app.add_option("--key-value-heads", options.key_value_heads,
                 "Key and value heads, a divisor of --heads (0: as many)")
      ->group(group);
  app.add_option("--ffn-size", options.ffn_size,
                 "Width of the feed-forward layer (0: the family's)")
      ->group(group);
  app.add_option("--max-positions", options.max_positions,
                 "Longest sequence (0: --sequence-length; translation: 1024)")
      ->group(group);
  app.add_option("--positions", options.positions, "learned, sinusoidal or rotary")->group(group);
  app.add_option("--activation", options.activation, "gelu_tanh, gelu_erf, relu, silu or swiglu")
      ->group(group);
  app.add_option("--norm", options.norm, "layer_norm or rms_norm")->group(group);
  app.add_option("--pre-norm", options.pre_norm,
                 "true: norms before attention and feed-forward; false: after each residual sum")
      ->group(group);
  app.add_option("--tied", options.tied, "The output matrix is the token embedding")->group(group);
  app.add_option("--biases", options.biases, "Biases in attention and feed-forward")->group(group);
}

namespace {

/// What the user chose over the family's defaults.
void apply_choices(const ArchitectureOptions& options, ModelConfig& config) {
  if (options.ffn_size) config.ffn_size = options.ffn_size;
  if (!options.activation.empty()) config.activation = parse_activation(options.activation);
  if (!options.norm.empty()) config.norm = parse_norm(options.norm);
  if (!options.positions.empty()) config.positions = parse_positions(options.positions);
  config.embedding_scale = config.positions == Positions::sinusoidal
                               ? std::sqrt(static_cast<double>(config.hidden_size))
                               : 1;
  if (options.tied) config.tied_output = *options.tied;
  if (options.biases) config.biases = *options.biases;
  config.pre_norm = options.pre_norm;
}

}  // namespace

ModelConfig make_config(const ArchitectureOptions& options, std::int64_t vocab_size,
                        std::int64_t sequence_length) {
  check_usage(options.encoder_layers == 0,
              "--encoder-layers is for translation: this dataset holds plain text");
  check_usage(options.family == "gpt2" || options.family == "llama",
              "unknown family '{}': choose gpt2 or llama", options.family);
  check_usage(options.layers >= 1 && options.hidden_size >= 1 && options.heads >= 1,
              "a model of {} layers, hidden size {} and {} heads cannot be: each is at least 1",
              options.layers, options.hidden_size, options.heads);
  const std::int64_t key_value_heads =
      options.key_value_heads ? options.key_value_heads : options.heads;
  const std::int64_t max_positions =
      options.max_positions ? options.max_positions : sequence_length;
  ModelConfig config = options.family == "gpt2"
                           ? gpt2_config(vocab_size, options.layers, options.hidden_size,
                                         options.heads, max_positions)
                           : llama_config(vocab_size, options.layers, options.hidden_size,
                                          options.heads, key_value_heads, max_positions);
  config.key_value_heads = key_value_heads;
  apply_choices(options, config);
  return config;
}

ModelConfig make_translation_config(const ArchitectureOptions& options, std::int64_t vocab_size,
                                    std::int64_t source_vocab_size) {
  constexpr std::int64_t kMaxPositions = 1024;
  check_usage(options.layers >= 1 && options.encoder_layers >= 0,
              "a model of {} encoder and {} decoder layers cannot be: each is at least 1",
              options.encoder_layers, options.layers);
  ModelConfig config = translation_config(
      vocab_size, options.encoder_layers ? options.encoder_layers : options.layers, options.layers,
      options.hidden_size, options.heads,
      options.max_positions ? options.max_positions : kMaxPositions);
  config.source_vocab_size = source_vocab_size;
  if (options.key_value_heads) config.key_value_heads = options.key_value_heads;
  apply_choices(options, config);
  return config;
}

void add_dropout_options(CLI::App& app, DropoutOptions& options) {
  const char* group = "Regularisation";
  app.add_option("--dropout", options.dropout, "After embeddings, attention and feed-forward")
      ->group(group);
  app.add_option("--attention-dropout", options.attention_dropout, "On attention weights")
      ->group(group);
  app.add_option("--activation-dropout", options.activation_dropout,
                 "Inside the feed-forward layer")
      ->group(group);
  app.add_option("--layer-drop", options.layer_drop, "Probability that an update skips a block")
      ->group(group);
}

void apply(const DropoutOptions& options, ModelConfig& config) {
  const auto set = [](float& rate, const std::optional<float>& given, const char* flag) {
    if (!given) return;
    check_usage(*given >= 0 && *given < 1, "{} is {}: a rate lies from 0 to below 1", flag, *given);
    rate = *given;
  };
  set(config.dropout, options.dropout, "--dropout");
  set(config.attention_dropout, options.attention_dropout, "--attention-dropout");
  set(config.activation_dropout, options.activation_dropout, "--activation-dropout");
  set(config.layer_drop, options.layer_drop, "--layer-drop");
}

std::string model_folder(const std::string& path) {
  namespace fs = std::filesystem;
  if (fs::exists(fs::path(path) / "config.json")) return path;
  const fs::path inner = fs::path(path) / "model";
  if (fs::exists(inner / "config.json")) return inner.string();
  fail_usage("{} is no model: there is no config.json in it (nor in {})", path, inner.string());
}

}  // namespace t2r
