// Any number of ranks trains the same model; equal meshes to the last bit.
#include <gtest/gtest.h>

#include "tests/data/temporary_folder.h"
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

/// Three ranks of which one loses the last bit of a parameter after update 2.
void drift(const TrainOptions& options) {
  run_ranks(3, [&](Comm& world) {
    omp_set_num_threads(1);
    Mesh mesh = make_mesh(world, 3, 1);
    Transformer model(tiny_config(), DType::f32, true);
    Trainer trainer(model, mesh, ragged_data(), options);
    trainer.on_step = [&](const StepFigures& figures) {
      float& x = trainer.optimizer().master().as<float>()[100];
      if (figures.step == 2 && world.rank() == 1) x = std::nextafter(x, 1.0f);
    };
    trainer.run();
  });
}

TEST(DataParallel, ReplicasThatDriftApartStopTheRun) {
  const TemporaryFolder folder;
  TrainOptions options = tiny_options(4);
  options.replica_check_every = 1;
  EXPECT_ERROR(drift(options),
               "the parameters after update 2: rank 1 holds other values than ranks 0, 2");
  options.replica_check_every = 3;
  EXPECT_ERROR(drift(options), "the parameters after update 3: rank 1");
  options.replica_check_every = 0;
  EXPECT_NO_THROW(drift(options));
  options.run_folder = folder / "run";  // at the checkpoint, which is then not written
  EXPECT_ERROR(drift(options), "the parameters after update 4: rank 1");
  EXPECT_FALSE(std::filesystem::exists(folder / "run/latest"));
}

TEST(DataParallel, RanksWithDifferentDataOrModelsAreTold) {
  const auto start = [](bool other_data, bool other_model) {
    run_ranks(2, [&](Comm& world) {
      Mesh mesh = make_mesh(world, 2, 1);
      ModelConfig config = tiny_config();
      TrainData data = ragged_data();
      if (world.rank() == 1 && other_data) data.fingerprint = "other";
      if (world.rank() == 1 && other_model) config = gpt2_config(kVocabulary, 2, 16, 2, 13);
      Transformer model(config, DType::f32, true);
      Trainer(model, mesh, data, tiny_options(1)).run();
    });
  };
  EXPECT_NO_THROW(start(false, false));
  EXPECT_ERROR(start(true, false), "rank 1 has other, rank 0 has ragged");
  EXPECT_ERROR(start(false, true), "the ranks disagree on the model's configuration");
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
