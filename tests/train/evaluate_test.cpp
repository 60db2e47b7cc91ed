// Evaluation against sums made by hand; given token ids; logits for other programs.
#include "core/train/evaluate.h"

#include <gtest/gtest.h>
#include <hdf5.h>

#include <cmath>

#include "core/train/decoding_speed.h"
#include "core/train/machine.h"
#include "core/train/token_batch.h"
#include "dist/self_comm.h"
#include "tests/data/temporary_folder.h"
#include "tests/train/tiny_run.h"

namespace t2r::testing {
namespace {

constexpr std::int64_t kMemory = std::int64_t{1} << 28;

std::unique_ptr<Transformer> tiny_model(DType dtype = DType::f64) {
  auto model = std::make_unique<Transformer>(tiny_config(), dtype, TrainedPart::nothing);
  model->params().initialize(4);
  for (int i = 0; i < model->params().count(); ++i) {  // far from uniform predictions
    const Tensor value = model->params().value(ParamId{i});
    dispatch(dtype, [&]<class T>() {
      for (std::int64_t j = 0; j < value.size(); ++j)
        value.as<T>()[j] = static_cast<T>(static_cast<float>(value.as<T>()[j]) * 3);
    });
  }
  return model;
}

EvaluationResult evaluate_with(Comm& comm, const EvaluationOptions& options,
                               std::int64_t words = 50) {
  Arena activations(kMemory), scratch(kMemory);
  return evaluate(*tiny_model(), comm, ragged_stream(30, 8), words, options, activations, scratch);
}

TEST(Evaluate, EqualsTheSumOverLogits) {
  for (Packing packing : {Packing::documents, Packing::contiguous}) {
    const EvaluationOptions options{.sequence_length = 11, .packing = packing, .micro_batch = 4};
    SelfComm self;
    const EvaluationResult result = evaluate_with(self, options);
    const auto model = tiny_model();
    const Sampler sampler = Sampler::in_order(ragged_stream(30, 8), 11, packing, 1);
    Arena activations(kMemory), scratch(kMemory);
    double nll = 0;
    std::int64_t tokens = 0;
    for (std::int64_t window = 0; window < sampler.windows(); ++window) {
      const TokenBatch batch = sampler.batch(sampler.plan(window), 0, 1);
      std::vector<double> logits(static_cast<std::size_t>(batch.rows() * kVocabulary));
      Step step{activations, scratch, Queue{}};
      model->logits(step, batch_of(batch),
                    Tensor(logits.data(), {batch.rows(), kVocabulary}, DType::f64));
      for (std::int64_t row = 0; row < batch.rows(); ++row) {
        const std::int32_t target = batch.targets[static_cast<std::size_t>(row)];
        if (target < 0) continue;
        const double* x = logits.data() + row * kVocabulary;
        double sum = 0;
        for (int i = 0; i < kVocabulary; ++i) sum += std::exp(x[i]);
        nll += std::log(sum) - x[target];
        ++tokens;
      }
    }
    EXPECT_EQ(result.tokens, tokens);
    EXPECT_NEAR(result.loss, nll / static_cast<double>(tokens), 1e-12);
    EXPECT_NEAR(result.perplexity_per_token, std::exp(nll / static_cast<double>(tokens)), 1e-9);
    EXPECT_NEAR(std::log(result.perplexity_per_word), nll / 50, 1e-12);
    EXPECT_EQ(result.words, 50);
  }
}

TEST(Evaluate, TheSameBitsForAnyNumberOfRanks) {
  const EvaluationOptions options{.sequence_length = 12, .micro_batch = 3};
  SelfComm self;
  omp_set_num_threads(1);
  const EvaluationResult expected = evaluate_with(self, options);
  for (int ranks : {2, 3, 7})
    run_ranks(ranks, [&](Comm& comm) {
      omp_set_num_threads(1);
      EXPECT_EQ(evaluate_with(comm, options).loss, expected.loss);
    });
}

TEST(Evaluate, OnlyTheFirstWindows) {
  SelfComm self;
  EvaluationOptions options{.sequence_length = 5, .micro_batch = 3, .max_windows = 4};
  const EvaluationResult part = evaluate_with(self, options);
  EXPECT_LE(part.tokens, 20);
  EXPECT_EQ(part.words, 0);
  options.max_windows = 1 << 20;
  EXPECT_EQ(evaluate_with(self, options).words, 50);
}

TEST(Evaluate, TokenIdsAndTheirLogits) {
  const TemporaryFolder folder;
  put(folder / "ids.txt", "3 1 4 1 5\n9,2,6\n36\n");
  const auto sequences = read_token_ids(folder / "ids.txt", kVocabulary);
  EXPECT_EQ(sequences, (std::vector<std::vector<std::int32_t>>{{3, 1, 4, 1, 5}, {9, 2, 6}, {36}}));
  for (DType dtype : {DType::f32, DType::f64}) {
    const std::string path = folder / "logits.h5";
    const EvaluationResult result = evaluate_token_ids(*tiny_model(dtype), sequences, path);
    EXPECT_EQ(result.tokens, 6);
    EXPECT_EQ(result.loss, evaluate_token_ids(*tiny_model(dtype), sequences).loss);
    const hid_t file = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
    ASSERT_GE(file, 0);
    double nll = 0;
    for (std::size_t n = 0; n < sequences.size(); ++n) {
      const hid_t set = H5Dopen2(file, ("/logits/" + std::to_string(n)).c_str(), H5P_DEFAULT);
      const hid_t space = H5Dget_space(set), type = H5Dget_type(set);
      hsize_t dims[2] = {};
      ASSERT_EQ(H5Sget_simple_extent_dims(space, dims, nullptr), 2);
      ASSERT_EQ(dims[0], sequences[n].size());
      ASSERT_EQ(dims[1], static_cast<hsize_t>(kVocabulary));
      EXPECT_GT(H5Tequal(type, H5T_IEEE_F32LE), 0);
      std::vector<float> logits(dims[0] * dims[1]);
      H5Dread(set, H5T_NATIVE_FLOAT, H5S_ALL, H5S_ALL, H5P_DEFAULT, logits.data());
      for (std::size_t i = 0; i + 1 < dims[0]; ++i) {
        double sum = 0;
        for (std::size_t j = 0; j < dims[1]; ++j)
          sum += std::exp(static_cast<double>(logits[i * dims[1] + j]));
        const auto next = static_cast<std::size_t>(sequences[n][i + 1]);
        nll += std::log(sum) - static_cast<double>(logits[i * dims[1] + next]);
      }
      H5Tclose(type);
      H5Sclose(space);
      H5Dclose(set);
    }
    H5Fclose(file);
    EXPECT_NEAR(result.loss, nll / 6, 1e-5);
  }
}

TEST(Evaluate, BadTokenIds) {
  const TemporaryFolder folder;
  const auto refuses = [&](const std::string& text, const char* part) {
    put(folder / "ids.txt", text);
    EXPECT_ERROR(read_token_ids(folder / "ids.txt", 37), part);
  };
  refuses("1 2\n3 x4\n", "line 2: 'x4' is no token id from 0 to 36");
  refuses("1 37\n", "'37'");
  refuses("1 -2\n", "'-2'");
  refuses("1 99999999999999999999\n", "line 1");
  refuses("1 2\n\n3\n", "line 2 holds no token ids");
  refuses("", "is empty");
  EXPECT_THROW(read_token_ids(folder / "missing.txt", 37), Error);
  EXPECT_ERROR(evaluate_token_ids(*tiny_model(), {std::vector<std::int32_t>(13, 1)}),
               "sequence 0 has 13 tokens");
  EXPECT_ERROR(evaluate_token_ids(*tiny_model(), {{1}}), "nothing to evaluate");
}

TEST(DecodingSpeed, FlatStateForSwappedLayersGrowingCacheForSoftmax) {
  ModelConfig softmax = llama_config(kVocabulary, 2, 16, 2, 2, 64);
  const ModelConfig swapped = swapped_config(softmax, {.feature_size = 4}, {});
  for (const ModelConfig& config : {softmax, swapped}) {
    Transformer model(config, DType::f32, TrainedPart::nothing);
    model.params().initialize(1);
    const auto speeds = measure_decoding(model, 3, {1, 64, 256}, 0.02);
    ASSERT_EQ(speeds.size(), 3u);
    for (const DecodingSpeed& speed : speeds) {
      EXPECT_EQ(speed.batch, 3);
      EXPECT_GT(speed.seconds_per_token, 0);
      EXPECT_NEAR(speed.tokens_per_second * speed.seconds_per_token, 3, 1e-9);
    }
    if (config.linear_layers.empty())
      EXPECT_GT(speeds[2].state_bytes, 3 * speeds[1].state_bytes);
    else
      EXPECT_EQ(speeds[2].state_bytes, speeds[0].state_bytes);
  }
  Transformer learned(tiny_config(), DType::f32, TrainedPart::nothing);  // 12 positions
  learned.params().initialize(1);
  EXPECT_EQ(measure_decoding(learned, 1, {8, 12, 13}, 0.01).size(), 2u);
  EXPECT_THROW(measure_decoding(learned, 1, {0}, 0.01), Error);
}

}  // namespace
}  // namespace t2r::testing
