// Weight files: round trips, conversions, and files that lie.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/base/random.h"
#include "data/safetensors.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

template <class T>
std::vector<T> random_values(std::uint64_t seed, int count) {
  std::vector<T> values;
  for (int i = 0; i < count; ++i)
    values.push_back(
        static_cast<T>(static_cast<float>(random_normal(seed, 0, static_cast<std::uint64_t>(i)))));
  return values;
}

/// A file with this header text and `data_bytes` bytes of data.
std::string file_with(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string file(8, '\0');
  std::memcpy(file.data(), &length, 8);
  return file + header + std::string(data_bytes, '\1');
}

TEST(Safetensors, RoundTripInEveryType) {
  TemporaryFolder folder;
  const auto floats = random_values<float>(1, 3 * 5 * 7);
  const auto doubles = random_values<double>(2, 11);
  const auto halves = random_values<bf16>(3, 13);
  const std::vector<SafetensorsEntry> entries{{"model.b", DType::bf16, {13}, halves.data()},
                                              {"model.w", DType::f32, {3, 5, 7}, floats.data()},
                                              {"model.d", DType::f64, {11, 1}, doubles.data()},
                                              {"scalar", DType::f32, {}, floats.data()},
                                              {"empty", DType::f32, {0, 4}, nullptr}};
  write_safetensors(folder / "model.safetensors", entries);
  write_safetensors(folder / "again.safetensors", entries);
  EXPECT_EQ(get(folder / "model.safetensors"), get(folder / "again.safetensors"));

  const SafetensorsFile file(folder / "model.safetensors");
  EXPECT_EQ(file.tensors().size(), 5u);
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.info("model.w").shape, (std::vector<std::int64_t>{3, 5, 7}));
  EXPECT_EQ(file.info("model.b").dtype, "BF16");
  EXPECT_EQ(file.info("empty").elements, 0);
  std::vector<float> as_float(floats.size());
  file.read("model.w", 0, std::span(as_float));
  EXPECT_EQ(as_float, floats);
  std::vector<double> as_double(11);
  file.read("model.d", 0, std::span(as_double));
  EXPECT_EQ(as_double, doubles);
  std::vector<bf16> part(5);
  file.read("model.b", 8, std::span(part));
  for (int i = 0; i < 5; ++i) EXPECT_EQ(part[i].bits, halves[8 + i].bits);
  std::vector<bf16> rounded(floats.size());
  file.read("model.w", 0, std::span(rounded));
  for (std::size_t i = 0; i < floats.size(); ++i) EXPECT_EQ(rounded[i].bits, bf16(floats[i]).bits);
  std::vector<double> widened(13);
  file.read("model.b", 0, std::span(widened));
  for (int i = 0; i < 13; ++i) EXPECT_EQ(widened[i], static_cast<float>(halves[i]));
  EXPECT_ERROR(file.read("model.b", 9, std::span(part)), "elements [9, 14)");
  EXPECT_ERROR(file.read("model.x", 0, std::span(part)), "no tensor model.x");
}

TEST(Safetensors, HalfPrecision) {
  TemporaryFolder folder;
  const std::vector<std::pair<std::uint16_t, float>> known{
      {0x0000, 0.0f},     {0x8000, -0.0f},     {0x3C00, 1.0f},       {0xC000, -2.0f},
      {0x7BFF, 65504.0f}, {0x0400, 0x1p-14f},  {0x0001, 0x1p-24f},   {0x03FF, 1023 * 0x1p-24f},
      {0x7C00, INFINITY}, {0xFC00, -INFINITY}, {0x3555, 0x1.554p-2f}};
  std::string file = file_with(R"({"h":{"dtype":"F16","shape":[12],"data_offsets":[0,24]}})", 24);
  for (std::size_t i = 0; i < known.size(); ++i)
    std::memcpy(file.data() + file.size() - 24 + 2 * i, &known[i].first, 2);
  const std::uint16_t nan = 0x7E01;
  std::memcpy(file.data() + file.size() - 2, &nan, 2);
  put(folder / "h.safetensors", file);
  std::vector<float> values(12);
  SafetensorsFile(folder / "h.safetensors").read("h", 0, std::span(values));
  for (std::size_t i = 0; i < known.size(); ++i) {
    EXPECT_EQ(values[i], known[i].second);
    EXPECT_EQ(std::signbit(values[i]), std::signbit(known[i].second));
  }
  EXPECT_TRUE(std::isnan(values[11]));
}

TEST(Safetensors, WrongFilesAreOneSentence) {
  TemporaryFolder folder;
  const auto refused = [&](const std::string& content, const char* part) {
    put(folder / "x.safetensors", content);
    EXPECT_ERROR(SafetensorsFile(folder / "x.safetensors"), part);
  };
  const auto entry = [](const std::string& text, std::size_t bytes = 16) {
    return file_with("{\"a\":" + text + "}", bytes);
  };
  refused("", "0 bytes");
  refused("1234567", "7 bytes");
  refused(std::string(8, '\xFF') + "{}", "does not fit");
  refused(file_with("{", 0), "not valid JSON");
  refused(file_with("[]", 0), "not valid JSON");
  refused(file_with("{}x", 0), "not valid JSON");
  refused(file_with("{\"\xFF\":1}", 0), "not valid JSON");
  refused(file_with("{\"a\":" + std::string(100000, '['), 0), "not valid JSON");
  refused(file_with(R"({"__metadata__":{"a":1}})", 0), "more than text");
  refused(entry("1"), "no dtype");
  refused(entry(R"({"dtype":"F32","shape":[4]})"), "no dtype");
  refused(entry(R"({"dtype":"F99","shape":[4],"data_offsets":[0,16]})"), "unknown type F99");
  refused(entry(R"({"dtype":"F32","shape":[-4],"data_offsets":[0,16]})"), "no size");
  refused(entry(R"({"dtype":"F32","shape":[4.0],"data_offsets":[0,16]})"), "no size");
  refused(entry(R"({"dtype":"F32","shape":4,"data_offsets":[0,16]})"), "not a list");
  refused(entry(R"({"dtype":"F32","shape":[4],"data_offsets":[0,17]})"), "inside the file");
  refused(entry(R"({"dtype":"F32","shape":[4],"data_offsets":[16,0]})"), "inside the file");
  refused(entry(R"({"dtype":"F32","shape":[4],"data_offsets":[0]})"), "inside the file");
  refused(entry(R"({"dtype":"F32","shape":[3],"data_offsets":[0,16]})"), "need 12");
  refused(entry(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,16]})"),
          "too large");
  refused(entry(R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]})"),
          "too large");
  refused(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                R"("b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]})"),
          "overlap");
  refused(entry(R"({"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                R"("a":{"dtype":"F32","shape":[2],"data_offsets":[8,16]})"),
          "twice");
  // Integers are listed but are no weights.
  put(folder / "x.safetensors", entry(R"({"dtype":"I64","shape":[2],"data_offsets":[0,16]})"));
  const SafetensorsFile integers(folder / "x.safetensors");
  std::vector<float> values(2);
  EXPECT_ERROR(integers.read("a", 0, std::span(values)), "holds no weights");
}

TEST(Safetensors, TruncatedAndFlippedFiles) {
  TemporaryFolder folder;
  const auto floats = random_values<float>(1, 30);
  const std::vector<SafetensorsEntry> entries{{"a", DType::f32, {5, 4}, floats.data()},
                                              {"b", DType::f32, {10}, floats.data() + 20}};
  write_safetensors(folder / "model.safetensors", entries);
  const std::string whole = get(folder / "model.safetensors");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    put(folder / "torn.safetensors", whole.substr(0, size));
    EXPECT_ERROR(SafetensorsFile(folder / "torn.safetensors"), "torn.safetensors");
  }
  // The format has no checksum: a flipped byte may go unseen, but reading stays inside the file.
  put(folder / "flipped.safetensors", whole);
  for (std::size_t place = 0; place < whole.size(); ++place) {
    for (int bit = 0; bit < 8; bit += 3) {
      put_byte(folder / "flipped.safetensors", place, static_cast<char>(whole[place] ^ (1 << bit)));
      try {
        const SafetensorsFile file(folder / "flipped.safetensors");
        for (const auto& [name, info] : file.tensors()) {
          std::vector<float> values(static_cast<std::size_t>(info.elements));
          file.read(name, 0, std::span(values));
        }
      } catch (const Error&) {
      }
    }
    put_byte(folder / "flipped.safetensors", place, whole[place]);
  }
}

TEST(Safetensors, SeveralFilesWithAnIndex) {
  TemporaryFolder folder;
  const auto floats = random_values<float>(1, 30);
  const std::vector<SafetensorsEntry> first{{"a", DType::f32, {20}, floats.data()}},
      second{{"b", DType::f32, {10}, floats.data() + 20}};
  EXPECT_ERROR(SafetensorsModel::open(folder.path()), "holds no weights");
  write_safetensors(folder / "model-1.safetensors", first);
  write_safetensors(folder / "model-2.safetensors", second);
  const std::string index = folder / "model.safetensors.index.json";
  put(index, R"({"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}})");
  const SafetensorsModel model = SafetensorsModel::open(folder.path());
  EXPECT_EQ(model.names(), (std::vector<std::string>{"a", "b"}));
  std::vector<float> values(10);
  model.read("b", 0, std::span(values));
  EXPECT_TRUE(std::equal(values.begin(), values.end(), floats.begin() + 20));
  EXPECT_ERROR(model.info("c"), "no tensor c");

  const auto refused = [&](const std::string& content, const char* part) {
    put(index, content);
    EXPECT_ERROR(SafetensorsModel::open(folder.path()), part);
  };
  refused("{", "not valid JSON");
  refused("{}", "no weight_map");
  refused(R"({"weight_map":{"a":1}})", "not a plain file name");
  refused(R"({"weight_map":{"a":"../model-1.safetensors"}})", "not a plain file name");
  refused(R"({"weight_map":{"a":"model-3.safetensors"}})", "cannot open");
  refused(R"({"weight_map":{"b":"model-1.safetensors"}})", "but it is not");

  write_safetensors(folder / "model.safetensors", first);
  EXPECT_EQ(SafetensorsModel::open(folder.path()).names(), std::vector<std::string>{"a"});
}

TEST(Safetensors, WritersRefuseNonsense) {
  TemporaryFolder folder;
  const float value = 1;
  const std::vector<SafetensorsEntry> twice{{"a", DType::f32, {1}, &value},
                                            {"a", DType::f32, {1}, &value}},
      negative{{"a", DType::f32, {-1}, &value}};
  EXPECT_ERROR(write_safetensors(folder / "x", twice), "two tensors with the name a");
  EXPECT_ERROR(write_safetensors(folder / "x", negative), "impossible shape");
  EXPECT_FALSE(std::filesystem::exists(folder / "x"));
}

}  // namespace
}  // namespace t2r
