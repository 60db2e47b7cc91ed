// Any number of ranks trains the same model; equal meshes to the last bit.
#include <gtest/gtest.h>

#include "tests/train/tiny_run.h"

namespace t2r::testing {
namespace {

TEST(DataParallel, EqualsOneRank) {
  const Outcome expected = train(1, tiny_config(), DType::f64, tiny_options(5));
  ASSERT_EQ(expected.steps.size(), 5u);
  EXPECT_GT(expected.steps[0].grad_norm, 0.5);  // clipping is on
  for (int ranks : {1, 2, 3, 4})
    for (std::int64_t bucket : {std::int64_t{1}, std::int64_t{1} << 30})
      for (std::int64_t micro_batch : {1, 3, 7}) {
        SCOPED_TRACE(
            fmt::format("{} ranks, bucket {}, micro-batch {}", ranks, bucket, micro_batch));
        TrainOptions options = tiny_options(5);
        options.bucket_bytes = bucket;
        options.micro_batch = micro_batch;
        expect_same_training(train(ranks, tiny_config(), DType::f64, options), expected, 1e-10);
      }
}

TEST(DataParallel, OtherModels) {
  ModelConfig llama = llama_config(kVocabulary, 3, 16, 4, 2, 12);
  llama.dropout = 0.1f;
  llama.layer_drop = 0.3f;
  ModelConfig elu = swapped_config(llama, {.feature_map = FeatureMap::elu, .feature_size = 0}, {1});
  ModelConfig rfa = gpt2_config(kVocabulary, 2, 16, 2, 12);
  rfa.positions = Positions::sinusoidal;
  rfa.tied_output = false;
  rfa = swapped_config(
      rfa, {.feature_map = FeatureMap::rfa, .feature_size = 4, .decay = Decay::fixed}, {});
  for (const ModelConfig& config : {llama, elu, rfa})
    for (Packing packing : {Packing::documents, Packing::contiguous}) {
      TrainOptions options = tiny_options(4);
      options.packing = packing;
      const Outcome expected = train(1, config, DType::f64, options);
      options.micro_batch = 2;
      for (int ranks : {2, 4})
        expect_same_training(train(ranks, config, DType::f64, options), expected, 1e-10);
    }
}

TEST(DataParallel, SentencePairs) {
  ModelConfig post = tiny_translation_config();
  post.pre_norm = false;
  post.layer_drop = 0.2f;
  for (const ModelConfig& config : {tiny_translation_config(), post}) {
    TrainOptions options = tiny_options(5);
    options.micro_batch_tokens = 1000;  // the reference takes the update in one piece
    const Outcome expected = train(1, config, DType::f64, options, {}, ragged_pair_data());
    for (int ranks : {1, 2, 3, 4})
      for (std::int64_t bucket : {std::int64_t{1}, std::int64_t{1} << 30})
        for (std::int64_t micro : {1, 50}) {
          SCOPED_TRACE(fmt::format("{} ranks, bucket {}, micro-batch {}", ranks, bucket, micro));
          options.bucket_bytes = bucket;
          options.micro_batch_tokens = micro;
          expect_same_training(train(ranks, config, DType::f64, options, {}, ragged_pair_data()),
                               expected, 1e-10);
        }
  }
}

TEST(DataParallel, ModelAndDataMustBeOfOneKind) {
  EXPECT_THROW(train(1, tiny_config(), DType::f32, tiny_options(1), {}, ragged_pair_data()), Error);
  EXPECT_THROW(train(1, tiny_translation_config(), DType::f32, tiny_options(1)), Error);
}

TEST(DataParallel, MoreRanksThanTheLastMicroStepHasSequences) {
  // 5 sequences on 4 ranks, one at a time: in the second micro-step three ranks have nothing.
  TrainOptions options = tiny_options(3);
  options.global_batch = 5;
  options.bucket_bytes = 1;
  options.micro_batch = 5;  // the reference takes the update in one piece
  const Outcome expected = train(1, tiny_config(), DType::f64, options);
  options.micro_batch = 1;
  expect_same_training(train(4, tiny_config(), DType::f64, options), expected, 1e-10);
}

TEST(Determinism, SameMeshTwiceIsBitIdentical) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Outcome first = train(2, tiny_config(), dtype, tiny_options(4));
    const Outcome second = train(2, tiny_config(), dtype, tiny_options(4));
    expect_same_training(first, second, 0);
  }
}

TEST(Determinism, SeedsMatter) {
  TrainOptions options = tiny_options(2);
  const Outcome first = train(1, tiny_config(), DType::f64, options);
  options.seed = 4;
  EXPECT_GT(largest_difference(train(1, tiny_config(), DType::f64, options).values, first.values),
            1e-6);
}

}  // namespace
}  // namespace t2r::testing
