#include "core/train/import_marian.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "core/train/json_reader.h"
#include "core/train/model_folder.h"
#include "data/atomic_file.h"
#include "data/checked_json.h"
#include "data/safetensors.h"
#include "data/tokenizer.h"
#include "data/vocabulary_json.h"

namespace t2r {
namespace {

using nlohmann::json;

constexpr double kNormEps = 1e-5;
constexpr std::int64_t kPieceElements = 1 << 16;  // read at once where tensors are compared

bool exists(const std::string& path) {
  return access(path.c_str(), F_OK) == 0;
}

std::string text_of(const std::vector<std::int64_t>& shape) {
  return fmt::format("({})", fmt::join(shape, ", "));
}

Activation activation_of(const JsonReader& in, const char* otherwise) {
  const std::string name = in.text("activation_function", otherwise);
  if (name == "relu") return Activation::relu;
  if (name == "swish" || name == "silu") return Activation::silu;
  if (name == "gelu") return Activation::gelu_erf;
  if (name == "gelu_new") return Activation::gelu_tanh;
  fail("{}: the activation function '{}' is not supported: relu, swish, gelu and gelu_new are",
       in.path(), name);
}

/// A number that both stacks must have in common.
std::int64_t common(const JsonReader& in, const char* encoder, const char* decoder) {
  const std::int64_t value = in.integer(encoder);
  check(in.integer(decoder) == value, "{}: '{}' is {} and '{}' {}, but t2r has one for both",
        in.path(), encoder, value, decoder, in.integer(decoder));
  return value;
}

/// What config.json says of either type, but for the vocabularies.
ModelConfig read_sizes(const JsonReader& in) {
  const std::int64_t heads = common(in, "encoder_attention_heads", "decoder_attention_heads");
  const std::int64_t hidden = in.integer("d_model");
  check(heads >= 1 && hidden % heads == 0 && hidden % 2 == 0,
        "{}: a hidden size of {} cannot be split into {} heads and the halves of sinusoids",
        in.path(), hidden, heads);
  ModelConfig config =
      translation_config(1, in.integer("encoder_layers"), in.integer("decoder_layers"), hidden,
                         heads, in.integer("max_position_embeddings"));
  config.ffn_size = common(in, "encoder_ffn_dim", "decoder_ffn_dim");
  config.norm_eps = kNormEps;
  config.pre_norm = false;
  config.dropout = static_cast<float>(in.number("dropout", 0.1));
  config.attention_dropout = static_cast<float>(in.number("attention_dropout", 0));
  config.activation_dropout = static_cast<float>(in.number("activation_dropout", 0));
  config.layer_drop = static_cast<float>(in.number("decoder_layerdrop", 0));
  return config;
}

/// A folder with what is in it.
class Folder {
 public:
  explicit Folder(const std::string& path)
      : path_(path),
        json_(parse_checked_json(read_file(path + "/config.json"), path + "/config.json")),
        in_(json_, path + "/config.json"),
        marian_(in_.text("model_type") == "marian"),
        config_(marian_ ? read_marian() : read_fsmt()) {
    check(config_.encoder_layers >= 1, "{}: a translation model has at least one encoder layer",
          in_.path());
    config_.validate();
  }

  const ModelConfig& config() const { return config_; }
  bool marian() const { return marian_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  SpecialIds special() const {
    const std::int64_t eos = in_.integer("eos_token_id", marian_ ? 0 : 2);
    const std::int64_t pad = in_.integer("pad_token_id", marian_ ? config_.vocab_size - 1 : 1);
    return {in_.integer("decoder_start_token_id", marian_ ? pad : eos), eos, pad};
  }

 private:
  ModelConfig read_marian() const {
    for (const char* key : {"normalize_before", "normalize_embedding", "add_final_layer_norm"})
      in_.expect_flag(key, false);
    in_.expect_flag("static_position_embeddings", true);
    ModelConfig config = read_sizes(in_);
    const bool shared = in_.flag("share_encoder_decoder_embeddings", true);
    config.vocab_size = in_.integer("vocab_size");
    if (!shared) {
      config.source_vocab_size = config.vocab_size;
      config.vocab_size = in_.integer("decoder_vocab_size", config.vocab_size);
    }
    config.activation = activation_of(in_, "gelu");
    config.embedding_scale =
        in_.flag("scale_embedding", false) ? std::sqrt(static_cast<double>(config.hidden_size)) : 1;
    config.sinusoids = Sinusoids::marian;
    config.tied_output = in_.flag("tie_word_embeddings", true);
    config.output_bias = true;
    return config;
  }

  ModelConfig read_fsmt() const {
    ModelConfig config = read_sizes(in_);
    config.vocab_size = in_.integer("tgt_vocab_size");
    const std::int64_t source = in_.integer("src_vocab_size");
    // All three matrices are tied, or the decoder's two.
    const bool joint = in_.flag("tie_word_embeddings", false);
    check(!joint || source == config.vocab_size,
          "{}: 'tie_word_embeddings' asks for one vocabulary, but there are {} and {} tokens",
          in_.path(), source, config.vocab_size);
    config.source_vocab_size = joint ? 0 : source;
    config.activation = activation_of(in_, "relu");
    config.embedding_scale =
        in_.flag("scale_embedding", true) ? std::sqrt(static_cast<double>(config.hidden_size)) : 1;
    config.position_offset = in_.integer("pad_token_id", 1) + 1;
    return config;
  }

  std::string path_;
  json json_;
  JsonReader in_;
  bool marian_;
  ModelConfig config_;
};

/// The names that a parameter of ours may have there; where it has several they are the same
/// values.
class Names {
 public:
  explicit Names(const Folder& folder) : config_(folder.config()) {
    const bool joint = config_.source_vocab_size == 0;
    encoder_ = {"model.encoder.embed_tokens.weight"};
    decoder_ = {"model.decoder.embed_tokens.weight"};
    output_ = {"lm_head.weight", "model.decoder.output_projection.weight"};
    if (folder.marian()) output_.pop_back();
    if (config_.tied_output) decoder_.insert(decoder_.end(), output_.begin(), output_.end());
    if (joint) {
      decoder_.insert(decoder_.begin(), "model.shared.weight");
      decoder_.push_back(encoder_[0]);
    }
  }

  std::vector<std::string> of(std::string parameter) const {
    if (parameter == "model.shared.embed_tokens.weight") return decoder_;
    if (parameter == "model.encoder.embed_tokens.weight") return encoder_;
    if (parameter == "lm_head.weight") return output_;
    if (parameter == "lm_head.bias") return {"final_logits_bias"};
    constexpr std::pair<std::string_view, std::string_view> parts[] = {
        {".o_proj.", ".out_proj."},
        {".input_layernorm.", ".self_attn_layer_norm."},
        {".encoder_attn_layernorm.", ".encoder_attn_layer_norm."},
        {".post_attention_layernorm.", ".final_layer_norm."},
        {".mlp.up_proj.", ".fc1."},
        {".mlp.down_proj.", ".fc2."}};
    for (const auto& [ours, theirs] : parts)
      if (const std::size_t at = parameter.find(ours); at != std::string::npos)
        parameter.replace(at, ours.size(), theirs);
    return {parameter};
  }

 private:
  const ModelConfig& config_;
  std::vector<std::string> encoder_, decoder_, output_;
};

void check_same_values(const SafetensorsModel& file, const std::string& folder,
                       const std::string& a, const std::string& b) {
  const std::int64_t size = file.info(a).elements;
  check(file.info(b).shape == file.info(a).shape,
        "{}: {} has the shape {} and {} {}, but config.json says that they are the same", folder, a,
        text_of(file.info(a).shape), b, text_of(file.info(b).shape));
  std::vector<float> x, y;
  for (std::int64_t begin = 0; begin < size; begin += kPieceElements) {
    const auto count = static_cast<std::size_t>(std::min(kPieceElements, size - begin));
    x.resize(count);
    y.resize(count);
    file.read(a, begin, std::span<float>(x));
    file.read(b, begin, std::span<float>(y));
    check(x == y, "{}: {} and {} differ, but config.json says that they are the same", folder, a,
          b);
  }
}

std::vector<std::int64_t> shape_there(const Tensor& value, const std::string& name) {
  std::vector<std::int64_t> shape;
  if (name == "final_logits_bias") shape.push_back(1);
  for (int i = 0; i < value.shape.rank(); ++i) shape.push_back(value.shape[i]);
  return shape;
}

/// Fills a parameter, and notes the tensors that it comes from.
void read_parameter(const SafetensorsModel& file, const std::string& folder, const Tensor& value,
                    const std::vector<std::string>& names, std::set<std::string>& known) {
  std::vector<std::string> present;
  std::ranges::copy_if(names, std::back_inserter(present),
                       [&](const std::string& name) { return file.has(name); });
  check(!present.empty(), "{} has no tensor {}, which its config.json asks for", folder, names[0]);
  const std::string& name = present[0];
  const auto expected = shape_there(value, name);
  check(file.info(name).shape == expected,
        "{}: the tensor {} has the shape {}, but config.json asks for {}", folder, name,
        text_of(file.info(name).shape), text_of(expected));
  for (std::size_t i = 1; i < present.size(); ++i)
    check_same_values(file, folder, name, present[i]);
  dispatch(value.dtype, [&]<class T>() {
    file.read(name, 0, std::span<T>(value.as<T>(), static_cast<std::size_t>(value.size())));
  });
  known.insert(present.begin(), present.end());
}

/// Some files hold the table of positions: it must be the one that t2r computes.
void check_positions(const SafetensorsModel& file, const std::string& folder,
                     const ModelConfig& config, const std::string& name) {
  constexpr float kTolerance = 5e-3f;  // half a unit of bf16 near 1
  const auto& shape = file.info(name).shape;
  check(shape.size() == 2 && shape[1] == config.hidden_size,
        "{}: the tensor {} has the shape {}, but config.json asks for {} columns", folder, name,
        text_of(shape), config.hidden_size);
  std::vector<float> stored(static_cast<std::size_t>(shape[1])), computed(stored.size());
  const Tensor row(computed.data(), Shape{1, shape[1]}, DType::f32);
  for (std::int64_t p = config.position_offset; p < shape[0]; ++p) {
    file.read(name, p * shape[1], std::span<float>(stored));
    sinusoidal_positions(row, p, config.sinusoids);
    check(std::ranges::equal(stored, computed,
                             [&](float a, float b) { return std::abs(a - b) <= kTolerance; }),
          "{}: row {} of {} holds no sinusoids as t2r computes them: other positions are not "
          "supported",
          folder, p, name);
  }
}

void read_weights(const Folder& folder, const std::string& path, Transformer& model) {
  check(exists(path + "/model.safetensors") || exists(path + "/model.safetensors.index.json") ||
            !exists(path + "/pytorch_model.bin"),
        "{} has its weights in pytorch_model.bin, which t2r does not read: write it again with "
        "save_pretrained(..., safe_serialization=True) of Hugging Face's transformers",
        path);
  const SafetensorsModel file = SafetensorsModel::open(path);
  const Names names(folder);
  std::set<std::string> known;
  ParamStore& params = model.params();
  for (int i = 0; i < params.count(); ++i)
    read_parameter(file, path, params.value(ParamId{i}), names.of(params.spec(ParamId{i}).name),
                   known);
  for (const char* stack : {"encoder", "decoder"})
    if (const std::string name = fmt::format("model.{}.embed_positions.weight", stack);
        file.has(name)) {
      check_positions(file, path, model.config(), name);
      known.insert(name);
    }
  for (const std::string& name : file.names())
    check(known.contains(name),
          "{} holds the tensor {}, which a model of its config.json does not have", path, name);
  params.touch();
}

struct Tokenizers {
  std::string source, target;
};

Tokenizers make_tokenizers(const Folder& folder) {
  const ModelConfig& config = folder.config();
  const bool separate = config.source_vocab_size != 0;
  const SpecialIds special = folder.special();
  const std::string source = folder.file(folder.marian() ? "vocab.json" : "vocab-src.json");
  const std::string target = folder.file(!folder.marian() ? "vocab-tgt.json"
                                         : separate       ? "target_vocab.json"
                                                          : "vocab.json");
  const auto source_tokens = read_vocabulary_json(source, config.source_vocabulary());
  const auto target_tokens = read_vocabulary_json(target, config.vocab_size);
  // A source has neither the token that begins a target nor padding, and with a vocabulary of its
  // own these may be other numbers there.
  SpecialIds of_source = special;
  if (separate && folder.marian()) {
    const auto named = [&](const char* name) {
      const auto found = std::ranges::find(source_tokens, name);
      return found == source_tokens.end() ? special.eos : found - source_tokens.begin();
    };
    of_source = {named("<pad>"), special.eos, named("<pad>")};
  }
  if (!folder.marian())
    return {bpe_units_model(source_tokens, of_source, source),
            bpe_units_model(target_tokens, special, target)};
  return {renumbered_sentencepiece(source_tokens, of_source, folder.file("source.spm"), source),
          renumbered_sentencepiece(target_tokens, special, folder.file("target.spm"), target)};
}

/// BPE codes as subword-nmt reads them: version 0.2 is the one where "</w>" belongs to a unit.
void copy_bpe_codes(const std::string& from, const std::string& to) {
  constexpr std::string_view kVersion = "#version: 0.2\n";
  const std::string codes = read_file(from);
  write_file_atomically(to, codes.starts_with("#version") ? codes : std::string(kVersion) + codes);
}

void check_loads(const std::string& path, std::int64_t entries) {
  const std::int64_t found = Tokenizer::load(path).vocab_size();
  check(found == entries, "{} has {} entries instead of {}", path, found, entries);
}

void write_tokenizers(const Folder& folder, const Tokenizers& tokenizers, const std::string& out) {
  make_folders(out);
  write_file_atomically(out + "/source.tokenizer.model", tokenizers.source);
  write_file_atomically(out + "/tokenizer.model", tokenizers.target);
  check_loads(out + "/source.tokenizer.model", folder.config().source_vocabulary());
  check_loads(out + "/tokenizer.model", folder.config().vocab_size);
  if (const std::string codes = folder.file("merges.txt"); !folder.marian() && exists(codes))
    copy_bpe_codes(codes, out + "/merges.txt");
}

}  // namespace

bool is_marian_folder(const std::string& folder) {
  if (!exists(folder + "/config.json")) return false;
  const json config = json::parse(read_file(folder + "/config.json"), nullptr, false);
  return config.is_object() && config.contains("model_type") &&
         (config["model_type"] == "marian" || config["model_type"] == "fsmt");
}

ModelConfig import_marian(const std::string& folder, const std::string& out,
                          const std::string& version) {
  const Folder from(folder);
  const Tokenizers tokenizers = make_tokenizers(from);
  const DType dtype = stored_dtype(folder) == DType::bf16 ? DType::bf16 : DType::f32;
  Transformer model(from.config(), dtype, TrainedPart::nothing);
  read_weights(from, folder, model);
  write_tokenizers(from, tokenizers, out);
  save_model(model, out,
             {{"start", "pretrained"}, {"imported_from", folder}, {"imported_by", version}});
  return from.config();
}

}  // namespace t2r
