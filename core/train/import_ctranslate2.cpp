#include "core/train/import_ctranslate2.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "core/train/model_folder.h"
#include "data/atomic_file.h"
#include "data/character_model.h"
#include "data/ctranslate2.h"
#include "data/sentence_file.h"

namespace t2r {
namespace {

constexpr double kNormEps = 1e-6;
constexpr std::int64_t kMaxPositions = 1024;  // of the table of sinusoids; the file has none

bool exists(const std::string& path) {
  return access(path.c_str(), F_OK) == 0;
}

/// A variable of the file and the parameters, one below the other in the arena, that it holds.
struct Source {
  std::string variable;
  std::vector<std::string> parameters;
};

/// Weight and bias of a linear layer.
void add_linear(std::vector<Source>& all, const std::string& from,
                const std::vector<std::string>& to) {
  for (const char* part : {"weight", "bias"}) {
    all.push_back({from + "/" + part, {}});
    for (const std::string& name : to) all.back().parameters.push_back(name + "." + part);
  }
}

void add_norm(std::vector<Source>& all, const std::string& from, const std::string& to) {
  all.push_back({from + "/gamma", {to + ".weight"}});
  all.push_back({from + "/beta", {to + ".bias"}});
}

std::vector<std::string> each(const std::string& prefix, const std::vector<std::string>& names) {
  std::vector<std::string> all;
  for (const std::string& name : names) all.push_back(prefix + name);
  return all;
}

void add_stack(std::vector<Source>& all, const std::string& stack, std::int64_t layers) {
  for (std::int64_t i = 0; i < layers; ++i) {
    const std::string from = fmt::format("{}/layer_{}/", stack, i);
    const std::string to = fmt::format("model.{}.layers.{}.", stack, i);
    add_norm(all, from + "self_attention/layer_norm", to + "input_layernorm");
    add_linear(all, from + "self_attention/linear_0",
               each(to + "self_attn.", {"q_proj", "k_proj", "v_proj"}));
    add_linear(all, from + "self_attention/linear_1", {to + "self_attn.o_proj"});
    if (stack == "decoder") {
      add_norm(all, from + "attention/layer_norm", to + "encoder_attn_layernorm");
      add_linear(all, from + "attention/linear_0", {to + "encoder_attn.q_proj"});
      add_linear(all, from + "attention/linear_1",
                 each(to + "encoder_attn.", {"k_proj", "v_proj"}));
      add_linear(all, from + "attention/linear_2", {to + "encoder_attn.o_proj"});
    }
    add_norm(all, from + "ffn/layer_norm", to + "post_attention_layernorm");
    add_linear(all, from + "ffn/linear_0", {to + "mlp.up_proj"});
    add_linear(all, from + "ffn/linear_1", {to + "mlp.down_proj"});
  }
  add_norm(all, stack + "/layer_norm", "model." + stack + ".norm");
}

std::vector<Source> layout(const ModelConfig& config) {
  std::vector<Source> all;
  all.push_back({"encoder/embeddings/weight", {"model.encoder.embed_tokens.weight"}});
  all.push_back({"decoder/embeddings/weight", {"model.shared.embed_tokens.weight"}});
  add_stack(all, "encoder", config.encoder_layers);
  add_stack(all, "decoder", config.layers);
  add_linear(all, "decoder/projection", {"lm_head"});
  return all;
}

/// Layers of a stack, numbered without a gap.
std::int64_t count_layers(const CTranslate2File& file, const std::string& stack) {
  std::int64_t layers = 0;
  while (file.has(fmt::format("{}/layer_{}/ffn/linear_0/weight", stack, layers))) ++layers;
  return layers;
}

ModelConfig read_config(const CTranslate2File& file) {
  const bool big = file.specification() == "TransformerBig";
  check(big || file.specification() == "TransformerBase",
        "{} holds a {}: TransformerBase and TransformerBig can be imported", file.path(),
        file.specification());
  const auto matrix = [&](const char* name) {
    const auto& shape = file.shape(name);
    check(shape.size() == 2, "{}: {} has {} dimensions instead of 2", file.path(), name,
          shape.size());
    return shape;
  };
  const auto source = matrix("encoder/embeddings/weight");
  const auto target = matrix("decoder/embeddings/weight");
  const auto ffn = matrix("decoder/layer_0/ffn/linear_0/weight");
  ModelConfig config =
      translation_config(target[0], count_layers(file, "encoder"), count_layers(file, "decoder"),
                         target[1], big ? 16 : 8, kMaxPositions);
  config.source_vocab_size = source[0];
  config.ffn_size = ffn[0];
  config.norm_eps = kNormEps;
  config.tied_output = false;
  config.output_bias = true;
  config.source_eos = false;
  config.position_offset = 1;
  config.validate();
  return config;
}

std::string text_of(const std::vector<std::int64_t>& shape) {
  return fmt::format("({})", fmt::join(shape, ", "));
}

void copy_variable(const CTranslate2File& file, const Source& source, Transformer& model) {
  const ParamStore& params = model.params();
  const ParamId first = params.find(source.parameters.front());
  const ParamId last = params.find(source.parameters.back());
  check(first && last, "the model has no parameter {}", source.parameters.front());
  const Tensor to = params.value(first, last);
  std::vector<std::int64_t> expected;
  for (int i = 0; i < to.shape.rank(); ++i) expected.push_back(to.shape[i]);
  const auto& found = file.shape(source.variable);
  check(found == expected, "{}: {} has the shape {}, but the model asks for {}", file.path(),
        source.variable, text_of(found), text_of(expected));
  const std::vector<float> values = file.values(source.variable);
  std::copy(values.begin(), values.end(), to.as<float>());
}

/// The list in FOLDER/NAME, with <unk> as its last entry where the model has one more.
std::vector<std::string> read_vocabulary(const std::string& path, std::int64_t entries) {
  check(exists(path),
        "{} is missing: a CTranslate2 folder holds source_vocabulary.txt and "
        "target_vocabulary.txt, or shared_vocabulary.txt",
        path);
  std::vector<std::string> tokens = read_lines(path);
  if (std::ssize(tokens) == entries - 1 && std::ranges::count(tokens, "<unk>") == 0)
    tokens.emplace_back("<unk>");
  check(std::ssize(tokens) == entries,
        "{} lists {} tokens, but the model has {}: they do not belong together", path,
        tokens.size(), entries);
  return tokens;
}

void write_tokenizers(const std::string& folder, const std::string& out,
                      const ModelConfig& config) {
  const std::string shared = folder + "/shared_vocabulary.txt";
  const bool joint = exists(shared);
  const std::string source = joint ? shared : folder + "/source_vocabulary.txt";
  const std::string target = joint ? shared : folder + "/target_vocabulary.txt";
  const std::string of_source =
      character_model(read_vocabulary(source, config.source_vocabulary()), source);
  const std::string of_target = character_model(read_vocabulary(target, config.vocab_size), target);
  make_folders(out);
  write_file_atomically(out + "/source.tokenizer.model", of_source);
  write_file_atomically(out + "/tokenizer.model", of_target);
}

}  // namespace

bool is_ctranslate2_folder(const std::string& folder) {
  return exists(folder + "/model.bin");
}

ModelConfig import_ctranslate2(const std::string& folder, const std::string& out,
                               const std::string& version) {
  const CTranslate2File file(folder + "/model.bin");
  const ModelConfig config = read_config(file);
  Transformer model(config, DType::f32, TrainedPart::nothing);
  std::set<std::string> known;
  for (const Source& source : layout(config)) {
    copy_variable(file, source, model);
    known.insert(source.variable);
  }
  for (const std::string& name : file.names())
    check(known.contains(name), "{} holds {}, which {} does not have: it cannot be imported",
          file.path(), name, file.specification());
  write_tokenizers(folder, out, config);
  save_model(model, out,
             {{"start", "pretrained"}, {"imported_from", folder}, {"imported_by", version}});
  return config;
}

}  // namespace t2r
