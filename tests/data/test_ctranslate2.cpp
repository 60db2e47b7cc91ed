// CTranslate2's weight files: what is written is read, and files that lie end with one sentence.
#include <gtest/gtest.h>

#include "core/base/random.h"
#include "data/ctranslate2.h"
#include "tests/data/ctranslate2_writer.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

const std::vector<CTranslate2Variable> kVariables{
    {"b/weight", {2, 3}, {1, 2, 3, 4, 5, 6}}, {"a", {}, {7}}, {"empty", {0, 5}, {}}};

/// What reading a file of these bytes says.
std::string error_with(const std::string& content) {
  TemporaryFolder folder;
  put(folder / "model.bin", content);
  return error_of([&] { const CTranslate2File file(folder / "model.bin"); });
}

TEST(CTranslate2, ReadsWhatIsWritten) {
  TemporaryFolder folder;
  put(folder / "model.bin", ctranslate2_file("TransformerBase", kVariables));
  const CTranslate2File file(folder / "model.bin");
  EXPECT_EQ(file.specification(), "TransformerBase");
  EXPECT_EQ(file.revision(), 2);
  EXPECT_EQ(file.names(), (std::vector<std::string>{"a", "b/weight", "empty"}));
  EXPECT_EQ(file.shape("b/weight"), (std::vector<std::int64_t>{2, 3}));
  EXPECT_EQ(file.values("b/weight"), kVariables[0].values);
  EXPECT_EQ(file.values("a"), kVariables[1].values);
  EXPECT_TRUE(file.values("empty").empty());
  EXPECT_NE(error_of([&] { (void)file.values("c"); }).find("no variable c"), std::string::npos);
}

TEST(CTranslate2, EveryTruncationIsRefused) {
  const std::string whole = ctranslate2_file("TransformerBase", kVariables);
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes)
    EXPECT_NE(error_with(whole.substr(0, bytes)).find("cut off"), std::string::npos) << bytes;
  EXPECT_NE(error_with(whole + '\0').find("1 bytes after"), std::string::npos);
}

TEST(CTranslate2, LiesAreNamed) {
  const auto says = [](const std::string& content, const std::string& sentence) {
    EXPECT_NE(error_with(content).find(sentence), std::string::npos) << error_with(content);
  };
  std::string other_version = ctranslate2_file("TransformerBase", kVariables);
  other_version[0] = 6;
  says(other_version, "begins with 6");
  says(ctranslate2_file("T", {kVariables[0], kVariables[0]}), "b/weight twice");
  says(ctranslate2_file("T", {{"w", {2, 3}, {1, 2}}}), "2 values, but its shape asks for 6");
  const std::uint32_t most = 0xFFFFFFFF;
  says(ctranslate2_file("T", {{"w", {most, most, most}, {}}}), "too large for any file");
  says(ctranslate2_file("T", {{"w", std::vector<std::uint32_t>(9, 1), {1}}}), "9 dimensions");
  std::string half = ctranslate2_header("T", 1);
  append_text(half, "w");
  for (int byte : {1, 1, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0}) half += static_cast<char>(byte);
  says(half, "values of 2 bytes");
  std::string unnamed = ctranslate2_header("T", 1);
  append_number(unnamed, std::uint16_t{0});
  says(unnamed, "not a text");
  says(ctranslate2_header("T", most), "cut off");
}

TEST(CTranslate2, FlippedBytesNeverCrash) {
  const std::string whole = ctranslate2_file("TransformerBase", kVariables);
  TemporaryFolder folder;
  for (std::uint64_t i = 0; i < 2000; ++i) {
    std::string damaged = whole;
    const auto bits = random_bits(3, 0, i);
    damaged[bits[0] % damaged.size()] = static_cast<char>(bits[1]);
    put(folder / "model.bin", damaged);
    try {
      const CTranslate2File file(folder / "model.bin");
      for (const std::string& name : file.names()) (void)file.values(name);
    } catch (const Error&) {
    }
  }
}

}  // namespace
}  // namespace t2r
