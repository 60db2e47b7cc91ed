#include "core/train/model_folder.h"

#include <unistd.h>

#include <exception>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <span>

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

  /// Of the whole tensor, as it lies in the model.
  std::vector<std::int64_t> model_shape(const ParamStore& params) const {
    const Shape s = params.spec(first).whole_shape();
    std::vector<std::int64_t> dims;
    for (int i = 0; i < s.rank(); ++i) dims.push_back(s[i]);
    for (int i = first.index + 1; i <= last.index; ++i)
      dims[0] += params.spec(ParamId{i}).whole_shape()[0];
    return dims;
  }
  /// As it lies in the file.
  std::vector<std::int64_t> shape(const ParamStore& params) const {
    auto dims = model_shape(params);
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
std::vector<DiskTensor> disk_layout(const Transformer& model, const std::string& gpt2_prefix,
                                    TensorNames names = TensorNames::family) {
  const ParamStore& params = model.params();
  const bool gpt2 = names == TensorNames::family && disk_family(model.config()) == DiskFamily::gpt2;
  std::vector<DiskTensor> layout;
  for (int i = 0; i < params.count(); ++i) {
    if (params.spec(ParamId{i}).group == ParamGroup::adapter) continue;  // merged
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

/// What this rank holds of a parameter whose rows begin at `row` of the tensor.
template <class T>
void read_parameter(const SafetensorsModel& file, const DiskTensor& tensor, const ParamSpec& spec,
                    std::int64_t row, std::int64_t tensor_rows, T* out) {
  const std::int64_t rows = spec.shape[0], size = spec.shape.size();
  const std::int64_t columns = rows > 0 ? size / rows : 0;
  const std::int64_t first_row = row + (spec.part.dim == 0 ? spec.part.begin : 0);
  const std::int64_t first_column = spec.part.dim == 1 ? spec.part.begin : 0;
  const std::int64_t whole_columns = spec.part.dim == 1 ? spec.part.whole : columns;
  const auto length = [](std::int64_t n) { return static_cast<std::size_t>(n); };
  if (tensor.transposed) {  // a column of ours is a stretch of a row of the file's
    std::vector<T> stored(length(size));
    for (std::int64_t c = 0; c < columns; ++c)
      file.read(tensor.name, (first_column + c) * tensor_rows + first_row,
                std::span<T>(stored.data() + c * rows, length(rows)));
    transpose(stored.data(), columns, rows, out);
  } else if (columns == whole_columns) {
    file.read(tensor.name, first_row * columns, std::span<T>(out, length(size)));
  } else {
    for (std::int64_t r = 0; r < rows; ++r)
      file.read(tensor.name, (first_row + r) * whole_columns + first_column,
                std::span<T>(out + r * columns, length(columns)));
  }
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
  std::int64_t row = 0;
  for (int i = tensor.first.index; i <= tensor.last.index; ++i) {
    const ParamSpec& spec = params.spec(ParamId{i});
    const Tensor value = params.value(ParamId{i});
    dispatch(value.dtype, [&]<class T>() {
      read_parameter(file, tensor, spec, row, tensor.model_shape(params)[0], value.as<T>());
    });
    row += spec.whole_shape()[0];
  }
}

/// On all threads, a tensor each; what is thrown is the first tensor's error, whoever was faster.
void read_tensors(const SafetensorsModel& file, const std::string& path,
                  const std::vector<DiskTensor>& layout, const ParamStore& params) {
  std::vector<std::exception_ptr> failures(layout.size());
#pragma omp parallel for schedule(dynamic)
  for (std::size_t i = 0; i < layout.size(); ++i) {
    try {
      read_tensor(file, path, layout[i], params);
    } catch (...) {
      failures[i] = std::current_exception();
    }
  }
  for (const std::exception_ptr& failure : failures)
    if (failure) std::rethrow_exception(failure);
}

/// The whole tensor as it lies in the file, on the first of the tensor-parallel ranks. Collective
/// over them.
std::vector<std::byte> gather_tensor(const TensorParallel& parallel, const DiskTensor& tensor,
                                     const ParamStore& params) {
  const auto shape = tensor.model_shape(params);
  const std::int64_t width = size_of(params.dtype());
  std::int64_t bytes = width;
  for (const std::int64_t dim : shape) bytes *= dim;
  std::vector<std::byte> whole;
  if (parallel.rank() == 0) whole.resize(static_cast<std::size_t>(bytes));
  std::int64_t place = 0;
  for (int i = tensor.first.index; i <= tensor.last.index; ++i) {
    std::byte* const room = whole.empty() ? nullptr : whole.data() + place;
    gather_parameter(parallel, params, params.all_values(), ParamId{i}, room);
    merge_adapter(parallel, params, ParamId{i}, room);
    place += params.spec(ParamId{i}).whole_shape().size() * width;
  }
  if (!tensor.transposed || whole.empty()) return whole;
  std::vector<std::byte> transposed(whole.size());
  dispatch(params.dtype(), [&]<class T>() {
    transpose(reinterpret_cast<const T*>(whole.data()), shape[0], shape[1],
              reinterpret_cast<T*>(transposed.data()));
  });
  return transposed;
}

/// The tensors of `layout` as a file, one after the other; the rank that writes calls `prepare`
/// first. Its failure waits until the others are through.
void write_weights(const Transformer& model, std::span<const DiskTensor> layout,
                   const std::string& path, const std::function<void()>& prepare) {
  const ParamStore& params = model.params();
  std::vector<SafetensorsEntry> entries;
  for (const DiskTensor& tensor : layout)
    entries.push_back({tensor.name, params.dtype(), tensor.shape(params), nullptr});
  std::optional<AtomicFile> file;
  std::exception_ptr failure;
  const auto on_writer = [&](auto&& work) {
    if (model.parallel().rank() != 0 || failure) return;
    try {
      work();
    } catch (...) {
      failure = std::current_exception();
    }
  };
  on_writer([&] {
    prepare();
    file.emplace(path);
    file->write(safetensors_header(entries));
  });
  for (const DiskTensor& tensor : layout) {
    const std::vector<std::byte> data = gather_tensor(model.parallel(), tensor, params);
    on_writer([&] { file->write(data); });
  }
  on_writer([&] { file->commit(); });
  if (failure) std::rethrow_exception(failure);
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

/// `config` with the keys of the base's that t2r does not know, where it is of the same type.
json with_unknown_keys(json config, const std::string& base_folder) {
  if (base_folder.empty() || access((base_folder + "/config.json").c_str(), F_OK) != 0)
    return config;
  json base = read_config_file(base_folder);
  if (!base.contains("model_type") || base["model_type"] != config["model_type"]) return config;
  base.erase("t2r");
  base.erase("t2r_provenance");
  base.update(config);
  return base;
}

void copy_small_file(const fs::path& from, const fs::path& to) {
  write_file_atomically(to.string(), read_file(from.string()));
}

/// Where `layout` is cut so that no part is larger than `most` bytes, but for single tensors.
std::vector<std::span<const DiskTensor>> split_layout(std::span<const DiskTensor> layout,
                                                      const ParamStore& params, std::int64_t most,
                                                      std::int64_t* total) {
  std::vector<std::span<const DiskTensor>> parts;
  std::size_t first = 0;
  std::int64_t bytes = 0;
  *total = 0;
  for (std::size_t i = 0; i < layout.size(); ++i) {
    std::int64_t size = size_of(params.dtype());
    for (const std::int64_t dim : layout[i].shape(params)) size *= dim;
    if (i > first && bytes + size > most) {
      parts.push_back(layout.subspan(first, i - first));
      first = i;
      bytes = 0;
    }
    bytes += size;
    *total += size;
  }
  parts.push_back(layout.subspan(first));
  return parts;
}

}  // namespace

void save_weights(const Transformer& model, const std::string& folder, TensorNames names,
                  std::int64_t shard_bytes) {
  const auto layout = disk_layout(model, "transformer.", names);
  std::int64_t total = 0;
  const auto parts = split_layout(layout, model.params(), shard_bytes, &total);
  if (parts.size() == 1) {
    write_weights(model, layout, folder + "/model.safetensors", [] {});
    return;
  }
  json map = json::object();
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::string name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, parts.size());
    write_weights(model, parts[i], folder + "/" + name, [] {});
    for (const DiskTensor& tensor : parts[i]) map[tensor.name] = name;
  }
  if (model.parallel().rank() != 0) return;
  const json index = {{"metadata", {{"total_size", total}}}, {"weight_map", map}};
  write_file_atomically(folder + "/model.safetensors.index.json", index.dump(2) + "\n");
}

const char* torch_name(DType dtype) {
  return dtype == DType::f64 ? "float64" : dtype == DType::f32 ? "float32" : "bfloat16";
}

DType stored_dtype(const std::string& folder) {
  const json config = read_config_file(folder);
  for (const char* key : {"torch_dtype", "dtype"}) {
    if (!config.contains(key) || !config[key].is_string()) continue;
    const std::string name = config[key].get<std::string>();
    return name == "bfloat16" ? DType::bf16 : name == "float64" ? DType::f64 : DType::f32;
  }
  return DType::f32;
}

ModelConfig read_model_config(const std::string& folder) {
  return config_from_json(read_config_file(folder), folder + "/config.json");
}

std::unique_ptr<Transformer> load_model(const std::string& folder, DType dtype,
                                        const TrainedPart& trained, const TensorParallel& parallel,
                                        const ContextParallel& context) {
  const ModelConfig config = read_model_config(folder);
  const SafetensorsModel file = SafetensorsModel::open(folder);
  auto model = std::make_unique<Transformer>(config, dtype, trained, parallel, context);
  const std::string prefix = file.has("transformer.wte.weight") ? "transformer." : "";
  // What `t2r export` writes has our names whatever the family.
  const bool own = file.has("model.embed_tokens.weight");
  const auto layout = disk_layout(*model, prefix, own ? TensorNames::own : TensorNames::family);
  read_tensors(file, folder, layout, model->params());
  warn_of_extra_tensors(file, folder, layout, config.tied_output);
  model->params().touch();
  return model;
}

void save_model(const Transformer& model, const std::string& folder,
                const std::map<std::string, std::string>& provenance,
                const std::string& base_folder) {
  json config = config_to_json(model.config());
  config["torch_dtype"] = torch_name(model.params().dtype());
  if (!provenance.empty()) config["t2r_provenance"] = provenance;
  std::error_code error;
  bool in_place = false;
  const auto prepare = [&] {
    make_folders(folder);
    in_place = !base_folder.empty() && fs::equivalent(base_folder, folder, error);
    config = with_unknown_keys(std::move(config), base_folder);
    // The folder is no model while its files do not belong together.
    fs::remove(folder + "/config.json", error);
    fs::remove(folder + "/model.safetensors.index.json", error);
  };
  write_weights(model, disk_layout(model, "transformer."), folder + "/model.safetensors", prepare);
  if (model.parallel().rank() != 0) return;
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
