#include "core/train/config_json.h"

#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "core/train/json_reader.h"

namespace t2r {
namespace {

using nlohmann::json;
using Reader = JsonReader;

/// Hugging Face's names; SwiGLU's is that of its gate.
const char* hugging_face_name(Activation activation) {
  switch (activation) {
    case Activation::gelu_tanh:
      return "gelu_new";
    case Activation::gelu_erf:
      return "gelu";
    case Activation::relu:
      return "relu";
    case Activation::silu:
    case Activation::swiglu:
      break;
  }
  return "silu";
}

/// 0.1f as 0.1, not as the double next to it.
double decimal(float value) {
  return std::stod(fmt::format("{}", value));
}

void read_dropouts(const Reader& in, ModelConfig& config, const char* dropout,
                   const char* attention, double otherwise) {
  config.dropout = static_cast<float>(in.number(dropout, otherwise));
  config.attention_dropout = static_cast<float>(in.number(attention, otherwise));
  config.activation_dropout = static_cast<float>(in.number("activation_dropout", 0));
  config.layer_drop = static_cast<float>(in.number("layerdrop", 0));
}

ModelConfig read_gpt2(const Reader& in) {
  for (const char* key : {"scale_attn_by_inverse_layer_idx", "add_cross_attention"})
    in.expect_flag(key, false);
  in.expect_flag("scale_attn_weights", true);
  const std::int64_t hidden = in.integer("n_embd");
  ModelConfig config =
      gpt2_config(in.integer("vocab_size"), in.integer("n_layer"), hidden, in.integer("n_head"),
                  in.has("n_positions") ? in.integer("n_positions") : in.integer("n_ctx"));
  config.ffn_size = in.integer("n_inner", 4 * hidden);
  config.norm_eps = in.number("layer_norm_epsilon", 1e-5);
  config.tied_output = in.flag("tie_word_embeddings", true);
  const std::string activation = in.text("activation_function", "gelu_new");
  if (activation == "gelu_new" || activation == "gelu_pytorch_tanh" || activation == "gelu_fast")
    config.activation = Activation::gelu_tanh;
  else if (activation == "gelu")
    config.activation = Activation::gelu_erf;
  else if (activation == "relu")
    config.activation = Activation::relu;
  else if (activation == "silu" || activation == "swish")
    config.activation = Activation::silu;
  else
    fail(
        "{}: the activation function '{}' is not supported in a GPT-2 model: gelu_new, gelu, "
        "relu and silu are",
        in.path(), activation);
  read_dropouts(in, config, "resid_pdrop", "attn_pdrop", 0.1);  // Hugging Face's default
  return config;
}

json write_gpt2(const ModelConfig& c) {
  return {{"model_type", "gpt2"},
          {"architectures", {"GPT2LMHeadModel"}},
          {"vocab_size", c.vocab_size},
          {"n_embd", c.hidden_size},
          {"n_layer", c.layers},
          {"n_head", c.heads},
          {"n_positions", c.max_positions},
          {"n_ctx", c.max_positions},
          {"n_inner", c.ffn_size},
          {"activation_function", hugging_face_name(c.activation)},
          {"layer_norm_epsilon", c.norm_eps},
          {"tie_word_embeddings", c.tied_output},
          {"resid_pdrop", decimal(c.dropout)},
          {"embd_pdrop", decimal(c.dropout)},
          {"attn_pdrop", decimal(c.attention_dropout)},
          {"activation_dropout", decimal(c.activation_dropout)},
          {"layerdrop", decimal(c.layer_drop)}};
}

/// Attention to the last tokens only is not supported: a window must not be shorter than sequences
/// may be. Mistral's is on where it is given, Qwen2's by a flag of its own.
void refuse_sliding_window(const Reader& in, bool qwen2, std::int64_t max_positions) {
  if (qwen2 ? !in.flag("use_sliding_window", false) : !in.has("sliding_window")) return;
  const std::int64_t window = in.integer("sliding_window", 4096);  // Hugging Face's default
  check(window >= max_positions,
        "{}: a sliding window of {} tokens is not supported: set '{}' to {} for attention to all "
        "tokens, or 'max_position_embeddings' to {}",
        in.path(), window, qwen2 ? "use_sliding_window" : "sliding_window",
        qwen2 ? "false" : "null", window);
}

ModelConfig read_llama(const Reader& in) {
  const bool qwen2 = in.text("model_type") == "qwen2";
  const std::string activation = in.text("hidden_act", "silu");
  check(activation == "silu", "{}: the activation '{}' is not supported in a Llama model: silu is",
        in.path(), activation);
  const bool biases = !qwen2 && in.flag("attention_bias", false);
  check(qwen2 || biases == in.flag("mlp_bias", false),
        "{}: attention_bias and mlp_bias differ, which t2r does not support", in.path());
  const std::int64_t heads = in.integer("num_attention_heads");
  const std::int64_t hidden = in.integer("hidden_size");
  ModelConfig config;
  config.vocab_size = in.integer("vocab_size");
  config.layers = in.integer("num_hidden_layers");
  config.hidden_size = hidden;
  config.heads = heads;
  config.key_value_heads = in.integer("num_key_value_heads", heads);
  check(in.has("head_dim") || (heads > 0 && hidden % heads == 0),
        "{}: a hidden size of {} cannot be split into {} heads", in.path(), hidden, heads);
  config.head_dim = in.has("head_dim") ? in.integer("head_dim") : hidden / heads;
  config.ffn_size = in.integer("intermediate_size");
  config.max_positions = in.integer("max_position_embeddings", qwen2 ? 32768 : 2048);
  refuse_sliding_window(in, qwen2, config.max_positions);
  config.norm = Norm::rms_norm;
  config.norm_eps = in.number("rms_norm_eps", 1e-6);
  config.activation = Activation::swiglu;
  config.positions = Positions::rotary;
  config.rope_theta = in.number("rope_theta", 10000.0);
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    if (!in.has(key)) continue;
    const Reader rope(in.at(key), in.path() + ": " + key);
    const std::string type = rope.text("rope_type", rope.text("type", "default"));
    check(type == "default",
          "{}: rotary positions of the kind '{}' are not supported, only the default kind is",
          in.path(), type);
    config.rope_theta = rope.number("rope_theta", config.rope_theta);
  }
  config.biases = biases;
  config.qkv_biases = qwen2;
  config.tied_output = in.flag("tie_word_embeddings", false);
  read_dropouts(in, config, "hidden_dropout", "attention_dropout", 0);
  return config;
}

json write_llama(const ModelConfig& c) {
  json out = {{"model_type", c.qkv_biases ? "qwen2" : "llama"},
              {"architectures", {c.qkv_biases ? "Qwen2ForCausalLM" : "LlamaForCausalLM"}},
              {"vocab_size", c.vocab_size},
              {"hidden_size", c.hidden_size},
              {"intermediate_size", c.ffn_size},
              {"num_hidden_layers", c.layers},
              {"num_attention_heads", c.heads},
              {"num_key_value_heads", c.key_value_heads},
              {"head_dim", c.head_dim},
              {"max_position_embeddings", c.max_positions},
              {"hidden_act", "silu"},
              {"rms_norm_eps", c.norm_eps},
              {"rope_theta", c.rope_theta},
              {"tie_word_embeddings", c.tied_output},
              {"hidden_dropout", decimal(c.dropout)},
              {"attention_dropout", decimal(c.attention_dropout)},
              {"activation_dropout", decimal(c.activation_dropout)},
              {"layerdrop", decimal(c.layer_drop)}};
  if (c.qkv_biases)
    out["use_sliding_window"] = false;
  else
    out["attention_bias"] = out["mlp_bias"] = c.biases;
  return out;
}

ModelConfig read_own(const Reader& in) {
  ModelConfig c;
  c.vocab_size = in.integer("vocab_size");
  c.layers = in.integer("layers");
  c.hidden_size = in.integer("hidden_size");
  c.heads = in.integer("heads");
  c.key_value_heads = in.integer("key_value_heads");
  c.head_dim = in.integer("head_dim");
  c.ffn_size = in.integer("ffn_size");
  c.max_positions = in.integer("max_positions");
  c.norm = parse_norm(in.text("norm"));
  c.norm_eps = in.number("norm_eps");
  c.activation = parse_activation(in.text("activation"));
  c.positions = parse_positions(in.text("positions"));
  c.rope_theta = in.number("rope_theta", c.rope_theta);
  c.biases = in.flag("biases", true);
  c.qkv_biases = in.flag("qkv_biases", false);
  c.tied_output = in.flag("tied_output", true);
  c.embedding_scale = in.number("embedding_scale", 1);
  c.encoder_layers = in.integer("encoder_layers", 0);
  c.source_vocab_size = in.integer("source_vocab_size", 0);
  c.pre_norm = in.flag("pre_norm", true);
  c.output_bias = in.flag("output_bias", false);
  c.source_eos = in.flag("source_eos", true);
  c.position_offset = in.integer("position_offset", 0);
  c.sinusoids = parse_sinusoids(in.text("sinusoids", "tensor2tensor"));
  read_dropouts(in, c, "dropout", "attention_dropout", 0);
  return c;
}

json write_own(const ModelConfig& c) {
  json out = {{"model_type", c.encoder_decoder() ? "t2r_encoder_decoder" : "t2r_decoder"},
              {"vocab_size", c.vocab_size},
              {"layers", c.layers},
              {"hidden_size", c.hidden_size},
              {"heads", c.heads},
              {"key_value_heads", c.key_value_heads},
              {"head_dim", c.head_dim},
              {"ffn_size", c.ffn_size},
              {"max_positions", c.max_positions},
              {"norm", name_of(c.norm)},
              {"norm_eps", c.norm_eps},
              {"activation", name_of(c.activation)},
              {"positions", name_of(c.positions)},
              {"rope_theta", c.rope_theta},
              {"biases", c.biases},
              {"tied_output", c.tied_output},
              {"embedding_scale", c.embedding_scale},
              {"dropout", decimal(c.dropout)},
              {"attention_dropout", decimal(c.attention_dropout)},
              {"activation_dropout", decimal(c.activation_dropout)},
              {"layerdrop", decimal(c.layer_drop)}};
  if (c.qkv_biases) out["qkv_biases"] = true;
  if (!c.pre_norm) out["pre_norm"] = false;
  if (c.output_bias) out["output_bias"] = true;
  if (c.position_offset) out["position_offset"] = c.position_offset;
  if (c.sinusoids != Sinusoids::tensor2tensor) out["sinusoids"] = name_of(c.sinusoids);
  if (!c.encoder_decoder()) return out;
  out["encoder_layers"] = c.encoder_layers;
  out["source_vocab_size"] = c.source_vocab_size;
  out["source_eos"] = c.source_eos;
  return out;
}

void read_swap(const Reader& in, ModelConfig& config) {
  config.linear.feature_map = parse_feature_map(in.text("feature_map"));
  config.linear.feature_size = in.integer("feature_size");
  config.linear.causal_feature_size = in.integer("causal_feature_size", 0);
  config.linear.decay = parse_decay(in.text("decay", "none"));
  config.linear.window = in.integer("window", 0);
  if (in.has("denominator"))
    config.linear.clamp =
        Reader(in.at("denominator"), in.path() + ": denominator").number("clamp", 0.01);
  check(in.has("layers") && in.at("layers").is_array(), "{} has no list 'layers'", in.path());
  for (const json& layer : in.at("layers")) {
    check(layer.is_number_integer(), "{}: 'layers' holds {}, not a layer's number", in.path(),
          layer.dump());
    config.linear_layers.push_back(layer.get<std::int64_t>());
  }
}

json write_swap(const ModelConfig& c) {
  json out = {{"feature_map", name_of(c.linear.feature_map)},
              {"feature_size", c.linear.feature_size},
              {"layers", c.linear_layers},
              {"denominator", {{"clamp", c.linear.clamp}}},
              {"decay", name_of(c.linear.decay)}};
  if (c.linear.causal_feature_size) out["causal_feature_size"] = c.linear.causal_feature_size;
  if (c.linear.window) out["window"] = c.linear.window;
  return out;
}

}  // namespace

DiskFamily disk_family(const ModelConfig& c) {
  if (c.embedding_scale != 1 || c.encoder_decoder() || !c.pre_norm || c.output_bias ||
      c.position_offset != 0)
    return DiskFamily::own;
  if (c.norm == Norm::layer_norm && c.positions == Positions::learned &&
      c.activation != Activation::swiglu && c.biases && c.key_value_heads == c.heads &&
      c.heads * c.head_dim == c.hidden_size)
    return DiskFamily::gpt2;
  if (c.norm == Norm::rms_norm && c.positions == Positions::rotary &&
      c.activation == Activation::swiglu)
    return DiskFamily::llama;
  return DiskFamily::own;
}

json config_to_json(const ModelConfig& config) {
  json out;
  switch (disk_family(config)) {
    case DiskFamily::gpt2:
      out = write_gpt2(config);
      break;
    case DiskFamily::llama:
      out = write_llama(config);
      break;
    case DiskFamily::own:
      out = write_own(config);
      break;
  }
  if (!config.linear_layers.empty()) out["t2r"] = write_swap(config);
  return out;
}

json exported_config_json(const ModelConfig& config) {
  json out = write_own(config);
  out["model_type"] = "t2r";
  out["architectures"] = {"T2RForCausalLM"};
  out["auto_map"] = {{"AutoConfig", "modeling_t2r.T2RConfig"},
                     {"AutoModelForCausalLM", "modeling_t2r.T2RForCausalLM"}};
  if (!config.linear_layers.empty()) out["t2r"] = write_swap(config);
  return out;
}

json canonical_config_json(const ModelConfig& config) {
  json out = write_own(config);
  for (const char* key : {"dropout", "attention_dropout", "activation_dropout", "layerdrop"})
    out.erase(key);
  if (!config.linear_layers.empty()) out["t2r"] = write_swap(config);
  return out;
}

ModelConfig config_from_json(const json& object, const std::string& path) {
  const Reader in(object, path);
  const std::string type = in.text("model_type");
  check(!in.has("quantization_config"), "{}: quantised weights are not supported", path);
  const auto read = [&]() -> ModelConfig {
    if (type == "gpt2") return read_gpt2(in);
    if (type == "llama" || type == "mistral" || type == "qwen2") return read_llama(in);
    if (type == "t2r_decoder" || type == "t2r_encoder_decoder" || type == "t2r")
      return read_own(in);
    fail(
        "{} describes a model of type '{}': t2r reads gpt2, llama, mistral, qwen2, t2r, "
        "t2r_decoder and t2r_encoder_decoder",
        path, type);
  };
  try {
    ModelConfig config = read();
    if (in.has("t2r")) read_swap(Reader(in.at("t2r"), path + ": t2r"), config);
    config.validate();
    return config;
  } catch (const Error& error) {  // those of ModelConfig do not know the file
    const std::string sentence = error.what();
    if (sentence.find(path) != std::string::npos) throw;
    fail("{}: {}", path, sentence);
  }
}

}  // namespace t2r
