// Models of llama2.c and GGUF files: every value finds its place, queries and keys in our order of
// a head's rows. (The mathematics is checked on real weights in tests/launch/test_import.py.)
#include "core/train/import_llama.h"

#include <gtest/gtest.h>

#include "core/train/model_folder.h"
#include "data/tokenizer.h"
#include "tests/data/gguf_writer.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

constexpr int kDim = 8, kHidden = 6, kLayers = 2, kHeads = 2, kKeyHeads = 1, kHead = 4;

/// ids 0 to 2, the bytes, and a few pieces.
std::string vocabulary_file(int* entries) {
  std::string out = number_bytes<std::int32_t>(8);
  *entries = 0;
  const auto add = [&](const std::string& text) {
    out += number_bytes(-static_cast<float>(*entries)) +
           number_bytes(static_cast<std::int32_t>(text.size())) + text;
    ++*entries;
  };
  for (const char* text : {"<unk>", "\n<s>\n", "\n</s>\n"}) add(text);
  for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte));
  for (const char* text : {" ", "a", "b", " a"}) add(text);
  return out;
}

TEST(ImportLlama, EveryValueOfALlama2cFileFindsItsPlace) {
  const TemporaryFolder folder;
  int vocabulary = 0;
  put(folder / "tokenizer.bin", vocabulary_file(&vocabulary));
  std::string file;
  for (int field : {kDim, kHidden, kLayers, kHeads, kKeyHeads, vocabulary, 16})
    file += number_bytes<std::int32_t>(field);
  int next = 0;
  std::map<std::string, int> begins;
  const auto add = [&](const char* name, int count) {
    begins[name] = next;
    for (int i = 0; i < count; ++i) file += number_bytes(static_cast<float>(next++));
  };
  const int keys = kKeyHeads * kHead;
  add("embedding", vocabulary * kDim);
  add("attention norm", kLayers * kDim);
  add("wq", kLayers * kDim * kDim);
  add("wk", kLayers * keys * kDim);
  add("wv", kLayers * keys * kDim);
  add("wo", kLayers * kDim * kDim);
  add("ffn norm", kLayers * kDim);
  add("w1", kLayers * kHidden * kDim);
  add("w2", kLayers * kDim * kHidden);
  add("w3", kLayers * kHidden * kDim);
  add("last norm", kDim);
  file.append(2 * 16 * kHead / 2 * sizeof(float), '\0');  // old tables of the rotation
  put(folder / "model.bin", file);

  import_llama2c(folder / "model.bin", folder / "tokenizer.bin", folder / "out", "test");
  const auto model = load_model(folder / "out", DType::f32, TrainedPart::nothing);
  EXPECT_EQ(model->config().key_value_heads, kKeyHeads);
  EXPECT_EQ(Tokenizer::load(folder / "out").vocab_size(), vocabulary);
  const auto value = [&](const std::string& name, int row, int column) {
    const Tensor x = model->params().value(model->params().find(name));
    return x.as<float>()[row * x.columns_count() + column];
  };
  EXPECT_EQ(value("model.embed_tokens.weight", 3, 2), 3 * kDim + 2);
  EXPECT_EQ(value("model.norm.weight", 0, 5), begins["last norm"] + 5);
  EXPECT_EQ(value("model.layers.1.input_layernorm.weight", 0, 1),
            begins["attention norm"] + kDim + 1);
  EXPECT_EQ(value("model.layers.1.mlp.down_proj.weight", 2, 3),
            begins["w2"] + kDim * kHidden + 2 * kHidden + 3);
  EXPECT_EQ(value("model.layers.1.mlp.up_proj.weight", 2, 3),
            begins["w3"] + kHidden * kDim + 2 * kDim + 3);
  EXPECT_EQ(value("model.layers.0.mlp.gate_proj.weight", 0, 0), begins["w1"]);
  EXPECT_EQ(value("model.layers.1.self_attn.v_proj.weight", 3, 1),
            begins["wv"] + keys * kDim + 3 * kDim + 1);
  // Rows 0, 1, 2, 3 of a head were pairs (0, 1) and (2, 3): now 0, 2 and then 1, 3.
  const int theirs[kHead] = {0, 2, 1, 3};
  for (int head = 0; head < kHeads; ++head)
    for (int row = 0; row < kHead; ++row)
      EXPECT_EQ(value("model.layers.1.self_attn.q_proj.weight", head * kHead + row, 6),
                begins["wq"] + kDim * kDim + (head * kHead + theirs[row]) * kDim + 6);
  for (int row = 0; row < kHead; ++row)
    EXPECT_EQ(value("model.layers.0.self_attn.k_proj.weight", row, 0),
              begins["wk"] + theirs[row] * kDim);
}

}  // namespace
}  // namespace t2r
