// Byte-level BPE: the same ids as Hugging Face's library, exact round trips, and one sentence for
// every fault of a tokenizer.json.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "core/base/random.h"
#include "data/byte_bpe.h"
#include "data/dataset.h"
#include "data/prepare.h"
#include "data/sha256.h"
#include "data/tokenizer.h"
#include "tests/data/random_text.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

using Json = nlohmann::json;
using Ids = std::vector<std::int32_t>;

const std::string kGolden = std::string(T2R_SOURCE_DIR) + "/tests/golden/tokenizers/";
const std::vector<std::string> kKinds{"gpt2", "smollm2", "qwen2", "llama3", "prefix"};

/// The golden tokenizer after `change(json)`, or what loading it says.
template <class F>
std::string error_after(F&& change, const std::string& kind = "gpt2") {
  Json json = Json::parse(get(kGolden + kind + ".json"));
  change(json);
  return error_of([&] { (void)parse_byte_bpe(json.dump(), "it"); });
}

TEST(ByteBpe, SameIdsAsHuggingFace) {
  const Json cases = Json::parse(get(kGolden + "cases.json"));
  for (const std::string& kind : kKinds) {
    const ByteBpe bpe(parse_byte_bpe(get(kGolden + kind + ".json"), kind), kind);
    for (std::size_t i = 0; i < cases["texts"].size(); ++i) {
      const auto text = cases["texts"][i].get<std::string>();
      Ids ids;
      bpe.encode_to(text, ids);
      EXPECT_EQ(ids, cases[kind]["ids"][i].get<Ids>()) << kind << ": " << text;
      std::string decoded;
      for (std::int32_t id : ids) decoded += bpe.decode(id);
      // An added token with a letter that stands for a byte: Hugging Face decodes it as that byte.
      if (text.find("<\xC3\xA9>") == std::string::npos) {
        EXPECT_EQ(decoded, cases[kind]["decoded"][i].get<std::string>()) << kind << ": " << text;
      }
    }
  }
}

TEST(ByteBpe, RoundTripIsExact) {
  std::string all;
  for (std::uint32_t c = 0; c < 0x110000; c += c < 0x3000 ? 1 : 97)
    if (c < 0xD800 || c > 0xDFFF) append_utf8(all, c);
  for (const std::string kind : {"gpt2", "smollm2", "llama3"}) {
    const Tokenizer tokenizer = Tokenizer::load(kGolden + kind + ".json");
    for (const std::string& text : {all, random_text(8, 3000), std::string(100000, 'x'),
                                    std::string(10000, ' '), std::string("\0\r\n", 3)})
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << kind;
    for (std::uint64_t i = 0; i < 300; ++i) {
      std::string text;
      for (std::uint64_t k = 0; k < 20; ++k) {
        const auto bits = random_bits(5, i, k);
        const std::uint32_t c = bits[0] >> (bits[1] % 4 * 8 + 11);
        if (c < 0x110000 && (c < 0xD800 || c > 0xDFFF)) append_utf8(text, c);
      }
      EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << kind;
    }
  }
}

TEST(ByteBpe, InvalidUtf8IsRefused) {
  const Tokenizer tokenizer = Tokenizer::load(kGolden + "gpt2.json");
  EXPECT_ERROR(tokenizer.encode("ab\xFF"), "byte offset 2");
  EXPECT_ERROR(tokenizer.decode(Ids{100000}), "outside the vocabulary");
}

TEST(ByteBpe, ThreadsGetTheSameIds) {
  const Tokenizer tokenizer = Tokenizer::load(kGolden + "qwen2.json");
  const std::string text = random_text(10, 500);
  const auto expected = tokenizer.encode(text);
  std::vector<Ids> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results)
    threads.emplace_back([&] {
      for (int i = 0; i < 5; ++i) result = tokenizer.encode(text);
    });
  for (auto& thread : threads) thread.join();
  for (const auto& result : results) EXPECT_EQ(result, expected);
}

TEST(ByteBpe, UnknownBytesAreLeftOutOrNamed) {
  Json json = Json::parse(get(kGolden + "gpt2.json"));
  json["model"]["vocab"].erase("\xC4\x80");  // the character that stands for byte 0
  const auto encoded = [&] {
    Ids ids;
    ByteBpe(parse_byte_bpe(json.dump(), "it"), "it").encode_to(std::string("\0\0a", 3), ids);
    return ids;
  };
  const std::int32_t a = json["model"]["vocab"]["a"];
  EXPECT_EQ(encoded(), (Ids{a}));
  json["model"]["unk_token"] = "<|endoftext|>";
  EXPECT_EQ(encoded(), (Ids{0, 0, a}));
  json["model"]["fuse_unk"] = true;
  EXPECT_EQ(encoded(), (Ids{0, a}));
}

TEST(ByteBpe, FolderSaysBosAndEos) {
  TemporaryFolder folder;
  put(folder / "tokenizer.json", get(kGolden + "smollm2.json"));
  Tokenizer tokenizer = Tokenizer::load(folder.path());
  EXPECT_EQ(tokenizer.bos(), 0);  // by name
  EXPECT_EQ(tokenizer.eos(), 0);
  const auto id_of = [&](const char* token) { return tokenizer.encode(token).at(0); };
  const std::int32_t start = id_of("<|im_start|>"), end = id_of("<|im_end|>");
  put(folder / "config.json",
      fmt::format(R"({{"bos_token_id": {}, "eos_token_id": [{}, 0]}})", start, end));
  tokenizer = Tokenizer::load(folder.path());
  EXPECT_EQ(tokenizer.bos(), start);
  EXPECT_EQ(tokenizer.eos(), end);
  put(folder / "tokenizer_config.json",
      R"({"bos_token": null, "eos_token": {"content": "<|im_start|>"}, "other": 1})");
  tokenizer = Tokenizer::load(folder.path());
  EXPECT_EQ(tokenizer.bos(), -1);
  EXPECT_EQ(tokenizer.eos(), start);

  TemporaryFolder copy;
  tokenizer.save(copy.path());
  EXPECT_EQ(get(copy / "tokenizer.json"), get(folder / "tokenizer.json"));
  EXPECT_EQ(get(copy / "tokenizer_config.json"), get(folder / "tokenizer_config.json"));
  EXPECT_EQ(sha256_hex(get(copy / "tokenizer.json")), tokenizer.sha256());
  std::filesystem::remove(folder / "tokenizer_config.json");
  TemporaryFolder made;
  Tokenizer::load(folder.path()).save(made.path());
  const Tokenizer again = Tokenizer::load(made.path());
  EXPECT_EQ(again.bos(), start);
  EXPECT_EQ(again.eos(), end);

  put(folder / "tokenizer_config.json", R"({"bos_token": "<none>"})");
  EXPECT_ERROR(Tokenizer::load(folder.path()), "bos_token is no added token");
  put(folder / "tokenizer_config.json", R"({"bos_token": )");
  EXPECT_ERROR(Tokenizer::load(folder.path()), "tokenizer_config.json is not valid JSON");
  std::filesystem::remove(folder / "tokenizer_config.json");
  put(folder / "config.json", R"({"eos_token_id": 99999})");
  EXPECT_ERROR(Tokenizer::load(folder.path()), "eos_token_id is not an id");
}

TEST(ByteBpe, DatasetIsPreparedWithIt) {
  TemporaryFolder folder;
  put(folder / "text", random_text(3, 2000));
  PrepareOptions options;
  options.train = {folder / "text"};
  options.out = folder / "dataset";
  options.tokenizer = kGolden + "llama3.json";
  const DatasetInfo info = prepare_dataset(options);
  EXPECT_EQ(info.tokenizer_file, "tokenizer.json");
  const Dataset dataset = Dataset::open(options.out);
  EXPECT_EQ(dataset.tokenizer().eos(), 0);
  EXPECT_EQ(get(folder / "dataset/tokenizer.json"), get(kGolden + "llama3.json"));
}

TEST(ByteBpe, WhatIsNotSupportedIsNamed) {
  const auto says = [](const std::string& sentence, const std::string& part) {
    EXPECT_NE(sentence.find(part), std::string::npos) << sentence;
    EXPECT_EQ(sentence.find("it"), 0u) << sentence;
  };
  says(error_after([](Json& j) { j["model"]["type"] = "WordPiece"; }), "type WordPiece");
  says(error_after([](Json& j) { j["pre_tokenizer"] = {{"type", "Metaspace"}}; }), "Metaspace");
  says(error_after([](Json& j) { j["pre_tokenizer"] = nullptr; }), "no pre_tokenizer");
  says(error_after([](Json& j) { j["pre_tokenizer"] = {{"type", "Digits"}}; }), "not byte-level");
  says(error_after([](Json& j) { j["normalizer"] = {{"type", "Lowercase"}}; }), "Lowercase");
  says(error_after([](Json& j) { j["model"]["byte_fallback"] = true; }), "byte_fallback");
  says(error_after([](Json& j) { j["model"]["dropout"] = 0.1; }), "dropout of 0.1");
  says(error_after([](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; }), "</w>");
  const auto pattern = [&](const std::string& regex, const std::string& part) {
    const auto change = [&](Json& j) {
      j["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = regex;
    };
    says(error_after(change, "qwen2"), part);
  };
  pattern("(", "no regular expression");
  pattern("[a[bc]]", "a set inside a set");
  pattern("[a-z&&b]", "an intersection");
  pattern("\\h+", "\\h");
  pattern("(?m:.)", "flags other than i");
  pattern("\\", "a backslash at its end");
  pattern("", "0 bytes");
  const auto behavior = [](Json& j) {
    j["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "MergedWithNext";
  };
  says(error_after(behavior, "qwen2"), "MergedWithNext");
}

TEST(ByteBpe, ExpressionsThatTakeForeverAreRefused) {
  Json json = Json::parse(get(kGolden + "qwen2.json"));
  json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(x+x+)+[yz]";
  const ByteBpe bpe(parse_byte_bpe(json.dump(), "it"), "it");
  std::vector<std::int32_t> ids;
  EXPECT_ERROR(bpe.encode_to(std::string(5000, 'x'), ids), "takes too long");
}

TEST(ByteBpe, LiesAreNamed) {
  const auto says = [](auto&& change, const std::string& part) {
    const std::string sentence = error_after(change);
    EXPECT_NE(sentence.find(part), std::string::npos) << sentence;
  };
  says([](Json& j) { j["model"].erase("vocab"); }, "no vocab");
  says([](Json& j) { j["model"]["vocab"]["a"] = -1; }, "the id of 'a' is -1");
  says([](Json& j) { j["model"]["vocab"]["a"] = 1.5; }, "the id of 'a' is 1.5");
  says([](Json& j) { j["model"]["vocab"]["a"] = 1e30; }, "the id of 'a'");
  says([](Json& j) { j["model"]["vocab"]["a"] = 18446744073709551615u; }, "the id of 'a'");
  says([](Json& j) { j["model"]["vocab"]["a"] = 4000000; }, "an id is 4000000");
  says([](Json& j) { j["model"]["vocab"]["a"] = j["model"]["vocab"]["b"]; }, "two tokens have");
  says([](Json& j) { j["model"]["vocab"][""] = 4000; }, "0 bytes");
  says([](Json& j) { j["model"]["merges"][0] = "abc"; }, "not two tokens");
  says([](Json& j) { j["model"]["merges"][0] = "a b c"; }, "not two tokens");
  says([](Json& j) { j["model"]["merges"][0] = Json::array({"a"}); }, "not two tokens");
  says([](Json& j) { j["model"]["merges"][0] = "z\xC3\x83 a"; }, "not in the vocabulary");
  says([](Json& j) { j["model"]["merges"] = "a b"; }, "no merges");
  says([](Json& j) { j["model"]["unk_token"] = "?!?"; }, "unk_token");
  says([](Json& j) { j["added_tokens"][0]["id"] = 5; }, "the vocabulary says otherwise");
  says([](Json& j) { j["added_tokens"][1]["id"] = 5; }, "the vocabulary says otherwise");
  says([](Json& j) { j["added_tokens"][0].erase("content"); }, "no content");
  says([](Json& j) { j["added_tokens"][0]["lstrip"] = "yes"; }, "not true or false");
  says([](Json& j) { j["added_tokens"].push_back(j["added_tokens"][0]); }, "listed twice");
  says([](Json& j) { j["added_tokens"] = 3; }, "no list");
  const std::string whole = get(kGolden + "gpt2.json");
  for (std::size_t bytes = 0; bytes + 2 < whole.size(); bytes += 97)
    EXPECT_ERROR((void)parse_byte_bpe(whole.substr(0, bytes), "it"), "not valid JSON");
  EXPECT_ERROR((void)parse_byte_bpe(R"({"model": {"type": "BPE", "type": "BPE"}})", "it"), "twice");
  EXPECT_ERROR((void)parse_byte_bpe("{\"a\":" + std::string(100000, '['), "it"), "deeper");
}

}  // namespace
}  // namespace t2r
