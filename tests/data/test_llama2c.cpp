// llama2.c checkpoints and vocabularies: what is written is read, and files that lie are refused.
#include <gtest/gtest.h>

#include <numeric>

#include "core/base/random.h"
#include "data/llama2c.h"
#include "data/tokenizer.h"
#include "tests/data/gguf_writer.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

/// dim 4, hidden 6, 2 layers, 2 heads, 1 key head, 5 tokens, 3 positions; values 0, 1, 2, ...
std::string small_file(bool tied) {
  std::string out;
  for (std::int32_t field : {4, 6, 2, 2, 1, tied ? 5 : -5, 3}) out += number_bytes(field);
  const int floats = 5 * 4 + 8 + 32 + 16 + 16 + 32 + 8 + 48 + 48 + 48 + 4 + 6 + (tied ? 0 : 20);
  for (int i = 0; i < floats; ++i) out += number_bytes(static_cast<float>(i));
  return out;
}

std::string error_with(const std::string& content) {
  TemporaryFolder folder;
  put(folder / "it.bin", content);
  return error_of([&] { const Llama2cFile file(folder / "it.bin"); });
}

struct Entry {
  float score;
  std::string text;
};

std::string tokenizer_file(const std::vector<Entry>& entries) {
  std::string out = number_bytes<std::int32_t>(8);
  for (const auto& [score, text] : entries)
    out += number_bytes(score) + number_bytes(static_cast<std::int32_t>(text.size())) + text;
  return out;
}

std::vector<Entry> small_vocabulary() {
  std::vector<Entry> entries{{0, "<unk>"}, {0, "\n<s>\n"}, {0, "\n</s>\n"}};
  for (int byte = 0; byte < 256; ++byte) entries.push_back({0, fmt::format("<0x{:02X}>", byte)});
  for (const char* text : {" a", "bc", " abc", " ", "a", "b", "c"})
    entries.push_back({-static_cast<float>(entries.size() - 259), text});
  return entries;
}

TEST(Llama2c, ReadsWhatIsWritten) {
  for (const bool tied : {true, false}) {
    TemporaryFolder folder;
    put(folder / "it.bin", small_file(tied));
    const Llama2cFile file(folder / "it.bin");
    EXPECT_EQ(file.config().head_size(), 2);
    EXPECT_EQ(file.config().vocab_size, 5);
    EXPECT_EQ(file.config().tied, tied);
    EXPECT_EQ(file.has("wcls"), !tied);
    EXPECT_EQ(file.shape("wk"), (std::vector<std::int64_t>{2, 2, 4}));
    EXPECT_EQ(file.shape("w2"), (std::vector<std::int64_t>{2, 4, 6}));
    std::vector<float> two(2);
    file.read("wk", 14, two);
    EXPECT_EQ(two, (std::vector<float>{74, 75}));
    file.read("rms_final_weight", 2, two);
    EXPECT_EQ(two, (std::vector<float>{278, 279}));
    if (!tied) {
      file.read("wcls", 0, two);
      EXPECT_EQ(two, (std::vector<float>{286, 287}));
    }
    EXPECT_ERROR(file.read("wk", 15, two), "which has 16");
    EXPECT_ERROR(file.read("freq_cis", 0, two), "no tensor freq_cis");
  }
}

TEST(Llama2c, LiesAreNamed) {
  const std::string whole = small_file(true);
  for (std::size_t bytes = 0; bytes < whole.size(); bytes += 13)
    EXPECT_NE(error_with(whole.substr(0, bytes)).find("it.bin"), std::string::npos);
  const auto says = [](const std::string& content, const std::string& part) {
    EXPECT_NE(error_with(content).find(part), std::string::npos) << error_with(content);
  };
  const auto field = [&](std::size_t place, std::int32_t value, const std::string& part) {
    std::string content = whole;
    content.replace(4 * place, 4, number_bytes(value));
    says(content, part);
  };
  says(whole + '\0', "its header asks for");
  field(0, 0x616B3432, "version 6");
  field(0, 0, "its dim is 0");
  field(0, -4, "its dim is -4");
  field(0, 6, "dim 6 with 2 heads");
  field(1, 1 << 20, "ends before the end of w1");
  field(2, INT32_MAX, "number of layers");
  field(4, 3, "number of key heads");
  field(5, INT32_MIN, "vocab_size is 2147483648");
  field(6, 4, "its header asks for");
}

TEST(Llama2c, TokenizerBecomesASentencePieceModel) {
  TemporaryFolder folder;
  put(folder / "tokenizer.bin", tokenizer_file(small_vocabulary()));
  const auto entries = read_llama2c_tokenizer(folder / "tokenizer.bin", 266);
  EXPECT_EQ(entries[1].piece, "<s>");
  EXPECT_EQ(entries[259].piece,
            "\xE2\x96\x81"
            "a");
  put(folder / "tokenizer.model", sentencepiece_model(entries, {.bos = 1, .eos = 2}, "it"));
  const Tokenizer tokenizer = Tokenizer::load(folder / "tokenizer.model");
  EXPECT_EQ(tokenizer.vocab_size(), 266);
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.eos(), 2);
  // " a" first, then "bc", then both; what has no token becomes bytes.
  EXPECT_EQ(tokenizer.encode("abc"), (std::vector<std::int32_t>{261}));
  EXPECT_EQ(tokenizer.encode("ab\n"), (std::vector<std::int32_t>{259, 264, 3 + 10}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("ab z\n")), "ab z\n");
}

TEST(Llama2c, DamagedTokenizersAreRefused) {
  TemporaryFolder folder;
  const auto says = [&](const std::string& content, std::int64_t count, const std::string& part) {
    put(folder / "tokenizer.bin", content);
    EXPECT_ERROR((void)read_llama2c_tokenizer(folder / "tokenizer.bin", count), part);
  };
  const std::string whole = tokenizer_file(small_vocabulary());
  for (std::size_t bytes = 0; bytes < whole.size(); bytes += 101)
    says(whole.substr(0, bytes), 266, "cut off");
  says(whole, 265, "bytes after its 265 tokens");
  says(number_bytes<std::int32_t>(0), 1, "longest token has 0 bytes");
  says(number_bytes<std::int32_t>(8) + number_bytes(0.0f) + number_bytes<std::int32_t>(-1), 1,
       "has -1 bytes");
  says(tokenizer_file({{NAN, "a"}}), 1, "the score nan");
  says(tokenizer_file({{0, "\xFF"}}), 1, "not valid UTF-8");
  auto entries = small_vocabulary();
  entries.push_back(entries.back());
  put(folder / "tokenizer.bin", tokenizer_file(entries));
  const auto pieces = read_llama2c_tokenizer(folder / "tokenizer.bin", 267);
  EXPECT_ERROR((void)sentencepiece_model(pieces, {}, "it"), "'c' is listed twice");
}

}  // namespace
}  // namespace t2r
