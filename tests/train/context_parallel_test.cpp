// Ranks that share out the tokens of each sequence train the same model as one rank.
#include <gtest/gtest.h>

#include "core/train/model_folder.h"
#include "core/train/token_batch.h"
#include "tests/data/temporary_folder.h"
#include "tests/train/tiny_run.h"

namespace t2r::testing {
namespace {

struct Ranks {
  int ranks, tp, cp;
};

void expect_equals_one_rank(const ModelConfig& config, const std::vector<Ranks>& meshes,
                            TrainOptions options = tiny_options(4)) {
  const Outcome expected = train(1, config, DType::f64, options);
  ASSERT_TRUE(expected.summary.validation.has_value());
  options.micro_batch = 2;
  for (const auto& [ranks, tp, cp] : meshes) {
    SCOPED_TRACE(
        fmt::format("{} ranks, tp {}, cp {}, {}", ranks, tp, cp, describe_attention(config)));
    const Outcome got = train(ranks, config, DType::f64, options, {}, ragged_data(), tp, cp);
    expect_same_training(got, expected, 1e-10);
    EXPECT_EQ(got.summary.validation->tokens, expected.summary.validation->tokens);
    EXPECT_NEAR(got.summary.validation->loss, expected.summary.validation->loss, 1e-10);
    EXPECT_EQ(got.summary.state.tokens, expected.summary.state.tokens);
    EXPECT_NEAR(got.summary.state.flops / expected.summary.state.flops, 1, 1e-12);
  }
}

const std::vector<Ranks> kMeshes{{2, 1, 2}, {3, 1, 3}, {4, 1, 4}, {4, 2, 2}, {4, 1, 2}, {8, 2, 2}};

ModelConfig gpt2_with_dropout() {
  ModelConfig gpt2 = gpt2_config(kVocabulary, 3, 16, 4, 12);
  gpt2.dropout = gpt2.attention_dropout = 0.1f;
  gpt2.activation_dropout = 0.05f;
  gpt2.layer_drop = 0.2f;
  return gpt2;
}

ModelConfig llama_with_dropout() {
  ModelConfig llama = llama_config(kVocabulary, 3, 16, 4, 2, 12);
  llama.dropout = llama.attention_dropout = 0.1f;
  llama.layer_drop = 0.3f;
  return llama;
}

TEST(ContextParallel, Softmax) {
  expect_equals_one_rank(gpt2_with_dropout(), kMeshes);
  expect_equals_one_rank(llama_with_dropout(), kMeshes);
}

TEST(ContextParallel, LinearAttention) {
  const ModelConfig gpt2 = gpt2_with_dropout(), llama = llama_with_dropout();
  ModelConfig untied = gpt2;
  untied.positions = Positions::sinusoidal;
  untied.tied_output = false;
  untied.output_bias = true;
  untied.pre_norm = false;
  const auto elu = FeatureMap::elu;
  const auto rfa = FeatureMap::rfa;
  for (const ModelConfig& config :
       {swapped_config(gpt2, {.feature_size = 5, .decay = Decay::learned}, {}),
        swapped_config(gpt2, {.feature_size = 5}, {0}),
        swapped_config(llama, {.feature_map = elu, .feature_size = 0, .decay = Decay::learned}, {}),
        swapped_config(untied, {.feature_map = rfa, .feature_size = 64, .decay = Decay::fixed},
                       {1}),
        swapped_config(llama, {.feature_size = 8}, {1})})
    expect_equals_one_rank(config, kMeshes);
}

TEST(ContextParallel, LongerSequencesThanChunks) {
  // Stretches of several chunks of linear attention and tiles of softmax attention.
  ModelConfig config = llama_with_dropout();
  config.max_positions = 512;
  config = swapped_config(config, {.feature_size = 4, .decay = Decay::learned}, {1});
  TrainOptions options = tiny_options(2);
  options.packing = Packing::contiguous;
  options.sequence_length = 301;
  options.global_batch = 2;
  expect_equals_one_rank(config, {{2, 1, 2}, {3, 1, 3}}, options);
}

TEST(ContextParallel, RanksWithoutTokens) {
  // Documents of a token or two on four ranks: most have nothing, in some micro-steps for all.
  TrainOptions options = tiny_options(3);
  options.sequence_length = 2;
  options.micro_batch = 1;
  options.bucket_bytes = 1;
  const ModelConfig gpt2 = gpt2_with_dropout();
  for (const ModelConfig& config :
       {gpt2, swapped_config(gpt2, {.feature_size = 5, .decay = Decay::learned}, {0})}) {
    const Outcome expected = train(1, config, DType::f64, options);
    for (const auto& [ranks, tp, cp] : std::vector<Ranks>{{4, 1, 4}, {8, 2, 4}, {6, 1, 3}})
      expect_same_training(train(ranks, config, DType::f64, options, {}, ragged_data(), tp, cp),
                           expected, 1e-10);
  }
}

TEST(ContextParallel, WithEverythingElseThatIsShared) {
  // Micro-steps in which some ranks have no rows, with blocks run twice, moments and norms shared.
  TrainOptions options = tiny_options(3);
  const ModelConfig gpt2 = gpt2_with_dropout(), llama = llama_with_dropout();
  for (std::int64_t length : {2, 12})
    for (const ModelConfig& config :
         {gpt2, swapped_config(llama, {.feature_size = 8, .decay = Decay::learned}, {1})}) {
      options.sequence_length = length;
      options.recompute = options.optimizer_sharding = options.sequence_parallel = false;
      options.micro_batch = 7;
      const Outcome expected = train(1, config, DType::f64, options);
      options.recompute = options.optimizer_sharding = options.sequence_parallel = true;
      options.micro_batch = 2;
      options.bucket_bytes = 1;
      for (const auto& [ranks, tp, cp] : std::vector<Ranks>{{3, 1, 3}, {4, 2, 2}, {8, 2, 4}}) {
        SCOPED_TRACE(fmt::format("{} ranks, tp {}, cp {}, length {}", ranks, tp, cp, length));
        expect_same_training(train(ranks, config, DType::f64, options, {}, ragged_data(), tp, cp),
                             expected, 1e-10);
      }
    }
}

TEST(ContextParallel, OtherPrecisions) {
  ModelConfig config = tiny_config();
  config.linear.feature_size = 24;  // no denominator near the clamp, where bf16 says nothing
  for (const auto& [dtype, limit] : {std::pair{DType::f32, 1e-4}, {DType::bf16, 0.05}}) {
    const Outcome expected = train(1, config, dtype, tiny_options(3));
    expect_same_training(train(3, config, dtype, tiny_options(3), {}, ragged_data(), 1, 3),
                         expected, limit);
  }
}

TEST(ContextParallel, SameMeshTwiceIsBitIdentical) {
  const auto run = [] {
    return train(4, tiny_config(), DType::bf16, tiny_options(3), {}, ragged_data(), 2, 2);
  };
  expect_same_training(run(), run(), 0);
}

TEST(ContextParallel, CheckpointsAreOfNoMesh) {
  const TemporaryFolder folder;
  TrainOptions options = tiny_options(6);
  const Outcome expected = train(1, tiny_config(), DType::f64, options);
  options.run_folder = folder / "run";
  options.steps = 3;
  options.schedule.total_steps = 6;
  train(4, tiny_config(), DType::f64, options, {}, ragged_data(), 2, 2);
  options.steps = 6;
  const Outcome rest = train(3, tiny_config(), DType::f64, options, {}, ragged_data(), 1, 3);
  ASSERT_EQ(rest.steps.size(), 3u);
  EXPECT_LE(largest_difference(rest.values, expected.values), 1e-10);
}

/// Also the rank whose own stretch has positions enough says so: none may wait for the others.
TEST(ContextParallel, TooLongSequencesAreToldOnEveryRank) {
  TokenBatch tokens;
  for (std::int32_t i = 0; i < 14; ++i) {
    tokens.inputs.push_back(i);
    tokens.targets.push_back(i);
    tokens.positions.push_back(i);
    tokens.row_ids.push_back(i);
  }
  tokens.segment_offsets = {0, 14};
  run_ranks(2, [&](Comm& world) {
    Transformer model(tiny_config(), DType::f32, TrainedPart::nothing, {}, ContextParallel(world));
    Arena activations(1 << 24), scratch(1 << 24);
    Step step{activations, scratch, Queue{}};
    const std::string error = error_of([&] { model.evaluate(step, batch_of(tokens)); });
    EXPECT_NE(error.find("14 tokens, but the model has 12 positions"), std::string::npos) << error;
  });
}

TEST(ContextParallel, TranslationModelsAreRefused) {
  run_ranks(2, [&](Comm& world) {
    const std::string error = error_of([&] {
      Transformer(tiny_translation_config(), DType::f32, TrainedPart::nothing, {},
                  ContextParallel(world));
    });
    EXPECT_NE(error.find("use --cp 1"), std::string::npos) << error;
  });
}

}  // namespace
}  // namespace t2r::testing
