// What a model is: sizes and choices, without weights.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/activation.h"
#include "kernels/embedding.h"
#include "kernels/feature_map.h"

namespace t2r {

enum class Norm : std::uint8_t { layer_norm, rms_norm };
enum class Positions : std::uint8_t { learned, sinusoidal, rotary };
enum class Decay : std::uint8_t { none, fixed, learned };

/// The linear recurrent attention of the swapped layers (Kasai et al. 2021).
struct LinearAttentionConfig {
  FeatureMap feature_map = FeatureMap::t2r;
  std::int64_t feature_size = 32;  // k
  // Encoder-decoder: k of the causal attention, feature_size being that of the cross attention
  // (the paper has 4 and 32); 0: the same.
  std::int64_t causal_feature_size = 0;
  double clamp = 0.01;        // lower bound of the denominator
  Decay decay = Decay::none;  // of the state, a factor a head
  // Causal attention: softmax to the last `window` tokens beside the linear attention to those
  // before them (kernels/attention_window.h); 0: all of it is linear.
  std::int64_t window = 0;
};

/// A decoder-only transformer: the GPT-2 family is layer_norm, learned positions, GELU, biases; the
/// Llama family rms_norm, rotary, SwiGLU, grouped key-value heads, no biases (Qwen2: those of
/// queries, keys and values); other combinations are allowed. Or, with encoder_layers above 0, an
/// encoder-decoder (Vaswani et al. 2017), where in swapped decoder layers both causal and cross
/// attention are linear and the encoder stays softmax.
struct ModelConfig {
  std::int64_t vocab_size = 0;  // encoder-decoder: of the target language
  std::int64_t layers = 0;      // encoder-decoder: of the decoder
  std::int64_t hidden_size = 0;
  std::int64_t heads = 0;
  std::int64_t key_value_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t ffn_size = 0;
  std::int64_t max_positions = 0;  // the longest sequence; rotary models may be run past it

  Norm norm = Norm::layer_norm;
  double norm_eps = 1e-5;
  Activation activation = Activation::gelu_tanh;
  Positions positions = Positions::learned;
  double rope_theta = 10000.0;
  bool biases = true;          // in the attention and feed-forward projections
  bool qkv_biases = false;     // without biases: in the query, key and value projections (Qwen2)
  bool tied_output = true;     // the output matrix is the token embedding
  double embedding_scale = 1;  // factor on token embeddings (sqrt(hidden_size) with sinusoids)

  float dropout = 0, attention_dropout = 0, activation_dropout = 0;
  float layer_drop = 0;  // probability that training skips a block in a step (Fan et al. 2019)

  std::int64_t encoder_layers = 0;     // 0: decoder-only
  std::int64_t source_vocab_size = 0;  // 0: one vocabulary, and one embedding, for both languages
  bool pre_norm = true;                // false: the norm follows each residual sum, none at the end
  bool output_bias = false;            // a bias an entry of the vocabulary
  bool source_eos = true;              // sources end with the end-of-sentence token
  std::int64_t position_offset = 0;    // sinusoids: the first token's position
  Sinusoids sinusoids = Sinusoids::tensor2tensor;

  std::vector<std::int64_t> linear_layers;  // which (decoder) layers are swapped; ascending
  LinearAttentionConfig linear;

  bool encoder_decoder() const { return encoder_layers > 0; }
  std::int64_t source_vocabulary() const {
    return source_vocab_size ? source_vocab_size : vocab_size;
  }
  bool is_linear(std::int64_t layer) const;
  bool has_qkv_biases() const { return biases || qkv_biases; }
  /// k of the causal attention of swapped layers; of cross attention it is linear.feature_size.
  std::int64_t causal_feature_size() const {
    return encoder_decoder() && linear.causal_feature_size ? linear.causal_feature_size
                                                           : linear.feature_size;
  }
  /// Throws a usage error that names the first thing that does not fit together.
  void validate() const;
};

/// The presets of the two families for training from nothing: head_dim = hidden_size / heads, the
/// usual feed-forward size (4 hidden; for llama 8/3 hidden rounded up to 32).
ModelConfig gpt2_config(std::int64_t vocab_size, std::int64_t layers, std::int64_t hidden_size,
                        std::int64_t heads, std::int64_t max_positions);
/// transformer-base and -big of Vaswani et al. 2017 in any size: sinusoidal positions, ReLU, 4
/// hidden feed-forward, embeddings scaled by sqrt(hidden_size) and tied to the output, pre-norm.
ModelConfig translation_config(std::int64_t vocab_size, std::int64_t encoder_layers,
                               std::int64_t decoder_layers, std::int64_t hidden_size,
                               std::int64_t heads, std::int64_t max_positions);
ModelConfig llama_config(std::int64_t vocab_size, std::int64_t layers, std::int64_t hidden_size,
                         std::int64_t heads, std::int64_t key_value_heads,
                         std::int64_t max_positions);

// Names as users write them; parse_ functions raise a usage error that lists the choices.
const char* name_of(Norm norm);
const char* name_of(Positions positions);
const char* name_of(Decay decay);
const char* name_of(Sinusoids kind);
const char* name_of(Activation activation);
const char* name_of(FeatureMap map);
Norm parse_norm(const std::string& name);
Positions parse_positions(const std::string& name);
Decay parse_decay(const std::string& name);
Sinusoids parse_sinusoids(const std::string& name);
Activation parse_activation(const std::string& name);
FeatureMap parse_feature_map(const std::string& name);

}  // namespace t2r
