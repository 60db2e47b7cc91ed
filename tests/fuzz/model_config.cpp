// A config.json, a NUL byte and a tokenizer_config.json, both of Hugging Face: read as those of a
// model and as those beside a tokenizer.json. What loads as a model is written and read again.
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/train/config_json.h"
#include "data/tokenizer_config.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace t2r;

constexpr const char* kTokenizer =
    R"({"added_tokens":[{"id":2,"content":"<s>","special":true},{"id":3,"content":"</s>",
"special":true}],"pre_tokenizer":{"type":"ByteLevel"},"model":{"vocab":{"a":0,"b":1},"merges":[]}})";

/// Of this process; in memory where the system has a place for that.
class Folder {
 public:
  Folder()
      : path_(std::filesystem::exists("/dev/shm") ? "/dev/shm/t2r-fuzz-XXXXXX"
                                                  : "/tmp/t2r-fuzz-XXXXXX") {
    check(::mkdtemp(path_.data()) != nullptr, "cannot make a folder");
  }
  ~Folder() { std::filesystem::remove_all(path_); }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  std::string put(const char* name, std::string_view content) const {
    const std::string file = path_ + "/" + name;
    std::ofstream(file, std::ios::binary) << content;
    return file;
  }

 private:
  std::string path_;
};

void read_model(std::string_view text) {
  ModelConfig config;
  try {
    config = config_from_json(nlohmann::json::parse(text, nullptr, false), "it");
  } catch (const Error&) {
    return;
  }
  // What was accepted can be written and is the same then: an error here ends the program.
  const auto written = canonical_config_json(config);
  if (canonical_config_json(config_from_json(written, "what was written")) != written)
    __builtin_trap();
}

void read_marks(std::string_view config, std::string_view tokenizer_config) {
  static const Folder folder;
  static const std::string path = folder.put("tokenizer.json", kTokenizer);
  static const ByteBpe tokenizer(parse_byte_bpe(kTokenizer, "it"), "it");
  folder.put("config.json", config);
  folder.put("tokenizer_config.json", tokenizer_config);
  try {
    const TextMarks marks = find_text_marks(path, tokenizer);
    if (marks.bos >= tokenizer.vocab_size() || marks.eos >= tokenizer.vocab_size())
      __builtin_trap();
  } catch (const Error&) {
  }
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text = fuzz_text(data, size);
  const std::size_t end = std::min(text.find('\0'), text.size());
  read_model(text.substr(0, end));
  read_marks(text.substr(0, end), text.substr(std::min(end + 1, size)));
  return 0;
}
