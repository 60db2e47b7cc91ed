// Training parts of a model: on every mesh the same, less memory, checkpoints and the merged model.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "core/train/average.h"
#include "core/train/model_folder.h"
#include "tests/data/temporary_folder.h"
#include "tests/train/tiny_run.h"

namespace t2r {
namespace {

using testing::expect_same_training;
using testing::Outcome;
using testing::ragged_data;
using testing::ragged_pair_data;
using testing::tiny_config;
using testing::tiny_options;
using testing::tiny_translation_config;
using testing::train;

TrainedPart lora(const std::string& targets) {
  TrainedPart part = TrainedPart::lora;
  part.lora_options = {3, 5.0, parse_lora_targets(targets)};
  return part;
}

std::vector<TrainedPart> parts() {
  return {TrainedPart::attention, TrainedPart::feature_maps, lora("q,k,v,o,fc"), lora("v,down")};
}

Outcome train_part(int ranks, const ModelConfig& config, DType dtype, const TrainOptions& options,
                   const TrainedPart& part, int tp = 1, int cp = 1) {
  return train(ranks, config, dtype, options, {},
               config.encoder_decoder() ? ragged_pair_data() : ragged_data(), tp, cp, 0, part);
}

TEST(TrainedPart, EqualsOneRankOnEveryMesh) {
  ModelConfig llama = swapped_config(
      llama_config(tiny_config().vocab_size, 3, 16, 4, 2, 12),
      {.feature_map = FeatureMap::rfa, .feature_size = 8, .decay = Decay::learned}, {1});
  llama.dropout = 0.1f;
  for (const ModelConfig& config : {tiny_config(), llama, tiny_translation_config()})
    for (const TrainedPart& part : parts()) {
      TrainOptions options = tiny_options(4);
      options.bucket_bytes = 512;
      const Outcome expected = train_part(1, config, DType::f64, options, part);
      options.micro_batch = 1;
      const int cp = config.encoder_decoder() ? 1 : 2;
      for (const auto& [ranks, tp, context] :
           {std::tuple{3, 1, 1}, {2, 2, 1}, {4, 2, 1}, {4, 2, cp}})
        for (bool all : {false, true}) {
          options.sequence_parallel = all && tp > 1 && context == 1;
          options.optimizer_sharding = options.recompute = all;
          SCOPED_TRACE(
              fmt::format("{}, {} ranks, tp {}, cp {}", name_of(part), ranks, tp, context));
          expect_same_training(train_part(ranks, config, DType::f64, options, part, tp, context),
                               expected, 1e-10);
        }
    }
}

TEST(TrainedPart, KeepsLessAndSaysSo) {
  const TrainMemory all =
      train_part(1, tiny_config(), DType::bf16, tiny_options(1), TrainedPart::all).summary.memory;
  for (const TrainedPart& part : parts()) {
    const Outcome outcome = train_part(1, tiny_config(), DType::bf16, tiny_options(1), part);
    const TrainMemory& memory = outcome.summary.memory;
    EXPECT_LT(memory.gradients, 0.7 * static_cast<double>(all.gradients)) << name_of(part);
    EXPECT_EQ(memory.optimizer, 3 * memory.gradients) << name_of(part);
    // Gaps for alignment aside.
    EXPECT_GE(memory.gradients, 4 * outcome.summary.trained_parameters);
    EXPECT_LT(memory.gradients, 4 * outcome.summary.trained_parameters + 128 * 64);
  }
}

TEST(TrainedPart, LearnsAndLeavesTheRest) {
  for (const TrainedPart& part : parts()) {
    const TemporaryFolder folder;
    Transformer start(tiny_config(), DType::f32, part);
    start.params().initialize(5);
    TrainOptions options = tiny_options(20);
    options.schedule.peak = 1e-2;
    options.run_folder = folder / "run";
    train_part(1, tiny_config(), DType::f32, options, part);
    const auto written =
        load_model(options.run_folder + "/model", DType::f32, TrainedPart::nothing);
    int changed = 0;
    for (int p = 0; p < start.params().count(); ++p) {
      const ParamSpec& spec = start.params().spec(ParamId{p});
      const ParamId id = written->params().find(spec.name);
      if (spec.group == ParamGroup::adapter) {
        EXPECT_FALSE(id) << spec.name;
        continue;
      }
      const bool same =
          std::memcmp(start.params().value(ParamId{p}).data, written->params().value(id).data,
                      static_cast<std::size_t>(spec.shape.size() * 4)) == 0;
      const std::string projection = spec.name.substr(0, spec.name.rfind('.'));
      const bool merged = spec.name.ends_with(".weight") && part.adapts(projection);
      EXPECT_EQ(same, !start.params().trained(ParamId{p}) && !merged) << spec.name;
      changed += !same;
    }
    EXPECT_GT(changed, 0);
  }
}

TEST(TrainedPart, ResumesBitForBitAndRefusesAnother) {
  for (const TrainedPart& part : parts()) {
    const TemporaryFolder folder;
    TrainOptions options = tiny_options(6);
    const Outcome expected = train_part(2, tiny_config(), DType::bf16, options, part);
    options.run_folder = folder / "run";
    options.steps = 3;
    options.schedule.total_steps = 6;
    options.start = "converted";
    Outcome whole = train_part(2, tiny_config(), DType::bf16, options, part);
    options.steps = 6;
    const Outcome rest = train_part(2, tiny_config(), DType::bf16, options, part);
    ASSERT_EQ(rest.steps.size(), 3u);
    whole.steps.insert(whole.steps.end(), rest.steps.begin(), rest.steps.end());
    whole.values = rest.values;
    whole.first_moment = rest.first_moment;
    whole.second_moment = rest.second_moment;
    expect_same_training(whole, expected, 0);
    options.steps = 7;
    EXPECT_ERROR(train_part(1, tiny_config(), DType::bf16, options, TrainedPart::all), "--train");
    if (part.kind == TrainedPart::lora)
      EXPECT_ERROR(average_checkpoints(options.run_folder, {6}, DType::f32), "low-rank adapters");
    else
      EXPECT_NO_THROW(average_checkpoints(options.run_folder, {6}, DType::f32));
  }
}

TEST(TrainedPart, RefusesNothingToTrain) {
  const ModelConfig softmax = gpt2_config(tiny_config().vocab_size, 2, 16, 2, 12);
  EXPECT_ERROR(train_part(1, softmax, DType::f32, tiny_options(1), TrainedPart::feature_maps),
               "nothing to train");
  EXPECT_ERROR(train_part(1, softmax, DType::f32, tiny_options(1), lora("gate")),
               "nothing to train");
}

TEST(Lora, TheMergedModelGivesTheSameLogits) {
  for (const int ranks : {1, 2})
    run_ranks(ranks, [&](Comm& world) {
      const TensorParallel parallel(world);
      for (const ModelConfig& config :
           {tiny_config(), llama_config(tiny_config().vocab_size, 2, 16, 4, 2, 12)}) {
        static const TemporaryFolder folder;
        Transformer model(config, DType::f64, lora("q,k,v,o,fc"), parallel);
        model.params().initialize(5);
        ParamStore& params = model.params();
        for (int p = 0; p < params.count(); ++p) {
          const ParamSpec& spec = params.spec(ParamId{p});
          if (!spec.name.ends_with(".lora_b")) continue;
          for (std::int64_t i = 0; i < spec.shape.size(); ++i)
            params.value(ParamId{p}).as<double>()[i] = random_normal(
                7, static_cast<std::uint64_t>(p), static_cast<std::uint64_t>(spec.whole_index(i)));
        }
        params.touch();
        save_model(model, folder / "model");
        world.barrier();
        const auto merged =
            load_model(folder / "model", DType::f64, TrainedPart::nothing, parallel);
        const std::int32_t ids[5] = {1, 4, 2, 0, 3};
        TokenRowsBuffer rows;
        rows.add(std::vector<std::int32_t>(ids, ids + 5));
        Batch batch;
        static_cast<TokenRows&>(batch) = rows.rows();
        Arena activations(1 << 26), scratch(1 << 26), out(1 << 22);
        Step step{activations, scratch, Queue{}};
        const Shape shape{5, config.vocab_size};
        const Tensor a = out.allocate(shape, DType::f64), b = out.allocate(shape, DType::f64);
        model.logits(step, batch, a);
        merged->logits(step, batch, b);
        for (std::int64_t i = 0; i < shape.size(); ++i)
          ASSERT_NEAR(a.as<double>()[i], b.as<double>()[i], 1e-10);
        world.barrier();
      }
    });
}

}  // namespace
}  // namespace t2r
