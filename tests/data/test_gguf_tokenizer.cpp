// Vocabularies in GGUF files become the tokenizers that they were made of.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "data/gguf_tokenizer.h"
#include "data/tokenizer.h"
#include "tests/data/gguf_writer.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

using Json = nlohmann::json;

/// Keys tokenizer.ggml.* as convert_hf_to_gguf.py of llama.cpp makes them of a tokenizer.json.
std::vector<std::string> keys_of(const Json& json, const std::string& pre) {
  std::vector<std::string> tokens, merges;
  std::vector<std::int32_t> types;
  const auto put_token = [&](std::size_t id, const std::string& token, std::int32_t type) {
    tokens.resize(std::max(tokens.size(), id + 1));
    types.resize(tokens.size());
    tokens[id] = token;
    types[id] = type;
  };
  for (const auto& [token, id] : json["model"]["vocab"].items()) put_token(id, token, 1);
  for (const Json& token : json["added_tokens"])
    put_token(token["id"], token["content"], token["special"] ? 3 : 4);
  for (const Json& merge : json["model"]["merges"])
    merges.push_back(merge.is_string()
                         ? merge.get<std::string>()
                         : merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  return {gguf_key("tokenizer.ggml.model", 8, gguf_text("gpt2")),
          gguf_key("tokenizer.ggml.pre", 8, gguf_text(pre)),
          gguf_texts("tokenizer.ggml.tokens", tokens),
          gguf_texts("tokenizer.ggml.merges", merges),
          gguf_numbers("tokenizer.ggml.token_type", 5, types),
          gguf_key("tokenizer.ggml.bos_token_id", 4, number_bytes<std::uint32_t>(0))};
}

std::string error_with(const std::vector<std::string>& keys) {
  TemporaryFolder folder;
  put(folder / "it.gguf", gguf_file(keys, {}, {}));
  return error_of([&] {
    const GgufFile file(folder / "it.gguf");
    (void)tokenizer_files(gguf_vocabulary(file), file.path());
  });
}

TEST(GgufTokenizer, ByteBpeComesBack) {
  const std::string golden = std::string(T2R_SOURCE_DIR) + "/tests/golden/tokenizers/";
  const Json cases = Json::parse(get(golden + "cases.json"));
  const std::vector<std::pair<std::string, std::string>> kinds{
      {"gpt2", "gpt-2"}, {"smollm2", "smollm"}, {"qwen2", "qwen2"}, {"llama3", "llama-bpe"}};
  for (const auto& [kind, pre] : kinds) {
    TemporaryFolder folder;
    put(folder / "it.gguf",
        gguf_file(keys_of(Json::parse(get(golden + kind + ".json")), pre), {}, {}));
    const GgufFile file(folder / "it.gguf");
    const TokenizerFiles files = tokenizer_files(gguf_vocabulary(file), file.path());
    put(folder / files.name, files.content);
    put(folder / "tokenizer_config.json", files.config);
    const Tokenizer tokenizer = Tokenizer::load(folder.path());
    EXPECT_EQ(tokenizer.bos(), 0);
    EXPECT_EQ(tokenizer.eos(), -1);
    for (std::size_t i = 0; i < cases["texts"].size(); ++i) {
      const auto text = cases["texts"][i].get<std::string>();
      // GGUF does not keep how added tokens are found.
      if (text.find("<mask>") != text.npos || text.find("<word>") != text.npos ||
          text.find("<e\xCC\x81>") != text.npos)
        continue;
      EXPECT_EQ(tokenizer.encode(text), cases[kind]["ids"][i].get<std::vector<std::int32_t>>())
          << kind << ": " << text;
    }
  }
}

TEST(GgufTokenizer, SentencePieceComesBack) {
  std::vector<std::string> tokens{"<unk>", "<s>", "</s>"};
  std::vector<std::int32_t> types{2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(fmt::format("<0x{:02X}>", byte));
    types.push_back(6);
  }
  for (const char* text : {"\xE2\x96\x81", "a", "b", "ab"}) {
    tokens.push_back(text);
    types.push_back(1);
  }
  const std::vector<float> scores(tokens.size(), 0.0f);
  TemporaryFolder folder;
  put(folder / "it.gguf",
      gguf_file({gguf_key("tokenizer.ggml.model", 8, gguf_text("llama")),
                 gguf_texts("tokenizer.ggml.tokens", tokens),
                 gguf_numbers("tokenizer.ggml.scores", 6, scores),
                 gguf_numbers("tokenizer.ggml.token_type", 5, types),
                 gguf_key("tokenizer.ggml.eos_token_id", 4, number_bytes<std::uint32_t>(2))},
                {}, {}));
  const GgufFile file(folder / "it.gguf");
  const TokenizerFiles files = tokenizer_files(gguf_vocabulary(file), file.path());
  EXPECT_EQ(files.name, "tokenizer.model");
  put(folder / files.name, files.content);
  const Tokenizer tokenizer = Tokenizer::load(folder.path());
  EXPECT_EQ(tokenizer.eos(), 2);
  EXPECT_EQ(tokenizer.encode("ab\xC3\xA9"),
            (std::vector<std::int32_t>{259, 262, 3 + 0xC3, 3 + 0xA9}));
}

TEST(GgufTokenizer, LiesAreNamed) {
  const auto says = [](const std::vector<std::string>& keys, const std::string& part) {
    const std::string sentence = error_with(keys);
    EXPECT_NE(sentence.find(part), std::string::npos) << sentence;
  };
  const auto model = gguf_key("tokenizer.ggml.model", 8, gguf_text("gpt2"));
  const auto tokens = gguf_texts("tokenizer.ggml.tokens", {"a", "b"});
  says({}, "no tokenizer.ggml.model");
  says({model}, "no tokenizer.ggml.tokens");
  says({gguf_key("tokenizer.ggml.model", 8, gguf_text("bert")), tokens}, "kind 'bert'");
  says({model, tokens, gguf_key("tokenizer.ggml.pre", 8, gguf_text("tekken"))}, "'tekken'");
  says({model, tokens, gguf_numbers<std::int32_t>("tokenizer.ggml.token_type", 5, {1})},
       "2 tokens, but 1 kinds");
  says({model, tokens, gguf_numbers<std::int32_t>("tokenizer.ggml.token_type", 5, {1, 9})},
       "unknown kind 9");
  says({model, tokens, gguf_numbers<float>("tokenizer.ggml.scores", 6, {1})}, "1 scores");
  says({model, tokens, gguf_key("tokenizer.ggml.eos_token_id", 4, number_bytes<std::uint32_t>(2))},
       "eos_token_id is 2");
  says({model, gguf_texts("tokenizer.ggml.tokens", {"a", "a"}),
        gguf_key("tokenizer.ggml.pre", 8, gguf_text("gpt-2"))},
       "'a' is listed twice");
  says({gguf_key("tokenizer.ggml.model", 8, gguf_text("llama")), tokens}, "no scores");
}

}  // namespace
}  // namespace t2r
