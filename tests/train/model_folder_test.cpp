// Model folders: round trips bit for bit, Hugging Face's names and layouts, errors.
#include "core/train/model_folder.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "data/safetensors.h"
#include "tests/data/temporary_folder.h"
#include "tests/model/tiny.h"

namespace t2r {
namespace {

using nlohmann::json;

std::unique_ptr<Transformer> random_model(const ModelConfig& config, DType dtype) {
  auto model = std::make_unique<Transformer>(config, dtype, TrainedPart::nothing);
  model->params().initialize(3);
  // Biases and norms too: nothing may be right because it is all zeros or ones.
  dispatch(dtype, [&]<class T>() {
    for (int i = 0; i < model->params().count(); ++i) {
      const Tensor value = model->params().value(ParamId{i});
      for (std::int64_t j = 0; j < value.size(); ++j)
        value.as<T>()[j] = static_cast<T>(static_cast<float>(
            random_normal(9, static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(j))));
    }
  });
  return model;
}

bool same_values(const Transformer& a, const Transformer& b) {
  if (a.params().count() != b.params().count()) return false;
  for (int i = 0; i < a.params().count(); ++i) {
    const Tensor x = a.params().value(ParamId{i}), y = b.params().value(ParamId{i});
    if (a.params().spec(ParamId{i}).name != b.params().spec(ParamId{i}).name ||
        !(x.shape == y.shape) || x.dtype != y.dtype ||
        std::memcmp(x.data, y.data, static_cast<std::size_t>(x.bytes())) != 0)
      return false;
  }
  return true;
}

void expect_same_config(const ModelConfig& a, const ModelConfig& b) {
  EXPECT_EQ(a.vocab_size, b.vocab_size);
  EXPECT_EQ(a.layers, b.layers);
  EXPECT_EQ(a.hidden_size, b.hidden_size);
  EXPECT_EQ(a.heads, b.heads);
  EXPECT_EQ(a.key_value_heads, b.key_value_heads);
  EXPECT_EQ(a.head_dim, b.head_dim);
  EXPECT_EQ(a.ffn_size, b.ffn_size);
  EXPECT_EQ(a.max_positions, b.max_positions);
  EXPECT_EQ(a.norm, b.norm);
  EXPECT_EQ(a.norm_eps, b.norm_eps);
  EXPECT_EQ(a.activation, b.activation);
  EXPECT_EQ(a.positions, b.positions);
  EXPECT_EQ(a.rope_theta, b.rope_theta);
  EXPECT_EQ(a.biases, b.biases);
  EXPECT_EQ(a.qkv_biases, b.qkv_biases);
  EXPECT_EQ(a.tied_output, b.tied_output);
  EXPECT_EQ(a.embedding_scale, b.embedding_scale);
  EXPECT_EQ(a.dropout, b.dropout);
  EXPECT_EQ(a.attention_dropout, b.attention_dropout);
  EXPECT_EQ(a.activation_dropout, b.activation_dropout);
  EXPECT_EQ(a.layer_drop, b.layer_drop);
  EXPECT_EQ(a.encoder_layers, b.encoder_layers);
  EXPECT_EQ(a.source_vocab_size, b.source_vocab_size);
  EXPECT_EQ(a.pre_norm, b.pre_norm);
  EXPECT_EQ(a.output_bias, b.output_bias);
  EXPECT_EQ(a.source_eos, b.source_eos);
  EXPECT_EQ(a.position_offset, b.position_offset);
  EXPECT_EQ(a.sinusoids, b.sinusoids);
  EXPECT_EQ(a.linear_layers, b.linear_layers);
  if (a.linear_layers.empty()) return;
  EXPECT_EQ(a.linear.feature_map, b.linear.feature_map);
  EXPECT_EQ(a.linear.feature_size, b.linear.feature_size);
  EXPECT_EQ(a.linear.causal_feature_size, b.linear.causal_feature_size);
  EXPECT_EQ(a.linear.clamp, b.linear.clamp);
  EXPECT_EQ(a.linear.decay, b.linear.decay);
}

json config_of(const std::string& folder) {
  return json::parse(get(folder + "/config.json"));
}
void put_config(const std::string& folder, const json& config) {
  put(folder + "/config.json", config.dump());
}

TEST(ModelFolder, RoundTripIsBitForBit) {
  for (const auto& [name, variant] : testing::variants())
    for (DType dtype : {DType::f32, DType::bf16, DType::f64}) {
      SCOPED_TRACE(name + " " + std::string(name_of(dtype)));
      ModelConfig config = variant;
      config.dropout = 0.1f;
      config.attention_dropout = 0.3f;
      config.activation_dropout = 0.07f;
      config.layer_drop = 0.2f;
      config.linear.clamp = 0.013;
      const TemporaryFolder folder;
      const auto model = random_model(config, dtype);
      save_model(*model, folder.path(), {{"start", "scratch"}});
      expect_same_config(read_model_config(folder.path()), config);
      EXPECT_TRUE(same_values(*model, *load_model(folder.path(), dtype, TrainedPart::nothing)));
      EXPECT_EQ(read_provenance(folder.path()).at("start"), "scratch");
      // And again over itself, as a run that is started twice does.
      save_model(*model, folder.path());
      EXPECT_TRUE(same_values(*model, *load_model(folder.path(), dtype, TrainedPart::all)));
      EXPECT_TRUE(read_provenance(folder.path()).empty());
    }
}

TEST(ModelFolder, Gpt2IsStoredAsHuggingFaceDoes) {
  const TemporaryFolder folder;
  ModelConfig config = gpt2_config(13, 2, 12, 3, 16);
  config = swapped_config(config, {.feature_size = 5, .decay = Decay::learned}, {0});
  const auto model = random_model(config, DType::f32);
  save_model(*model, folder.path());
  const json stored = config_of(folder.path());
  EXPECT_EQ(stored["model_type"], "gpt2");
  EXPECT_EQ(stored["n_embd"], 12);
  EXPECT_EQ(stored["activation_function"], "gelu_new");
  EXPECT_EQ(stored["t2r"]["feature_map"], "t2r");
  EXPECT_EQ(stored["t2r"]["layers"], json::array({1}));
  EXPECT_EQ(stored["t2r"]["denominator"]["clamp"], 0.01);

  const SafetensorsFile file(folder / "model.safetensors");
  std::vector<std::string> names;
  for (const auto& [name, info] : file.tensors()) names.push_back(name);
  std::vector<std::string> expected{
      "transformer.ln_f.bias",           "transformer.ln_f.weight",
      "transformer.wpe.weight",          "transformer.wte.weight",
      "transformer.h.1.attn.phi.weight", "transformer.h.1.attn.phi.bias",
      "transformer.h.1.attn.decay"};
  for (const char* layer : {"transformer.h.0.", "transformer.h.1."})
    for (const char* part :
         {"ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"})
      for (const char* kind : {".weight", ".bias"})
        expected.push_back(std::string(layer) + part + kind);
  std::sort(expected.begin(), expected.end());
  EXPECT_EQ(names, expected);

  // Conv1D: (in, out), with query, key and value side by side.
  const std::string name = "transformer.h.1.attn.c_attn.weight";
  EXPECT_EQ(file.info(name).shape, (std::vector<std::int64_t>{12, 36}));
  std::vector<float> fused(12 * 36);
  file.read(name, 0, std::span<float>(fused));
  for (int part = 0; part < 3; ++part) {
    const char* internal[] = {"q", "k", "v"};
    const Tensor value = model->params().value(model->params().find(
        std::string("model.layers.1.self_attn.") + internal[part] + "_proj.weight"));
    for (int out = 0; out < 12; ++out)
      for (int in = 0; in < 12; ++in)
        ASSERT_EQ(fused[static_cast<std::size_t>(in * 36 + part * 12 + out)],
                  value.as<float>()[out * 12 + in]);
  }
}

/// Rewrites model.safetensors with every tensor renamed (or dropped: "") by `rename`.
void rewrite(const std::string& folder, const std::function<std::string(std::string)>& rename,
             const std::function<void(std::vector<SafetensorsEntry>&)>& change = {},
             const std::string& to = "model.safetensors") {
  std::vector<std::vector<float>> memory;
  std::vector<SafetensorsEntry> entries;
  {
    const SafetensorsFile file(folder + "/model.safetensors");
    memory.reserve(file.tensors().size());
    for (const auto& [name, info] : file.tensors()) {
      const std::string renamed = rename(name);
      if (renamed.empty()) continue;
      memory.emplace_back(static_cast<std::size_t>(info.elements));
      file.read(name, 0, std::span<float>(memory.back()));
      entries.push_back({renamed, DType::f32, info.shape, memory.back().data()});
    }
  }
  if (change) change(entries);
  write_safetensors(folder + "/" + to, entries);
}

TEST(ModelFolder, Gpt2WithoutPrefixAndWithMasks) {
  const TemporaryFolder folder;
  const auto model = random_model(gpt2_config(13, 2, 12, 3, 16), DType::f32);
  save_model(*model, folder.path());
  const std::vector<float> mask(16 * 16);
  rewrite(
      folder.path(), [](const std::string& name) { return name.substr(name.find('.') + 1); },
      [&](std::vector<SafetensorsEntry>& entries) {
        entries.push_back({"h.0.attn.bias", DType::f32, {1, 1, 16, 16}, mask.data()});
        entries.push_back({"something.else", DType::f32, {4}, mask.data()});
      });
  EXPECT_TRUE(same_values(*model, *load_model(folder.path(), DType::f32, TrainedPart::nothing)));
}

TEST(ModelFolder, Qwen2IsStoredAsHuggingFaceDoes) {
  const TemporaryFolder folder;
  ModelConfig config = llama_config(13, 2, 16, 4, 2, 16);
  config.qkv_biases = true;
  const auto model = random_model(config, DType::f32);
  save_model(*model, folder.path());
  json stored = config_of(folder.path());
  EXPECT_EQ(stored["model_type"], "qwen2");
  EXPECT_EQ(stored["architectures"], json::array({"Qwen2ForCausalLM"}));
  EXPECT_EQ(stored["use_sliding_window"], false);
  EXPECT_FALSE(stored.contains("attention_bias") || stored.contains("mlp_bias"));
  const SafetensorsFile file(folder / "model.safetensors");
  std::set<std::string> biases;
  for (const auto& [name, info] : file.tensors())
    if (name.ends_with(".bias")) biases.insert(name);
  std::set<std::string> expected;
  for (const char* layer : {"0", "1"})
    for (const char* part : {"q", "k", "v"})
      expected.insert(fmt::format("model.layers.{}.self_attn.{}_proj.bias", layer, part));
  EXPECT_EQ(biases, expected);
  EXPECT_EQ(file.info("model.layers.0.self_attn.k_proj.bias").shape,
            (std::vector<std::int64_t>{8}));

  // A window that is off, or as long as any sequence, cuts nothing off.
  stored["sliding_window"] = 4;
  put_config(folder.path(), stored);
  EXPECT_TRUE(same_values(*model, *load_model(folder.path(), DType::f32, TrainedPart::nothing)));
  stored["use_sliding_window"] = true;
  put_config(folder.path(), stored);
  EXPECT_ERROR(read_model_config(folder.path()), "a sliding window of 4 tokens is not supported");
  stored["sliding_window"] = 16;
  put_config(folder.path(), stored);
  EXPECT_TRUE(read_model_config(folder.path()).qkv_biases);
  // Its defaults are not Llama's.
  stored.erase("max_position_embeddings");
  stored["use_sliding_window"] = false;
  put_config(folder.path(), stored);
  EXPECT_EQ(read_model_config(folder.path()).max_positions, 32768);
}

/// The most memory this process has had since the last call that began with `reset`; 0 where the
/// system does not tell.
std::int64_t peak_bytes(bool reset) {
  if (reset) {
    std::ofstream out("/proc/self/clear_refs");
    out << "5";
    out.close();
    if (!out) return 0;
  }
  std::ifstream in("/proc/self/status");
  for (std::string word; in >> word;)
    if (word == "VmHWM:") {
      std::int64_t kib = 0;
      in >> kib;
      return kib << 10;
    }
  return 0;
}

TEST(ModelFolder, LoadingNeedsLittleMoreMemoryThanTheModel) {
  const TemporaryFolder folder;
  ModelConfig config = llama_config(20000, 2, 512, 8, 8, 16);
  save_model(Transformer(config, DType::f32, TrainedPart::nothing), folder.path());
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const std::int64_t before = peak_bytes(true);
    if (before == 0) GTEST_SKIP() << "the system does not tell a process's peak memory";
    const auto model = load_model(folder.path(), dtype, TrainedPart::nothing);
    const auto grown = static_cast<double>(peak_bytes(false) - before);
    EXPECT_LT(grown, 1.1 * static_cast<double>(model->params().all_values().bytes()))
        << name_of(dtype);
  }
}

TEST(ModelFolder, ShardsWithAnIndex) {
  const TemporaryFolder folder;
  const auto model = random_model(llama_config(13, 2, 16, 4, 2, 16), DType::f32);
  save_model(*model, folder.path());
  json map;
  const SafetensorsFile file(folder / "model.safetensors");
  const auto shard_of = [](const std::string& name) {
    return name.find("mlp") == std::string::npos ? "model-00001-of-00002.safetensors"
                                                 : "model-00002-of-00002.safetensors";
  };
  for (const auto& [name, info] : file.tensors()) map[name] = shard_of(name);
  for (const char* shard : {"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"})
    rewrite(
        folder.path(),
        [&](const std::string& name) { return shard_of(name) == std::string(shard) ? name : ""; },
        {}, shard);
  std::filesystem::remove(folder / "model.safetensors");
  put(folder / "model.safetensors.index.json", json{{"weight_map", map}}.dump());
  EXPECT_TRUE(same_values(*model, *load_model(folder.path(), DType::f32, TrainedPart::nothing)));
}

TEST(ModelFolder, LlamaConfigsOfOtherPrograms) {
  const TemporaryFolder folder;
  const json config = {{"model_type", "llama"},      {"vocab_size", 40},
                       {"hidden_size", 16},          {"num_hidden_layers", 2},
                       {"num_attention_heads", 4},   {"num_key_value_heads", 2},
                       {"intermediate_size", 24},    {"max_position_embeddings", 64},
                       {"rms_norm_eps", 1e-5},       {"rope_theta", 5000.0},
                       {"rope_scaling", nullptr},    {"hidden_act", "silu"},
                       {"tie_word_embeddings", true}};
  put_config(folder.path(), config);
  const ModelConfig read = read_model_config(folder.path());
  EXPECT_EQ(read.head_dim, 4);
  EXPECT_EQ(read.key_value_heads, 2);
  EXPECT_EQ(read.rope_theta, 5000.0);
  EXPECT_TRUE(read.tied_output);
  EXPECT_FALSE(read.biases);

  const auto rejects = [&](const char* key, const json& value, const char* part) {
    json bad = config;
    if (value.is_discarded())
      bad.erase(key);
    else
      bad[key] = value;
    put_config(folder.path(), bad);
    EXPECT_ERROR(read_model_config(folder.path()), part);
  };
  const json missing(json::value_t::discarded);
  rejects("hidden_size", missing, "no key 'hidden_size'");
  rejects("vocab_size", "many", "'vocab_size' is \"many\", not a whole number");
  rejects("model_type", missing, "no key 'model_type'");
  rejects("model_type", "bert", "type 'bert'");
  rejects("rope_scaling", {{"rope_type", "llama3"}}, "'llama3'");
  rejects("hidden_act", "gelu", "'gelu'");
  rejects("attention_bias", true, "attention_bias and mlp_bias");
  rejects("num_key_value_heads", 3, "cannot share");
  rejects("vocab_size", -4, "config.json: vocab_size is -4");
  rejects("quantization_config", {{"bits", 4}}, "quantised");
  rejects("t2r", {{"feature_map", "t2r"}, {"feature_size", 0}, {"layers", {0}}},
          "feature size of 0");
  rejects("t2r", {{"feature_map", "t2r"}, {"feature_size", 4}}, "no list 'layers'");
  rejects("t2r", {{"feature_map", "relu"}, {"feature_size", 4}, {"layers", {0}}}, "'relu'");
  rejects("t2r", {{"feature_map", "t2r"}, {"feature_size", 4}, {"layers", {2}}}, "layer 2");
}

TEST(ModelFolder, MissingAndMisshapenTensors) {
  const TemporaryFolder folder;
  const auto model = random_model(gpt2_config(13, 2, 12, 3, 16), DType::f32);
  const auto again = [&] { save_model(*model, folder.path()); };
  again();
  rewrite(folder.path(), [](const std::string& name) {
    return name == "transformer.h.1.mlp.c_fc.weight" ? "" : name;
  });
  EXPECT_ERROR(load_model(folder.path(), DType::f32, TrainedPart::nothing),
               "no tensor transformer.h.1.mlp.c_fc.weight");
  again();
  rewrite(
      folder.path(), [](const std::string& name) { return name; },
      [](std::vector<SafetensorsEntry>& entries) {
        for (SafetensorsEntry& entry : entries)
          if (entry.name == "transformer.h.0.attn.c_attn.weight") entry.shape = {36, 12};
      });
  EXPECT_ERROR(
      load_model(folder.path(), DType::f32, TrainedPart::nothing),
      "transformer.h.0.attn.c_attn.weight has the shape (36, 12), but config.json asks for "
      "(12, 36)");
  again();
  put(folder / "model.safetensors", get(folder / "model.safetensors").substr(0, 1000));
  EXPECT_THROW(load_model(folder.path(), DType::f32, TrainedPart::nothing), Error);
  again();
  std::filesystem::remove(folder / "model.safetensors");
  EXPECT_THROW(load_model(folder.path(), DType::f32, TrainedPart::nothing), Error);
  put(folder / "config.json", "{ \"model_type\": ");
  EXPECT_ERROR(load_model(folder.path(), DType::f32, TrainedPart::nothing), "no valid JSON");
  std::filesystem::remove(folder / "config.json");
  EXPECT_ERROR(load_model(folder.path(), DType::f32, TrainedPart::nothing), "no config.json");
}

TEST(ModelFolder, KeepsTokenizerAndForeignKeysOfTheBase) {
  const TemporaryFolder base, out;
  const ModelConfig config = gpt2_config(13, 2, 12, 3, 16);
  save_model(*random_model(config, DType::f32), base.path());
  json foreign = config_of(base.path());
  foreign["bos_token_id"] = 7;
  foreign["n_head"] = 3;
  put_config(base.path(), foreign);
  put(base / "tokenizer.json", "{\"tokens\": 1}");
  put(base / "vocab.json", "{}");
  put(base / "training_args.bin", "not ours");
  const auto swapped = random_model(swapped_config(config, {.feature_size = 4}, {}), DType::f32);
  save_model(*swapped, out.path(), {}, base.path());
  EXPECT_EQ(config_of(out.path())["bos_token_id"], 7);
  EXPECT_EQ(config_of(out.path())["t2r"]["feature_size"], 4);
  EXPECT_EQ(get(out / "tokenizer.json"), get(base / "tokenizer.json"));
  EXPECT_TRUE(std::filesystem::exists(out / "vocab.json"));
  EXPECT_FALSE(std::filesystem::exists(out / "training_args.bin"));
  EXPECT_TRUE(same_values(*swapped, *load_model(out.path(), DType::f32, TrainedPart::nothing)));
  // The other way round, the swap must not come back from the base.
  save_model(*random_model(config, DType::f32), base.path(), {}, out.path());
  EXPECT_TRUE(read_model_config(base.path()).linear_layers.empty());
}

TEST(ModelFolder, AttentionInWords) {
  ModelConfig config = gpt2_config(13, 4, 12, 3, 16);
  EXPECT_EQ(describe_attention(config), "softmax");
  EXPECT_EQ(describe_attention(swapped_config(config, {.feature_size = 32}, {})), "t2r k=32");
  EXPECT_EQ(describe_attention(swapped_config(
                config, {.feature_map = FeatureMap::elu, .feature_size = 0, .decay = Decay::fixed},
                {1, 3})),
            "elu k=4 with fixed decay, softmax in layers 1, 3");
}

}  // namespace
}  // namespace t2r
