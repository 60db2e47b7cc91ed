#include "core/train/model_folder.h"

#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "core/base/log.h"
#include "core/train/config_json.h"
#include "data/atomic_file.h"
#include "data/safetensors.h"

namespace t2r {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kTokenizerFiles[] = {"tokenizer.model",
                                           "bytes.json",
                                           "tokenizer.json",
                                           "tokenizer_config.json",
                                           "special_tokens_map.json",
                                           "vocab.json",
                                           "merges.txt",
                                           "added_tokens.json",
                                           "generation_config.json",
                                           "source.tokenizer.model"};

/// A tensor in the file and the parameters it holds: [first, last] glued together, the matrix
/// transposed where Hugging Face's Conv1D stores (in, out).
struct DiskTensor {
  std::string name;
  ParamId first, last;
  bool transposed = false;

  Tensor value(const ParamStore& params) const {
    return first.index == last.index ? params.value(first) : params.value(first, last);
  }
  std::vector<std::int64_t> shape(const ParamStore& params) const {
    const Shape s = value(params).shape;
    std::vector<std::int64_t> dims;
    for (int i = 0; i < s.rank(); ++i) dims.push_back(s[i]);
    if (transposed) std::swap(dims[0], dims[1]);
    return dims;
  }
};

std::string text_of(const std::vector<std::int64_t>& shape) {
  std::string text;
  for (std::int64_t dim : shape) text += (text.empty() ? "(" : ", ") + std::to_string(dim);
  return text.empty() ? "()" : text + ")";
}

bool replace_prefix(std::string& name, std::string_view from, std::string_view to) {
  if (!name.starts_with(from)) return false;
  name.replace(0, from.size(), to);
  return true;
}

/// GPT-2's name of what follows "model.layers.N.".
DiskTensor gpt2_layer_tensor(std::string rest, ParamId id) {
  DiskTensor tensor{"", id, id};
  const bool matrix = rest.ends_with(".weight");
  if (replace_prefix(rest, "self_attn.q_proj", "attn.c_attn")) {
    tensor.last = ParamId{id.index + 2};  // key and value follow, glued
    tensor.transposed = matrix;
  } else if (replace_prefix(rest, "self_attn.o_proj", "attn.c_proj") ||
             replace_prefix(rest, "mlp.up_proj", "mlp.c_fc") ||
             replace_prefix(rest, "mlp.down_proj", "mlp.c_proj")) {
    tensor.transposed = matrix;
  } else {
    (void)(replace_prefix(rest, "input_layernorm", "ln_1") ||
           replace_prefix(rest, "post_attention_layernorm", "ln_2") ||
           replace_prefix(rest, "self_attn.", "attn."));  // phi, decay
  }
  tensor.name = rest;
  return tensor;
}

/// Every tensor of the file, in the order of the arena.
std::vector<DiskTensor> disk_layout(const Transformer& model, const std::string& gpt2_prefix) {
  const ParamStore& params = model.params();
  const bool gpt2 = disk_family(model.config()) == DiskFamily::gpt2;
  std::vector<DiskTensor> layout;
  for (int i = 0; i < params.count(); ++i) {
    std::string name = params.spec(ParamId{i}).name;
    DiskTensor tensor{name, ParamId{i}, ParamId{i}};
    if (gpt2) {
      if (replace_prefix(name, "model.layers.", "")) {
        const std::size_t dot = name.find('.');
        const std::string layer = name.substr(0, dot), rest = name.substr(dot + 1);
        tensor = gpt2_layer_tensor(rest, ParamId{i});
        tensor.name = gpt2_prefix + "h." + layer + "." + tensor.name;
        i = tensor.last.index;
      } else {
        for (const auto& [from, to] :
             {std::pair{"model.embed_tokens.", "wte."}, std::pair{"model.embed_positions.", "wpe."},
              std::pair{"model.norm.", "ln_f."}})
          if (replace_prefix(name, from, gpt2_prefix + to)) break;
        tensor.name = name;  // lm_head.weight as it is
      }
    }
    layout.push_back(tensor);
  }
  return layout;
}

template <class T>
void transpose(const T* in, std::int64_t rows, std::int64_t columns, T* out) {
  for (std::int64_t r = 0; r < rows; ++r)
    for (std::int64_t c = 0; c < columns; ++c) out[c * rows + r] = in[r * columns + c];
}

void read_tensor(const SafetensorsModel& file, const std::string& path, const DiskTensor& tensor,
                 const ParamStore& params) {
  check(file.has(tensor.name),
        "{} has no tensor {}, which its config.json asks for, of the shape {}", path, tensor.name,
        text_of(tensor.shape(params)));
  const auto& found = file.info(tensor.name).shape;
  const auto expected = tensor.shape(params);
  check(found == expected, "{}: the tensor {} has the shape {}, but config.json asks for {}", path,
        tensor.name, text_of(found), text_of(expected));
  const Tensor value = tensor.value(params);
  dispatch(value.dtype, [&]<class T>() {
    const std::span<T> out(value.as<T>(), static_cast<std::size_t>(value.size()));
    if (!tensor.transposed) {
      file.read(tensor.name, 0, out);
      return;
    }
    std::vector<T> stored(out.size());
    file.read(tensor.name, 0, std::span<T>(stored));
    transpose(stored.data(), expected[0], expected[1], out.data());
  });
}

/// Tensors that other programs write and that carry no weights.
bool harmless(const std::string& name, bool tied) {
  return name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias") ||
         name.ends_with("rotary_emb.inv_freq") || (tied && name == "lm_head.weight");
}

void warn_of_extra_tensors(const SafetensorsModel& file, const std::string& folder,
                           const std::vector<DiskTensor>& layout, bool tied) {
  std::set<std::string> known;
  for (const DiskTensor& tensor : layout) known.insert(tensor.name);
  std::vector<std::string> extra;
  for (const std::string& name : file.names())
    if (!known.contains(name) && !harmless(name, tied)) extra.push_back(name);
  if (extra.empty() || !log_is_leader()) return;
  warn("{} holds {} tensors that the model does not have, such as {}: they are ignored", folder,
       extra.size(), extra.front());
}

json read_config_file(const std::string& folder) {
  const std::string path = folder + "/config.json";
  check(access(path.c_str(), F_OK) == 0,
        "{} is no model folder: it has no config.json (an interrupted save leaves none)", folder);
  const json object = json::parse(read_file(path), nullptr, false);
  check(object.is_object(), "{} is no valid JSON object", path);
  return object;
}

void copy_small_file(const fs::path& from, const fs::path& to) {
  write_file_atomically(to.string(), read_file(from.string()));
}

}  // namespace

ModelConfig read_model_config(const std::string& folder) {
  return config_from_json(read_config_file(folder), folder + "/config.json");
}

std::unique_ptr<Transformer> load_model(const std::string& folder, DType dtype, bool with_gradients,
                                        const TensorParallel& parallel,
                                        const ContextParallel& context) {
  if (parallel.active()) {
    const auto whole = load_model(folder, dtype, false);
    auto part =
        std::make_unique<Transformer>(whole->config(), dtype, with_gradients, parallel, context);
    copy_part(part->params(), part->params().all_values(), whole->params(),
              whole->params().all_values());
    part->params().touch();
    return part;
  }
  const ModelConfig config = read_model_config(folder);
  const SafetensorsModel file = SafetensorsModel::open(folder);
  auto model =
      std::make_unique<Transformer>(config, dtype, with_gradients, TensorParallel(), context);
  const std::string prefix = file.has("transformer.wte.weight") ? "transformer." : "";
  const auto layout = disk_layout(*model, prefix);
  for (const DiskTensor& tensor : layout) read_tensor(file, folder, tensor, model->params());
  warn_of_extra_tensors(file, folder, layout, config.tied_output);
  model->params().touch();
  return model;
}

void save_model(const Transformer& model, const std::string& folder,
                const std::map<std::string, std::string>& provenance,
                const std::string& base_folder) {
  const ParamStore& params = model.params();
  json config = config_to_json(model.config());
  config["torch_dtype"] = params.dtype() == DType::f64   ? "float64"
                          : params.dtype() == DType::f32 ? "float32"
                                                         : "bfloat16";
  if (!provenance.empty()) config["t2r_provenance"] = provenance;
  make_folders(folder);
  std::error_code error;
  const bool in_place = !base_folder.empty() && fs::equivalent(base_folder, folder, error);
  if (!base_folder.empty() && access((base_folder + "/config.json").c_str(), F_OK) == 0) {
    json base = read_config_file(base_folder);
    if (base.contains("model_type") && base["model_type"] == config["model_type"]) {
      base.erase("t2r");
      base.erase("t2r_provenance");
      base.update(config);
      config = base;
    }
  }

  // The folder is no model while its files do not belong together.
  fs::remove(folder + "/config.json", error);
  fs::remove(folder + "/model.safetensors.index.json", error);
  std::vector<SafetensorsEntry> entries;
  std::vector<std::vector<std::byte>> transposed;
  for (const DiskTensor& tensor : disk_layout(model, "transformer.")) {
    const Tensor value = tensor.value(params);
    const void* data = value.data;
    if (tensor.transposed) {
      transposed.emplace_back(static_cast<std::size_t>(value.bytes()));
      dispatch(value.dtype, [&]<class T>() {
        transpose(value.as<T>(), value.shape[0], value.shape[1],
                  reinterpret_cast<T*>(transposed.back().data()));
      });
      data = transposed.back().data();
    }
    entries.push_back({tensor.name, value.dtype, tensor.shape(params), data});
  }
  write_safetensors(folder + "/model.safetensors", entries);
  if (!base_folder.empty() && !in_place)
    for (const char* name : kTokenizerFiles)
      if (const fs::path from = fs::path(base_folder) / name; fs::exists(from, error))
        copy_small_file(from, fs::path(folder) / name);
  write_file_atomically(folder + "/config.json", config.dump(2) + "\n");
}

std::map<std::string, std::string> read_provenance(const std::string& folder) {
  const json config = read_config_file(folder);
  std::map<std::string, std::string> provenance;
  if (!config.contains("t2r_provenance") || !config["t2r_provenance"].is_object())
    return provenance;
  for (const auto& [key, value] : config["t2r_provenance"].items())
    if (value.is_string()) provenance[key] = value.get<std::string>();
  return provenance;
}

void check_same_tokenizer(const std::string& model_folder, const Dataset& dataset) {
  const std::string path = model_folder + "/" + dataset.info().tokenizer_file;
  if (access(path.c_str(), F_OK) != 0) return;
  const std::string found = Tokenizer::load(path).sha256();
  check_usage(found == dataset.info().tokenizer_sha256,
              "the model {} and the dataset {} have different tokenizers: prepare the dataset with "
              "--tokenizer {}",
              model_folder, dataset.folder(), path);
}

std::string describe_attention(const ModelConfig& config) {
  if (config.linear_layers.empty()) return "softmax";
  std::string text =
      fmt::format("{} k={}", name_of(config.linear.feature_map), config.linear.feature_size);
  if (config.causal_feature_size() != config.linear.feature_size)
    text += fmt::format(" (causal k={})", config.causal_feature_size());
  if (config.linear.decay != Decay::none)
    text += fmt::format(" with {} decay", name_of(config.linear.decay));
  std::string kept;
  int count = 0;
  for (std::int64_t layer = 0; layer < config.layers; ++layer) {
    if (config.is_linear(layer)) continue;
    kept += (count++ ? ", " : "") + std::to_string(layer);
  }
  if (count > 0) text += (count > 1 ? ", softmax in layers " : ", softmax in layer ") + kept;
  return text;
}

}  // namespace t2r
