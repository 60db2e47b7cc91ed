// Translation models of Hugging Face against what its own code computed from the same folders
// (tests/golden/make_marian_golden.py): logits, and the ids of text.
#include "core/train/import_marian.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/train/model_folder.h"
#include "data/safetensors.h"
#include "data/tokenizer.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

using nlohmann::json;
using Ids = std::vector<std::int32_t>;

std::string golden(const std::string& name) {
  return std::string(T2R_SOURCE_DIR) + "/tests/golden/" + name;
}

std::vector<float> logits_of(const std::string& model_folder, const std::string& ids_path) {
  TokenRowsBuffer sources, targets;
  for (const json& pair : json::parse(get(ids_path))) {
    sources.add(pair["source"].get<Ids>());
    targets.add(pair["target"].get<Ids>());
  }
  Batch batch;
  static_cast<TokenRows&>(batch) = targets.rows();
  batch.source = sources.rows();
  const auto model = load_model(model_folder, DType::f32, TrainedPart::nothing);
  Arena activations(std::int64_t{1} << 26), scratch(std::int64_t{1} << 26);
  Step step{.activations = activations, .scratch = scratch, .queue = {}};
  const Shape shape{batch.rows, model->config().vocab_size};
  std::vector<float> logits(static_cast<std::size_t>(shape.size()));
  model->logits(step, batch, Tensor(logits.data(), shape, DType::f32));
  return logits;
}

TEST(ImportMarian, LogitsAreHuggingFaces) {
  for (const std::string name : {"marian", "fsmt"}) {
    SCOPED_TRACE(name);
    const TemporaryFolder out;
    import_marian(golden(name), out.path(), "test");
    const auto got = logits_of(out.path(), golden(name) + "/ids.json");
    const SafetensorsFile file(golden(name) + "/expected.safetensors");
    std::vector<float> expected(static_cast<std::size_t>(file.info("logits").elements));
    file.read("logits", 0, std::span<float>(expected));
    ASSERT_EQ(got.size(), expected.size());
    float largest = 0, error = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      largest = std::max(largest, std::abs(expected[i]));
      error = std::max(error, std::abs(got[i] - expected[i]));
    }
    EXPECT_LT(error, 1e-5f * largest);
    RecordProperty(name + "_error", std::to_string(error / largest));
  }
}

TEST(ImportMarian, TokenizersGiveHuggingFacesIds) {
  const TemporaryFolder out;
  import_marian(golden("marian"), out.path(), "test");
  const Tokenizer source = Tokenizer::load(out / "source.tokenizer.model");
  const Tokenizer target = Tokenizer::load(out / "tokenizer.model");
  const json known = json::parse(get(golden("marian") + "/translation.json"));
  Ids ids = source.encode(known["source_text"].get<std::string>());
  ids.push_back(source.eos());
  EXPECT_EQ(ids, known["source"].get<Ids>());
  Ids translated = known["target"].get<Ids>();
  EXPECT_EQ(translated.front(), target.bos());
  EXPECT_EQ(translated.front(), target.pad());
  EXPECT_EQ(translated.back(), target.eos());
  EXPECT_EQ(target.decode(std::span(translated).subspan(1, translated.size() - 2)),
            known["target_text"].get<std::string>());
  EXPECT_EQ(source.encode(">>deu<<").size(), 1u);
  EXPECT_EQ(source.encode(">>deu<<")[0], 2);
}

TEST(ImportMarian, UnitsOfBpeAreWords) {
  const TemporaryFolder out;
  import_marian(golden("fsmt"), out.path(), "test");
  const Tokenizer source = Tokenizer::load(out / "source.tokenizer.model");
  const Tokenizer target = Tokenizer::load(out / "tokenizer.model");
  const json units = json::parse(get(golden("fsmt") + "/vocab-src.json"));
  const auto id = [&](const char* unit) { return units[unit].get<std::int32_t>(); };
  EXPECT_EQ(source.encode("the low@@ er dog zebra"),
            (Ids{id("the</w>"), id("low"), id("er</w>"), id("dog</w>"), id("<unk>")}));
  EXPECT_EQ(source.encode("low"), (Ids{id("low</w>")}));
  const json german = json::parse(get(golden("fsmt") + "/vocab-tgt.json"));
  EXPECT_EQ(
      target.decode(Ids{german["tie"].get<std::int32_t>(), german["fer</w>"].get<std::int32_t>(),
                        german["Hund</w>"].get<std::int32_t>()}),
      "tie@@ fer Hund");
  EXPECT_EQ(target.bos(), 2);
  EXPECT_EQ(target.eos(), 2);
  EXPECT_TRUE(get(out / "merges.txt").starts_with("#version: 0.2\n"));
}

}  // namespace
}  // namespace t2r
