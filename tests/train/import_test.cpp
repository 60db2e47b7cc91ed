// Models of CTranslate2: every value finds its place, and folders that do not fit are refused. (The
// mathematics is checked on real weights in tests/launch/test_import.py.)
#include <gtest/gtest.h>

#include "core/train/import_ctranslate2.h"
#include "core/train/model_folder.h"
#include "data/safetensors.h"
#include "tests/data/ctranslate2_writer.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

constexpr std::uint32_t kHidden = 16, kFfn = 24, kSource = 7, kTarget = 6;

/// Values that name their variable: 1,000 times its number, and counting on.
class Variables {
 public:
  Variables() {
    add("encoder/embeddings/weight", {kSource, kHidden});
    add("decoder/embeddings/weight", {kTarget, kHidden});
    stack("encoder", 1);
    stack("decoder", 2);
    linear("decoder/projection", kTarget, kHidden);
  }

  std::vector<CTranslate2Variable> all;

  CTranslate2Variable& operator[](const std::string& name) {
    for (CTranslate2Variable& variable : all)
      if (variable.name == name) return variable;
    throw std::runtime_error(name);
  }

 private:
  void add(const std::string& name, const std::vector<std::uint32_t>& shape) {
    std::uint32_t elements = 1;
    for (std::uint32_t dim : shape) elements *= dim;
    CTranslate2Variable variable{name, shape, {}};
    for (std::uint32_t i = 0; i < elements; ++i)
      variable.values.push_back(static_cast<float>(1000 * all.size() + i));
    all.push_back(variable);
  }
  void linear(const std::string& name, std::uint32_t out, std::uint32_t in) {
    add(name + "/weight", {out, in});
    add(name + "/bias", {out});
  }
  void norm(const std::string& name) {
    add(name + "/layer_norm/gamma", {kHidden});
    add(name + "/layer_norm/beta", {kHidden});
  }
  void stack(const std::string& name, int layers) {
    for (int i = 0; i < layers; ++i) {
      const std::string layer = name + "/layer_" + std::to_string(i);
      norm(layer + "/self_attention");
      linear(layer + "/self_attention/linear_0", 3 * kHidden, kHidden);
      linear(layer + "/self_attention/linear_1", kHidden, kHidden);
      if (name == "decoder") {
        norm(layer + "/attention");
        linear(layer + "/attention/linear_0", kHidden, kHidden);
        linear(layer + "/attention/linear_1", 2 * kHidden, kHidden);
        linear(layer + "/attention/linear_2", kHidden, kHidden);
      }
      norm(layer + "/ffn");
      linear(layer + "/ffn/linear_0", kFfn, kHidden);
      linear(layer + "/ffn/linear_1", kHidden, kFfn);
    }
    norm(name);
  }
};

struct Folder {
  TemporaryFolder folder;
  Variables variables;
  std::string specification = "TransformerBase";
  std::string source = "<blank>\n<s>\n</s>\na\nb\nc\n", target = "<blank>\n<s>\n</s>\nx\ny\n";

  void write() const {
    put(folder / "model.bin", ctranslate2_file(specification, variables.all));
    put(folder / "source_vocabulary.txt", source);
    put(folder / "target_vocabulary.txt", target);
  }
  std::string import() const { return folder / "out"; }
  std::string error() const {
    write();
    return error_of([&] { (void)import_ctranslate2(folder.path(), import(), "test"); });
  }
};

std::vector<float> tensor(const SafetensorsModel& file, const std::string& name) {
  std::vector<float> values(static_cast<std::size_t>(file.info(name).elements));
  file.read(name, 0, std::span<float>(values));
  return values;
}

TEST(ImportCTranslate2, EveryValueFindsItsPlace) {
  Folder test;
  test.write();
  EXPECT_TRUE(is_ctranslate2_folder(test.folder.path()));
  (void)import_ctranslate2(test.folder.path(), test.import(), "test");
  const ModelConfig config = read_model_config(test.import());
  EXPECT_EQ(config.encoder_layers, 1);
  EXPECT_EQ(config.layers, 2);
  EXPECT_EQ(config.heads, 8);
  EXPECT_FALSE(config.source_eos);
  EXPECT_FALSE(config.tied_output);
  EXPECT_EQ(config.position_offset, 1);
  EXPECT_EQ(config.embedding_scale, 4);
  const SafetensorsModel file = SafetensorsModel::open(test.import());
  const auto expect = [&](const std::string& variable, const std::vector<std::string>& tensors) {
    std::vector<float> joined;
    for (const std::string& name : tensors)
      for (float value : tensor(file, name)) joined.push_back(value);
    EXPECT_EQ(joined, test.variables[variable].values) << variable;
  };
  expect("encoder/embeddings/weight", {"model.encoder.embed_tokens.weight"});
  expect("decoder/embeddings/weight", {"model.shared.embed_tokens.weight"});
  expect("decoder/projection/bias", {"lm_head.bias"});
  expect("encoder/layer_norm/beta", {"model.encoder.norm.bias"});
  expect("decoder/layer_norm/gamma", {"model.decoder.norm.weight"});
  const std::string encoder = "model.encoder.layers.0.", decoder = "model.decoder.layers.1.";
  expect("encoder/layer_0/self_attention/linear_0/weight",
         {encoder + "self_attn.q_proj.weight", encoder + "self_attn.k_proj.weight",
          encoder + "self_attn.v_proj.weight"});
  expect("encoder/layer_0/ffn/layer_norm/gamma", {encoder + "post_attention_layernorm.weight"});
  expect("encoder/layer_0/ffn/linear_1/weight", {encoder + "mlp.down_proj.weight"});
  expect("decoder/layer_1/self_attention/layer_norm/gamma", {decoder + "input_layernorm.weight"});
  expect("decoder/layer_1/self_attention/linear_1/bias", {decoder + "self_attn.o_proj.bias"});
  expect("decoder/layer_1/attention/layer_norm/beta", {decoder + "encoder_attn_layernorm.bias"});
  expect("decoder/layer_1/attention/linear_0/weight", {decoder + "encoder_attn.q_proj.weight"});
  expect("decoder/layer_1/attention/linear_1/bias",
         {decoder + "encoder_attn.k_proj.bias", decoder + "encoder_attn.v_proj.bias"});
  expect("decoder/layer_1/attention/linear_2/weight", {decoder + "encoder_attn.o_proj.weight"});
  expect("decoder/layer_1/ffn/linear_0/bias", {decoder + "mlp.up_proj.bias"});
  EXPECT_EQ(Tokenizer::load(test.import()).vocab_size(), kTarget);
  EXPECT_EQ(Tokenizer::load(test.import() + "/source.tokenizer.model").encode("cab?"),
            (std::vector<std::int32_t>{5, 3, 4, 6}));
}

TEST(ImportCTranslate2, WhatDoesNotFitIsNamed) {
  const auto says = [](const std::string& sentence, auto&& change) {
    Folder test;
    change(test);
    const std::string error = test.error();
    EXPECT_NE(error.find(sentence), std::string::npos) << error;
    EXPECT_FALSE(std::filesystem::exists(test.import() + "/config.json"));
  };
  says("TransformerBase and TransformerBig can be imported",
       [](Folder& test) { test.specification = "WhisperSpec"; });
  says(
      "decoder/layer_1/ffn/linear_1/weight has the shape (24, 16), but the model asks for (16, 24)",
      [](Folder& test) {
        test.variables["decoder/layer_1/ffn/linear_1/weight"].shape = {kFfn, kHidden};
      });
  says("no variable encoder/layer_norm/gamma", [](Folder& test) {
    test.variables["encoder/layer_norm/gamma"].name = "encoder/layer_norm/delta";
  });
  says("holds surplus, which TransformerBase does not have", [](Folder& test) {
    test.variables.all.push_back({"surplus", {1}, {0}});
  });
  says("1 dimensions instead of 2", [](Folder& test) {
    test.variables["decoder/embeddings/weight"].shape = {kTarget * kHidden};
  });
  says("source_vocabulary.txt lists 5 tokens, but the model has 7",
       [](Folder& test) { test.source = "<blank>\n<s>\n</s>\na\nb\n"; });
  says("target_vocabulary.txt: the token 'yes' is not one character",
       [](Folder& test) { test.target = "<blank>\n<s>\n</s>\nx\nyes\n"; });
  Folder missing;
  missing.write();
  std::filesystem::remove(missing.folder / "target_vocabulary.txt");
  EXPECT_NE(error_of([&] {
              (void)import_ctranslate2(missing.folder.path(), missing.import(), "test");
            }).find("target_vocabulary.txt is missing"),
            std::string::npos);
}

}  // namespace
}  // namespace t2r
