// Options that describe a model: its architecture, and the linear attention of swapped layers.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "core/model/config.h"

namespace t2r {

/// Linear attention, as convert and train from scratch take it.
struct AttentionOptions {
  std::string feature_map;
  std::optional<std::int64_t> feature_size;
  std::int64_t causal_feature_size = 0, window = 0;
  std::string keep_softmax = "none", decay = "none";
};

/// `default_map` may be empty: then all attention is softmax unless --feature-map is given.
void add_attention_options(CLI::App& app, AttentionOptions& options,
                           const std::string& default_map);
/// `config` with its layers swapped as asked; unchanged when no feature map is named.
ModelConfig with_linear_attention(const ModelConfig& config, const AttentionOptions& options);

/// A model to train from nothing.
struct ArchitectureOptions {
  std::string family = "gpt2";
  std::int64_t layers = 6, hidden_size = 256, heads = 4;
  std::int64_t key_value_heads = 0, ffn_size = 0, max_positions = 0;  // 0: as usual
  std::int64_t encoder_layers = 0;                                    // 0: as many as layers
  std::string activation, norm, positions;                            // empty: the family's
  std::optional<bool> tied, biases;
  bool pre_norm = true;
};

void add_architecture_options(CLI::App& app, ArchitectureOptions& options);
/// The configuration for a vocabulary; `sequence_length` is where max_positions comes from when the
/// options leave it open.
ModelConfig make_config(const ArchitectureOptions& options, std::int64_t vocab_size,
                        std::int64_t sequence_length);
/// The same for sentence pairs: an encoder-decoder (translation_config). source_vocab_size 0: one
/// vocabulary for both sides.
ModelConfig make_translation_config(const ArchitectureOptions& options, std::int64_t vocab_size,
                                    std::int64_t source_vocab_size);

struct DropoutOptions {
  std::optional<float> dropout, attention_dropout, activation_dropout, layer_drop;
};

void add_dropout_options(CLI::App& app, DropoutOptions& options);
/// Overrides the rates of `config` that are given.
void apply(const DropoutOptions& options, ModelConfig& config);

/// The folder of a model: `path`, or `path`/model when that is a run. A usage error when neither is
/// one.
std::string model_folder(const std::string& path);

}  // namespace t2r
