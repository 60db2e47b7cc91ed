// The mean of checkpoints, against the values that a run had when they were written.
#include "core/train/average.h"

#include <filesystem>
#include <fstream>

#include "core/train/checkpoint.h"
#include "core/train/model_folder.h"
#include "data/safetensors.h"
#include "tests/data/temporary_folder.h"
#include "tests/train/tiny_run.h"

namespace t2r::testing {
namespace {

TEST(Average, IsTheMeanOfTheLastCheckpoints) {
  const TemporaryFolder folder;
  TrainOptions options = tiny_options(6);
  options.run_folder = folder.path();
  options.checkpoint_every = 2;
  options.keep_checkpoints = 3;
  std::vector<std::vector<double>> values;
  omp_set_num_threads(1);
  run_ranks(1, [&](Comm& world) {
    Mesh mesh = make_mesh(world, 1, 1);
    Transformer model(tiny_config(), DType::f64, TrainedPart::all);
    model.params().initialize(5);
    Trainer trainer(model, mesh, ragged_data(), options);
    trainer.on_step = [&](const StepFigures& figures) {
      if (figures.step % 2 == 0) values.push_back(to_doubles(trainer.optimizer().master()));
    };
    trainer.run();
  });
  ASSERT_EQ(values.size(), 3u);
  EXPECT_EQ(newest_checkpoints(folder.path(), 2), (std::vector<std::int64_t>{4, 6}));
  const auto mean = average_checkpoints(folder.path(), {4, 6}, DType::f64);
  const Tensor span = mean->params().all_values();
  for (std::int64_t i = 0; i < span.size(); ++i) {
    const auto at = static_cast<std::size_t>(i);
    ASSERT_NEAR(span.as<double>()[i], (values[1][at] + values[2][at]) / 2, 1e-15);
  }
  EXPECT_ERROR(newest_checkpoints(folder.path(), 4), "has 3 checkpoints, not 4");
  EXPECT_ERROR(newest_checkpoints(folder.path(), 0), "at least 1");

  // A flipped byte in the middle of the values.
  const std::string path = checkpoint_folder(folder.path(), 4) + "/part-00000-of-00001.safetensors";
  put_byte(path, SafetensorsFile(path).header().size() + 67, '\x55');
  EXPECT_ERROR(average_checkpoints(folder.path(), {4, 6}, DType::f64), "checksum");
}

}  // namespace
}  // namespace t2r::testing
