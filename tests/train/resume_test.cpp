// Runs that are stopped and go on: bit for bit on the same mesh, equal on another one.
#include <gtest/gtest.h>
#include <signal.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "core/train/model_folder.h"
#include "core/train/stop_request.h"
#include "tests/data/temporary_folder.h"
#include "tests/train/tiny_run.h"

namespace t2r::testing {
namespace {

using nlohmann::json;

TrainOptions options_in(const TemporaryFolder& folder, std::int64_t steps = 6) {
  TrainOptions options = tiny_options(steps);
  options.run_folder = folder / "run";
  return options;
}

/// A signal after update 2: the run saves after update 3 and ends.
void stop_after_two(const StepFigures& figures) {
  if (figures.step == 2) raise(SIGTERM);
}

std::vector<json> metrics_of(const TrainOptions& options) {
  std::istringstream lines(get(options.run_folder + "/metrics.jsonl"));
  std::vector<json> all;
  for (std::string line; std::getline(lines, line);) all.push_back(json::parse(line));
  return all;
}

Outcome joined(Outcome first, const Outcome& second) {
  first.steps.insert(first.steps.end(), second.steps.begin(), second.steps.end());
  first.values = second.values;
  first.first_moment = second.first_moment;
  first.second_moment = second.second_moment;
  return first;
}

TEST(Resume, SixUpdatesAreThreeAndThree) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16})
    for (int ranks : {1, 2}) {
      SCOPED_TRACE(fmt::format("{} on {} ranks", name_of(dtype), ranks));
      const TemporaryFolder whole_folder, parts_folder;
      const TrainOptions whole_options = options_in(whole_folder);
      const TrainOptions options = options_in(parts_folder);
      const Outcome whole = train(ranks, tiny_config(), dtype, whole_options);
      const Outcome first = train(ranks, tiny_config(), dtype, options, stop_after_two);
      EXPECT_TRUE(first.summary.stopped);
      EXPECT_EQ(first.steps.size(), 3u);
      EXPECT_FALSE(std::filesystem::exists(options.run_folder + "/model"));
      const Outcome second = train(ranks, tiny_config(), dtype, options);
      EXPECT_FALSE(second.summary.stopped);
      expect_same_training(joined(first, second), whole, 0);
      EXPECT_EQ(second.summary.state.tokens, whole.summary.state.tokens);
      EXPECT_EQ(second.summary.state.flops, whole.summary.state.flops);
      EXPECT_EQ(second.summary.validation->loss, whole.summary.validation->loss);

      const auto expected = metrics_of(whole_options), got = metrics_of(options);
      ASSERT_EQ(got.size(), 6u);
      for (std::size_t i = 0; i < got.size(); ++i)
        for (const char* key : {"step", "tokens", "loss", "learning_rate", "grad_norm", "flops"})
          EXPECT_EQ(got[i][key], expected[i][key]) << key;
      EXPECT_EQ(got[5]["valid_loss"], expected[5]["valid_loss"]);
      EXPECT_EQ(get(options.run_folder + "/model/model.safetensors"),
                get(whole_options.run_folder + "/model/model.safetensors"));
    }
}

TEST(Resume, OnAnotherNumberOfRanks) {
  const TemporaryFolder whole_folder;
  const Outcome whole = train(2, tiny_config(), DType::f64, options_in(whole_folder));
  for (int ranks : {1, 3}) {
    const TemporaryFolder folder;
    const TrainOptions options = options_in(folder);
    const Outcome first = train(2, tiny_config(), DType::f64, options, stop_after_two);
    expect_same_training(joined(first, train(ranks, tiny_config(), DType::f64, options)), whole,
                         1e-10);
  }
}

TEST(Resume, AKilledRunRepeatsWhatItDidNotSave) {
  const TemporaryFolder whole_folder, folder;
  TrainOptions options = options_in(folder);
  options.checkpoint_every = 2;
  struct Killed {};
  EXPECT_THROW(train(1, tiny_config(), DType::f32, options,
                     [](const StepFigures& figures) {
                       if (figures.step == 5) throw Killed();
                     }),
               Killed);
  EXPECT_EQ(metrics_of(options).size(), 5u);
  const Outcome rest = train(1, tiny_config(), DType::f32, options);
  ASSERT_EQ(rest.steps.size(), 2u);  // 5 and 6
  EXPECT_EQ(metrics_of(options).size(), 6u);
  EXPECT_EQ(rest.values, train(1, tiny_config(), DType::f32, options_in(whole_folder)).values);
}

TEST(Resume, CheckpointsWrittenBesideTrainingAreTheSame) {
  for (DType dtype : {DType::f64, DType::bf16}) {
    std::vector<Outcome> rests;
    for (const bool asynchronous : {false, true}) {
      const TemporaryFolder folder;
      TrainOptions options = options_in(folder);
      options.asynchronous_checkpoints = asynchronous;
      options.checkpoint_every = 1;
      options.keep_checkpoints = 10;
      // Slow copies: the optimizer has to wait for them.
      set_write_point_hook([](const char* what) {
        if (std::string(what) == "snapshot")
          std::this_thread::sleep_for(std::chrono::milliseconds(30));
      });
      const Outcome whole = train(2, tiny_config(), dtype, options);
      set_write_point_hook({});
      EXPECT_EQ(list_checkpoints(options.run_folder),
                (std::vector<std::int64_t>{1, 2, 3, 4, 5, 6}));
      const json summary = json::parse(get(options.run_folder + "/summary.json"));
      EXPECT_GT(summary["checkpoint_stall_seconds"], 0);
      // What update 3 saved was not touched by update 4.
      for (int step : {4, 5, 6})
        std::filesystem::remove_all(checkpoint_folder(options.run_folder, step));
      rests.push_back(train(2, tiny_config(), dtype, options));
      ASSERT_EQ(rests.back().steps.size(), 3u);
      EXPECT_EQ(rests.back().values, whole.values);
      EXPECT_EQ(rests.back().second_moment, whole.second_moment);
    }
    expect_same_training(rests[0], rests[1], 0);
  }
  EXPECT_FALSE(parse_checkpoint_writing("sync"));
  EXPECT_THROW(parse_checkpoint_writing("later"), Error);
}

TEST(Resume, AFinishedRunOnlyReportsAgain) {
  const TemporaryFolder folder;
  const TrainOptions options = options_in(folder);
  const Outcome first = train(1, tiny_config(), DType::f32, options);
  std::filesystem::remove_all(options.run_folder + "/model");
  const Outcome second = train(1, tiny_config(), DType::f32, options);
  EXPECT_TRUE(second.steps.empty());
  EXPECT_EQ(second.values, first.values);
  EXPECT_EQ(second.summary.validation->loss, first.summary.validation->loss);
  EXPECT_TRUE(std::filesystem::exists(options.run_folder + "/model/config.json"));
  // With more updates it goes on.
  TrainOptions longer = options;
  longer.steps = 8;
  EXPECT_EQ(train(1, tiny_config(), DType::f32, longer).steps.size(), 2u);
}

TEST(Resume, NeverStartsAnewAndKeepsTheOldCheckpoints) {
  const TemporaryFolder folder;
  TrainOptions options = options_in(folder);
  const Outcome first = train(2, tiny_config(), DType::f32, options);
  options.resume = Resume::never;
  const Outcome second = train(2, tiny_config(), DType::f32, options);
  expect_same_training(first, second, 0);
  EXPECT_EQ(metrics_of(options).size(), 6u);
  EXPECT_TRUE(
      std::filesystem::exists(options.run_folder + "/checkpoints.old-1/step_00000006/state.json"));
}

TEST(Resume, ForeignCheckpointsStopEveryRank) {
  const TemporaryFolder folder;
  TrainOptions options = options_in(folder, 2);
  train(1, tiny_config(), DType::f32, options);
  const auto refuses = [&](const ModelConfig& config, DType dtype, const TrainOptions& other,
                           const char* part) {
    int failures = 0;
    std::mutex mutex;
    run_ranks(2, [&](Comm& world) {
      EXPECT_ERROR(train(world, config, dtype, other), part);
      const std::lock_guard lock(mutex);
      ++failures;
    });
    EXPECT_EQ(failures, 2);
  };
  ModelConfig other_model = tiny_config();
  other_model.linear.feature_size = 6;
  refuses(other_model, DType::f32, options, "of another model");
  refuses(tiny_config(), DType::bf16, options, "another precision");
  options.seed = 99;
  refuses(tiny_config(), DType::f32, options, "another seed");
}

TEST(Resume, DropoutMayChange) {
  const TemporaryFolder folder;
  train(1, tiny_config(), DType::f32, options_in(folder, 2));
  ModelConfig config = tiny_config();
  config.dropout = 0.3f;
  EXPECT_EQ(train(1, config, DType::f32, options_in(folder, 3)).steps.size(), 1u);
}

TEST(Run, WritesItsFiles) {
  const TemporaryFolder folder;
  TrainOptions options = options_in(folder);
  options.evaluate_every = 2;
  options.checkpoint_every = 1;
  options.log_every = 3;
  options.measure_peak = true;
  options.start = "converted";
  options.provenance = {{"from", "teacher"}};
  options.version = "0.1-abc";
  const Outcome outcome = train(2, tiny_config(), DType::f32, options);
  const std::string run = options.run_folder;
  const json summary = json::parse(get(run + "/summary.json"));
  EXPECT_EQ(summary["start"], "converted");
  EXPECT_EQ(summary["attention"], "t2r k=5 with learned decay, softmax in layer 0");
  EXPECT_EQ(summary["steps"], 6);
  EXPECT_EQ(summary["mesh"]["dp"], 2);
  EXPECT_EQ(summary["tokens"], outcome.summary.state.tokens);
  EXPECT_EQ(summary["loss"], outcome.summary.validation->loss);
  EXPECT_NEAR(summary["perplexity_per_token"].get<double>(),
              std::exp(summary["loss"].get<double>()), 1e-9);
  EXPECT_NEAR(
      summary["perplexity_per_word"].get<double>(),
      std::exp(summary["loss"].get<double>() * summary["validation_tokens"].get<double>() / 77),
      1e-6);
  EXPECT_GT(summary["flops"], 0);
  EXPECT_GT(summary["rank_seconds"], 0);
  EXPECT_GE(summary["wall_seconds"].get<double>() * 2, summary["rank_seconds"].get<double>());
  EXPECT_GT(summary["peak_memory_bytes"], 0);
  EXPECT_GT(summary["peak_flops_per_second"], 0);
  EXPECT_EQ(summary["version"], "0.1-abc");
  EXPECT_EQ(read_provenance(run + "/model").at("from"), "teacher");
  EXPECT_EQ(list_checkpoints(run), (std::vector<std::int64_t>{5, 6}));

  const auto lines = metrics_of(options);
  ASSERT_EQ(lines.size(), 6u);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_EQ(lines[i]["step"], i + 1);
    EXPECT_EQ(lines[i].contains("valid_loss"), i % 2 == 1);
    EXPECT_EQ(lines[i].contains("health"), i == 2 || i == 5);
  }
  EXPECT_EQ(lines[2]["health"].size(), 1u);
  EXPECT_GT(lines[2]["health"][0]["max_feature"], 0);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(run + "/tensorboard"), {}), 1);
  // The model that was written is the one that was evaluated.
  const auto model = load_model(run + "/model", DType::f32, TrainedPart::nothing);
  EvaluationOptions evaluation;
  evaluation.sequence_length = 12;
  evaluation.micro_batch = options.micro_batch;
  Arena activations(1 << 28), scratch(1 << 28);
  run_ranks(1, [&](Comm& comm) {
    EXPECT_EQ(
        evaluate(*model, comm, *ragged_data().validation, 77, evaluation, activations, scratch)
            .loss,
        outcome.summary.validation->loss);
  });
}

TEST(Run, UsageErrors) {
  const auto refuses = [](int ranks, const ModelConfig& config, const TrainOptions& options,
                          const char* part, std::int64_t vocabulary = kVocabulary) {
    run_ranks(ranks, [&](Comm& world) {
      TrainData data = ragged_data();
      data.vocab_size = vocabulary;
      EXPECT_ERROR(train(world, config, DType::f32, options, {}, data), part);
    });
  };
  TrainOptions options = tiny_options(2);
  options.global_batch = 2;
  refuses(3, tiny_config(), options, "3 data-parallel ranks, but only 2 sequences");
  options = tiny_options(2);
  options.sequence_length = 13;
  refuses(1, tiny_config(), options, "the model has 12 positions");
  options = tiny_options(2);
  refuses(1, tiny_config(), options, "token ids up to 37", kVocabulary + 1);
  options.steps = 0;
  refuses(1, tiny_config(), options, "0 updates");
  options = tiny_options(2);
  options.label_smoothing = 1;
  refuses(1, tiny_config(), options, "label smoothing");
  options = tiny_options(2);
  options.micro_batch = 0;
  refuses(1, tiny_config(), options, "at least 1");
  EXPECT_THROW(parse_resume("maybe"), Error);
  // Rotary models may be run past their positions.
  options = tiny_options(1);
  options.sequence_length = 20;
  train(1, llama_config(kVocabulary, 1, 8, 2, 2, 12), DType::f32, options);
}

TEST(Run, ANonFiniteLossStopsEveryRankAndKeepsTheCheckpoint) {
  const TemporaryFolder folder;
  const ModelConfig config = gpt2_config(kVocabulary, 2, 16, 2, 12);
  TrainOptions options = options_in(folder);
  options.schedule.kind = ScheduleKind::constant;
  options.schedule.warmup_steps = 0;
  options.schedule.peak = 1e-3;
  options.checkpoint_every = 1;
  train(2, config, DType::f32, [&] {
    TrainOptions two = options;
    two.steps = 2;
    return two;
  }());
  int failures = 0;
  std::mutex mutex;
  options.schedule.peak = 1e38;  // the first update breaks the weights, the second one notices
  run_ranks(2, [&](Comm& world) {
    EXPECT_ERROR(train(world, config, DType::f32, options), "is not finite: loss");
    const std::lock_guard lock(mutex);
    ++failures;
  });
  EXPECT_EQ(failures, 2);
  // Update 3 was saved, with weights that are finite but useless; 4 could not be made.
  EXPECT_EQ(list_checkpoints(options.run_folder).back(), 3);
}

}  // namespace
}  // namespace t2r::testing
