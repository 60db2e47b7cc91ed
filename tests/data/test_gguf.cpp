// GGUF files: dequantisation as the authors' own library has it, and files that lie.
#include <gtest/gtest.h>

#include "core/base/random.h"
#include "data/gguf.h"
#include "tests/data/gguf_writer.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

const std::string kGolden = std::string(T2R_SOURCE_DIR) + "/tests/golden/gguf/types.gguf";

std::string floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

/// Two keys and two F32 tensors, of 2 x 3 and 4.
std::string small_file() {
  return gguf_file({gguf_key("general.name", 8, gguf_text("small")),
                    gguf_numbers<std::int32_t>("list", 5, {1, -2})},
                   {{"a", {3, 2}, 0, 0}, {"b", {4}, 0, 32}},
                   floats({1, 2, 3, 4, 5, 6, 0, 0, 7, 8, 9, 10}));
}

std::string error_with(const std::string& content) {
  TemporaryFolder folder;
  put(folder / "it.gguf", content);
  return error_of([&] { const GgufFile file(folder / "it.gguf"); });
}

TEST(Gguf, DequantisesAsGgmlDoes) {
  const GgufFile file(kGolden);
  for (const std::string type :
       {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "F16", "BF16"}) {
    const GgufTensor& tensor = file.tensor(type);
    EXPECT_EQ(tensor.type->name, type);
    ASSERT_EQ(tensor.shape, (std::vector<std::int64_t>{3, 512}));
    std::vector<float> got(3 * 512), expected(3 * 512), row(512);
    file.read_rows(type, 0, got);
    file.read_rows(type + ".expected", 0, expected);
    EXPECT_EQ(got, expected) << type;
    file.read_rows(type, 2, row);
    EXPECT_TRUE(std::equal(row.begin(), row.end(), expected.begin() + 1024)) << type;
  }
}

TEST(Gguf, ReadsMetadata) {
  const GgufFile file(kGolden);
  EXPECT_EQ(file.version(), 3u);
  EXPECT_EQ(file.text("general.architecture"), "llama");
  EXPECT_EQ(file.integer("test.uint32"), 7);
  EXPECT_EQ(file.integer("test.int64"), -8);
  EXPECT_EQ(file.real("test.float32"), 0.5);
  EXPECT_EQ(file.real("test.uint32"), 7.0);
  EXPECT_TRUE(file.truth("test.bool"));
  EXPECT_EQ(file.text("test.string"), "gr\xC3\xBCn");
  EXPECT_EQ(file.texts("test.strings"), (std::vector<std::string>{"a", "", "b c"}));
  EXPECT_EQ(file.numbers("test.integers"), (std::vector<std::int64_t>{1, -2, 3}));
  EXPECT_EQ(file.reals("test.floats"), (std::vector<double>{1.5, -2.0}));
  EXPECT_ERROR((void)file.text("none"), "has no none");
  EXPECT_ERROR((void)file.text("test.uint32"), "is not a text");
}

TEST(Gguf, ReadsWhatIsWritten) {
  TemporaryFolder folder;
  for (std::uint32_t version : {2u, 3u}) {
    std::string content = small_file();
    content[4] = static_cast<char>(version);
    put(folder / "it.gguf", content);
    const GgufFile file(folder / "it.gguf");
    EXPECT_EQ(file.text("general.name"), "small");
    EXPECT_EQ(file.tensor("a").shape, (std::vector<std::int64_t>{2, 3}));
    std::vector<float> row(3), all(4), half(2);
    file.read_rows("a", 1, row);
    EXPECT_EQ(row, (std::vector<float>{4, 5, 6}));
    file.read_rows("b", 0, all);
    EXPECT_EQ(all, (std::vector<float>{7, 8, 9, 10}));
    EXPECT_ERROR(file.read_rows("a", 2, row), "2 rows of 3");
    EXPECT_ERROR(file.read_rows("a", -1, row), "2 rows of 3");
    EXPECT_ERROR(file.read_rows("a", 0, half), "2 rows of 3");
    EXPECT_ERROR(file.read_rows("c", 0, row), "no tensor c");
  }
}

TEST(Gguf, EveryTruncationIsRefused) {
  const std::string whole = small_file();
  for (std::size_t bytes = 0; bytes < whole.size(); bytes += bytes % 3 + 1)
    EXPECT_FALSE(error_with(whole.substr(0, bytes)).empty()) << bytes;
}

TEST(Gguf, LiesAreNamed) {
  const auto says = [](const std::string& content, const std::string& part) {
    const std::string sentence = error_with(content);
    EXPECT_NE(sentence.find(part), std::string::npos) << sentence;
  };
  const std::string data(64, '\0');
  const auto tensors = [&](const std::vector<GgufTensorEntry>& entries, const std::string& part) {
    says(gguf_file({}, entries, data), part);
  };
  const auto key = [&](const std::string& bytes, const std::string& part) {
    says(gguf_file({bytes}, {}, data), part);
  };
  const std::uint64_t huge = std::uint64_t{1} << 62;
  says("GGML" + std::string(64, '\0'), "does not begin with GGUF");
  says(gguf_file({}, {}, data, 1), "version 1");
  says(gguf_file({}, {}, data, 0x03000000), "version 50331648");
  says("GGUF" + number_bytes(3) + number_bytes(huge) + number_bytes(huge) + data,
       "number of tensors says");
  says("GGUF" + number_bytes(3) + number_bytes<std::uint64_t>(0) + number_bytes(huge) + data,
       "number of metadata keys says");
  tensors({{"a", {4}, 0, 0}, {"a", {4}, 0, 32}}, "the tensor a twice");
  tensors({{"a", {4}, 99, 0}}, "the unknown type 99");
  tensors({{"a", {4}, 0, 8}}, "no multiple of 32");
  tensors({{"a", {4}, 0, 64}}, "does not lie inside");
  tensors({{"a", {4}, 0, huge}}, "does not lie inside");
  tensors({{"a", {17}, 0, 0}}, "does not lie inside");
  tensors({{"a", {12}, 0, 0}, {"b", {4}, 0, 32}}, "a and b overlap");
  tensors({{"a", {4}, 0, 0}, {"b", {4}, 0, 0}}, "a and b overlap");
  tensors({{"a", {huge, huge}, 0, 0}}, "a shape that no file can hold");
  tensors({{"a", {huge}, 0, 0}}, "does not fit");
  tensors({{"a", {0}, 0, 0}}, "a shape that no file can hold");
  tensors({{"a", {}, 0, 0}}, "0 dimensions");
  tensors({{"a", {1, 1, 1, 1, 1}, 0, 0}}, "5 dimensions");
  tensors({{"a", {33}, 2, 0}}, "no whole blocks of 32 of the type Q4_0");
  tensors({{std::string(65, 'a'), {4}, 0, 0}}, "65 bytes");
  key(gguf_key("k", 13, {}), "unknown type 13");
  key(gguf_key("k", 7, "\2"), "not true or false");
  key(gguf_key("k", 8, number_bytes(huge)), "ends inside the value of k");
  key(gguf_key("k", 8, gguf_text("\xFF")), "not valid UTF-8");
  key(gguf_key("k", 10, number_bytes(~std::uint64_t{0})), "too large");
  key(gguf_key("k", 9, number_bytes<std::uint32_t>(4) + number_bytes(huge)), "the value of k says");
  key(gguf_key("k", 9, number_bytes<std::uint32_t>(77) + number_bytes(huge)), "unknown type 77");
  key(gguf_key("k", 9, number_bytes<std::uint32_t>(9) + number_bytes(huge)), "a list of lists");
  says(gguf_file({gguf_key("k", 7, "\1"), gguf_key("k", 7, "\1")}, {}, data), "k twice");
  for (std::uint32_t alignment : {0u, 24u, 1u << 30})
    says(gguf_file({gguf_key("general.alignment", 4, number_bytes(alignment))}, {}, data),
         "no power of two");
  TemporaryFolder folder;
  put(folder / "it.gguf", gguf_file({}, {{"a", {256}, 10, 0}}, std::string(84, '\0')));
  std::vector<float> row(256);
  EXPECT_ERROR(GgufFile(folder / "it.gguf").read_rows("a", 0, row), "the type Q2_K, which cannot");
}

TEST(Gguf, OtherAlignments) {
  TemporaryFolder folder;
  put(folder / "it.gguf",
      gguf_file({gguf_key("general.alignment", 4, number_bytes<std::uint32_t>(8))},
                {{"a", {2}, 0, 0}, {"b", {1}, 0, 8}}, floats({1, 2, 3}), 3, 8));
  std::vector<float> b(1);
  GgufFile(folder / "it.gguf").read_rows("b", 0, b);
  EXPECT_EQ(b[0], 3);
}

TEST(Gguf, FlippedBytesNeverCrash) {
  const std::string whole = small_file();
  TemporaryFolder folder;
  for (std::uint64_t i = 0; i < 1000; ++i) {
    std::string damaged = whole;
    const auto bits = random_bits(3, 0, i);
    damaged[bits[0] % damaged.size()] = static_cast<char>(bits[1]);
    put(folder / "it.gguf", damaged);
    try {
      const GgufFile file(folder / "it.gguf");
      for (const auto& [name, tensor] : file.tensors()) {
        std::vector<float> all(static_cast<std::size_t>(tensor.rows * tensor.columns));
        file.read_rows(name, 0, all);
      }
    } catch (const Error&) {
    }
  }
}

}  // namespace
}  // namespace t2r
