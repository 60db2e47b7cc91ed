#include "data/tokenizer_config.h"

#include <filesystem>

#include "core/base/error.h"
#include "data/atomic_file.h"
#include "data/checked_json.h"

namespace t2r {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::int64_t kMaxConfigBytes = 1 << 26;

struct Mark {
  const char *token, *id;          // members of tokenizer_config.json and config.json
  std::vector<const char*> names;  // the first that is an added token
};

const Mark kBos{
    "bos_token", "bos_token_id", {"<s>", "<|begin_of_text|>", "<|startoftext|>", "<|endoftext|>"}};
const Mark kEos{"eos_token", "eos_token_id", {"</s>", "<|end_of_text|>", "<|endoftext|>"}};

std::int32_t find(const Mark& mark, const nlohmann::json& tokenizer_config,
                  const nlohmann::json& model_config, const ByteBpe& tokenizer,
                  const std::string& folder) {
  if (tokenizer_config.contains(mark.token)) {
    auto value = tokenizer_config[mark.token];
    if (value.is_null()) return -1;
    if (value.is_object() && value.contains("content")) value = value["content"];
    const std::int32_t id = value.is_string() ? tokenizer.added_id(value.get<std::string>()) : -1;
    check(id >= 0, "{}/{}: its {} is no added token of {}", folder, kTokenizerConfigFile,
          mark.token, kByteBpeFile);
    return id;
  }
  if (model_config.contains(mark.id)) {
    auto value = model_config[mark.id];
    if (value.is_array() && !value.empty()) value = value[0];
    if (value.is_null()) return -1;
    const double id = value.is_number_integer() ? value.get<double>() : -1;
    check(id >= 0 && id < static_cast<double>(tokenizer.vocab_size()),
          "{}/config.json: its {} is not an id of {}, which has {} tokens", folder, mark.id,
          kByteBpeFile, tokenizer.vocab_size());
    return static_cast<std::int32_t>(id);
  }
  for (const char* name : mark.names)
    if (const std::int32_t id = tokenizer.added_id(name); id >= 0) return id;
  return -1;
}

Json token_or_null(const ByteBpe& tokenizer, std::int32_t id) {
  return id < 0 ? Json() : Json(std::string(tokenizer.decode(id, true)));
}

}  // namespace

TextMarks find_text_marks(const std::string& path, const ByteBpe& tokenizer) {
  TextMarks marks;
  nlohmann::json tokenizer_config = nlohmann::json::object(), model_config = tokenizer_config;
  const fs::path folder = fs::path(path).parent_path();
  if (fs::path(path).filename() == kByteBpeFile) {
    const auto read = [&](const char* name, nlohmann::json& json) {
      const std::string file = (folder / name).string();
      if (!fs::exists(file)) return std::string{};
      std::string content = read_file(file, kMaxConfigBytes);
      json = parse_checked_json(content, file, 64);
      return content;
    };
    marks.config = read(kTokenizerConfigFile, tokenizer_config);
    read("config.json", model_config);
  }
  const std::string place = folder.empty() ? "." : folder.string();
  marks.bos = find(kBos, tokenizer_config, model_config, tokenizer, place);
  marks.eos = find(kEos, tokenizer_config, model_config, tokenizer, place);
  if (!tokenizer_config.contains(kBos.token) || !tokenizer_config.contains(kEos.token)) {
    Json config = marks.config.empty() ? Json{{"tokenizer_class", "PreTrainedTokenizerFast"}}
                                       : Json::parse(marks.config);
    config[kBos.token] = token_or_null(tokenizer, marks.bos);
    config[kEos.token] = token_or_null(tokenizer, marks.eos);
    marks.config = config.dump(2) + "\n";
  }
  return marks;
}

}  // namespace t2r
