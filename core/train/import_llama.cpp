#include "core/train/import_llama.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <vector>

#include "core/train/model_folder.h"
#include "data/atomic_file.h"
#include "data/gguf.h"
#include "data/gguf_tokenizer.h"
#include "data/llama2c.h"
#include "data/mapped_file.h"

namespace t2r {
namespace {

ModelConfig llama(std::int64_t vocab_size, std::int64_t layers, std::int64_t hidden,
                  std::int64_t heads, std::int64_t key_value_heads, std::int64_t ffn_size,
                  std::int64_t positions) {
  check(heads > 0 && hidden % heads == 0, "a hidden size of {} cannot be split into {} heads",
        hidden, heads);
  ModelConfig config = llama_config(vocab_size, layers, hidden, heads, key_value_heads, positions);
  config.ffn_size = ffn_size;
  config.norm_eps = 1e-5;
  config.tied_output = true;
  return config;
}

/// Both programs rotate adjacent pairs (2i, 2i + 1) of a head; ours, as Hugging Face's, are (i,
/// i + d/2). The same products of queries and keys come from rows in another order: the even ones
/// of each head, then the odd ones.
void rows_from_adjacent_pairs(const Tensor& matrix, std::int64_t head_dim) {
  const std::int64_t columns = matrix.columns_count();
  const std::vector<float> before(matrix.as<float>(), matrix.as<float>() + matrix.size());
  for (std::int64_t row = 0; row < matrix.rows(); ++row) {
    const std::int64_t head = row / head_dim, at = row % head_dim, half = head_dim / 2;
    const std::int64_t from = head * head_dim + (at < half ? 2 * at : 2 * (at - half) + 1);
    std::memcpy(matrix.as<float>() + row * columns, before.data() + from * columns,
                static_cast<std::size_t>(columns) * sizeof(float));
  }
}

bool rotates(const std::string& parameter) {
  return parameter.find("q_proj.weight") != std::string::npos ||
         parameter.find("k_proj.weight") != std::string::npos;
}

/// Fills every parameter by read(name, values).
void fill_parameters(Transformer& model,
                     const std::function<void(const std::string&, std::span<float>)>& read) {
  ParamStore& params = model.params();
  for (int i = 0; i < params.count(); ++i) {
    const std::string& name = params.spec(ParamId{i}).name;
    const Tensor value = params.value(ParamId{i});
    read(name, {value.as<float>(), static_cast<std::size_t>(value.size())});
    if (rotates(name)) rows_from_adjacent_pairs(value, model.config().head_dim);
  }
  params.touch();
}

/// What follows "model.layers.N." in our names, and N; nothing for other parameters.
struct LayerName {
  std::int64_t layer = -1;
  std::string rest;

  explicit LayerName(const std::string& name) {
    constexpr std::string_view prefix = "model.layers.";
    if (!name.starts_with(prefix)) return;
    const std::size_t dot = name.find('.', prefix.size());
    layer = std::stoll(name.substr(prefix.size(), dot - prefix.size()));
    rest = name.substr(dot + 1);
  }
};

/// One row a parameter: our name, llama2.c's, GGUF's (with blk.N. where in a layer).
struct Name {
  const char *ours, *llama2c, *gguf;
};
constexpr Name kNames[] = {{"model.embed_tokens.weight", "token_embedding_table", "token_embd"},
                           {"model.norm.weight", "rms_final_weight", "output_norm"},
                           {"lm_head.weight", "wcls", "output"},
                           {"input_layernorm.weight", "rms_att_weight", "attn_norm"},
                           {"self_attn.q_proj.weight", "wq", "attn_q"},
                           {"self_attn.k_proj.weight", "wk", "attn_k"},
                           {"self_attn.v_proj.weight", "wv", "attn_v"},
                           {"self_attn.o_proj.weight", "wo", "attn_output"},
                           {"post_attention_layernorm.weight", "rms_ffn_weight", "ffn_norm"},
                           {"mlp.gate_proj.weight", "w1", "ffn_gate"},
                           {"mlp.up_proj.weight", "w3", "ffn_up"},
                           {"mlp.down_proj.weight", "w2", "ffn_down"}};

const Name& name_of_parameter(const std::string& parameter) {
  const LayerName layer(parameter);
  const std::string& wanted = layer.layer >= 0 ? layer.rest : parameter;
  const auto found =
      std::ranges::find_if(kNames, [&](const Name& name) { return wanted == name.ours; });
  check(found != std::end(kNames), "the model has a parameter {} that Llama models lack",
        parameter);
  return *found;
}

std::string text_of(std::span<const std::int64_t> shape) {
  return fmt::format("({})", fmt::join(shape, ", "));
}

std::vector<std::int64_t> dims_of(const Shape& shape) {
  std::vector<std::int64_t> dims;
  for (int i = 0; i < shape.rank(); ++i) dims.push_back(shape[i]);
  return dims;
}

std::map<std::string, std::string> provenance(const std::string& path, const std::string& version) {
  return {{"start", "pretrained"}, {"imported_from", path}, {"imported_by", version}};
}

ModelConfig gguf_config(const GgufFile& file, std::int64_t vocab_size) {
  check(file.has_value("general.architecture"), "{} does not say its architecture", file.path());
  const std::string& architecture = file.text("general.architecture");
  check(architecture == "llama", "{} is of the architecture '{}': only llama can be imported",
        file.path(), architecture);
  const auto integer = [&](const char* key) { return file.integer(std::string("llama.") + key); };
  const std::int64_t heads = integer("attention.head_count");
  const std::string kv = "llama.attention.head_count_kv";
  ModelConfig config = llama(vocab_size, integer("block_count"), integer("embedding_length"), heads,
                             file.has_value(kv) ? file.integer(kv) : heads,
                             integer("feed_forward_length"), integer("context_length"));
  config.norm_eps = file.real("llama.attention.layer_norm_rms_epsilon");
  if (file.has_value("llama.rope.freq_base")) config.rope_theta = file.real("llama.rope.freq_base");
  if (file.has_value("llama.rope.dimension_count"))
    check(integer("rope.dimension_count") == config.head_dim,
          "{} rotates {} of the {} dimensions of a head: only all are supported", file.path(),
          integer("rope.dimension_count"), config.head_dim);
  if (file.has_value("llama.rope.scaling.type"))
    check(file.text("llama.rope.scaling.type") == "none",
          "{} scales rotary positions by '{}': only unscaled ones are supported", file.path(),
          file.text("llama.rope.scaling.type"));
  config.tied_output = !file.has("output.weight");
  config.validate();
  return config;
}

}  // namespace

bool is_gguf_file(const std::string& path) {
  const MappedFile file(path);
  return file.bytes().size() >= 4 && std::memcmp(file.bytes().data(), "GGUF", 4) == 0;
}

ModelConfig import_gguf(const std::string& path, const std::string& out,
                        const std::string& version) {
  const GgufFile file(path);
  const GgufVocabulary vocabulary = gguf_vocabulary(file);
  const TokenizerFiles tokenizer = tokenizer_files(vocabulary, path);
  const ModelConfig config = gguf_config(file, std::ssize(vocabulary.tokens));
  Transformer model(config, DType::f32, TrainedPart::nothing);
  std::set<std::string> known;
  fill_parameters(model, [&](const std::string& name, std::span<float> values) {
    const LayerName layer(name);
    const std::string theirs =
        layer.layer >= 0
            ? fmt::format("blk.{}.{}.weight", layer.layer, name_of_parameter(name).gguf)
            : fmt::format("{}.weight", name_of_parameter(name).gguf);
    const auto expected = dims_of(model.params().spec(model.params().find(name)).shape);
    check(file.has(theirs), "{} has no tensor {}", path, theirs);
    check(file.tensor(theirs).shape == expected,
          "{}: the tensor {} has the shape {}, but the model asks for {}", path, theirs,
          text_of(file.tensor(theirs).shape), text_of(expected));
    file.read_rows(theirs, 0, values);
    known.insert(theirs);
  });
  for (const auto& [name, tensor] : file.tensors())
    check(known.contains(name), "{} holds the tensor {}, which a Llama model does not have", path,
          name);
  make_folders(out);
  write_file_atomically(out + "/" + tokenizer.name, tokenizer.content);
  if (!tokenizer.config.empty())
    write_file_atomically(out + "/tokenizer_config.json", tokenizer.config);
  save_model(model, out, provenance(path, version));
  return config;
}

ModelConfig import_llama2c(const std::string& path, const std::string& tokenizer,
                           const std::string& out, const std::string& version) {
  const Llama2cFile file(path);
  const Llama2cConfig& theirs = file.config();
  ModelConfig config = llama(theirs.vocab_size, theirs.layers, theirs.dim, theirs.heads,
                             theirs.kv_heads, theirs.hidden_dim, theirs.seq_len);
  config.tied_output = theirs.tied;
  config.validate();
  const SentencePieceOptions options{.bos = 1, .eos = 2};
  const std::string pieces =
      sentencepiece_model(read_llama2c_tokenizer(tokenizer, config.vocab_size), options, tokenizer);
  Transformer model(config, DType::f32, TrainedPart::nothing);
  fill_parameters(model, [&](const std::string& name, std::span<float> values) {
    // The layers of a kind lie one after the other.
    const std::int64_t layer = std::max<std::int64_t>(0, LayerName(name).layer);
    file.read(name_of_parameter(name).llama2c, layer * std::ssize(values), values);
  });
  make_folders(out);
  write_file_atomically(out + "/tokenizer.model", pieces);
  save_model(model, out, provenance(path, version));
  return config;
}

}  // namespace t2r
