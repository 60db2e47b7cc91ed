#include "core/train/export_hugging_face.h"

#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/base/error.h"
#include "core/train/config_json.h"
#include "core/train/model_folder.h"
#include "data/atomic_file.h"
#include "data/tokenizer.h"
#include "data/tokenizer_json.h"

namespace t2r {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kTokenizerFiles[] = {
    "tokenizer.model",         "bytes.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "vocab.json", "merges.txt",     "added_tokens.json"};

/// Of an export: nothing else is ever written into a folder that holds something.
void make_empty_folder(const std::string& folder) {
  std::error_code error;
  check_usage(!fs::exists(folder, error) ||
                  (fs::is_directory(folder, error) && fs::is_empty(folder, error)),
              "{} exists already and is no empty folder: name another one with --out", folder);
  make_folders(folder);
}

void copy_tokenizer_files(const fs::path& from, const fs::path& to) {
  std::error_code error;
  for (const char* name : kTokenizerFiles)
    if (fs::is_regular_file(from / name, error))
      write_file_atomically((to / name).string(), read_file((from / name).string()));
}

/// Whether AutoTokenizer will load what was written.
bool export_tokenizer(const Tokenizer& tokenizer, const fs::path& from, const fs::path& to) {
  copy_tokenizer_files(from, to);
  if (tokenizer.file_name() == "tokenizer.json") {
    tokenizer.save(to.string());  // with a tokenizer_config.json that says bos and eos
    return true;
  }
  if (fs::exists(to / "tokenizer.json")) return true;
  const std::optional<TokenizerJson> files =
      tokenizer_json((from / tokenizer.file_name()).string());
  if (!files) return false;
  write_file_atomically((to / "tokenizer.json").string(), files->tokenizer);
  write_file_atomically((to / "tokenizer_config.json").string(), files->config);
  return true;
}

void write_generation_config(const std::optional<Tokenizer>& tokenizer, const fs::path& from,
                             const fs::path& to) {
  const char* name = "generation_config.json";
  std::error_code error;
  if (fs::is_regular_file(from / name, error)) {
    write_file_atomically((to / name).string(), read_file((from / name).string()));
    return;
  }
  json config = {{"do_sample", false}};
  if (tokenizer && tokenizer->bos() >= 0) config["bos_token_id"] = tokenizer->bos();
  if (tokenizer && tokenizer->eos() >= 0) {
    config["eos_token_id"] = tokenizer->eos();
    config["pad_token_id"] = tokenizer->eos();
  }
  write_file_atomically((to / name).string(), config.dump(2) + "\n");
}

bool holds_tokenizer(const fs::path& folder) {
  std::error_code error;
  for (const char* name : {"tokenizer.model", "bytes.json", "tokenizer.json"})
    if (fs::exists(folder / name, error)) return true;
  return false;
}

}  // namespace

ExportResult export_hugging_face(const Transformer& model, const std::string& base,
                                 const std::string& folder, std::int64_t shard_bytes,
                                 std::string_view code) {
  const ModelConfig& config = model.config();
  check_usage(!config.encoder_decoder(),
              "{} is a translation model: only language models can be exported", base);
  const bool genuine = config.linear_layers.empty() && disk_family(config) != DiskFamily::own;
  std::optional<Tokenizer> tokenizer;
  if (holds_tokenizer(base)) tokenizer = Tokenizer::load(base);
  make_empty_folder(folder);
  save_weights(model, folder, genuine ? TensorNames::family : TensorNames::own, shard_bytes);
  ExportResult result;
  result.fast_tokenizer = tokenizer && export_tokenizer(*tokenizer, base, folder);
  write_generation_config(tokenizer, base, folder);
  json written = genuine ? config_to_json(config) : exported_config_json(config);
  written["torch_dtype"] = torch_name(model.params().dtype());
  if (tokenizer && tokenizer->bos() >= 0) written["bos_token_id"] = tokenizer->bos();
  if (tokenizer && tokenizer->eos() >= 0) written["eos_token_id"] = tokenizer->eos();
  if (!genuine) write_file_atomically(folder + "/modeling_t2r.py", code);
  write_file_atomically(folder + "/config.json", written.dump(2) + "\n");
  result.model_type = written["model_type"].get<std::string>();
  return result;
}

}  // namespace t2r
