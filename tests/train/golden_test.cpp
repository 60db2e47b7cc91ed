// Real architectures against what Hugging Face's code, or a plain recurrence with autograd,
// computed from the same files in fp64 (tests/golden/make_golden.py): logits, loss and every
// gradient.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/train/model_folder.h"
#include "data/safetensors.h"
#include "kernels/elementwise.h"

namespace t2r {
namespace {

class Golden : public ::testing::TestWithParam<const char*> {
 protected:
  const std::string folder_ = std::string(T2R_SOURCE_DIR) + "/tests/golden/" + GetParam();
};

double relative_rms(const std::vector<float>& got, const std::vector<float>& expected) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double e = static_cast<double>(expected[i]), d = static_cast<double>(got[i]) - e;
    error += d * d;
    size += e * e;
  }
  return std::sqrt(error / size);
}

std::vector<float> read_all(const SafetensorsFile& file, const std::string& name) {
  std::vector<float> values(static_cast<std::size_t>(file.info(name).elements));
  file.read(name, 0, std::span<float>(values));
  return values;
}

TEST_P(Golden, LogitsLossAndGradients) {
  std::ifstream in(folder_ + "/ids.json");
  const auto ids = nlohmann::json::parse(in).get<std::vector<std::vector<std::int32_t>>>();
  std::vector<std::int32_t> inputs, targets, positions;
  std::vector<std::int64_t> offsets{0};
  for (const auto& sequence : ids) {
    for (std::size_t i = 0; i < sequence.size(); ++i) {
      inputs.push_back(sequence[i]);
      targets.push_back(i + 1 < sequence.size() ? sequence[i + 1] : kIgnoredTarget);
      positions.push_back(static_cast<std::int32_t>(i));
    }
    offsets.push_back(static_cast<std::int64_t>(inputs.size()));
  }
  Batch batch;
  batch.rows = offsets.back();
  batch.inputs = inputs.data();
  batch.targets = targets.data();
  batch.positions = positions.data();
  batch.segments = {static_cast<std::int64_t>(ids.size()), offsets.data()};

  const auto model = load_model(folder_, DType::f32, true);
  const SafetensorsFile expected(folder_ + "/expected.safetensors");
  Arena activations(std::int64_t{1} << 28), scratch(std::int64_t{1} << 28);
  Step step{.activations = activations, .scratch = scratch, .queue = {}};

  std::vector<float> logits(static_cast<std::size_t>(batch.rows * model->config().vocab_size));
  model->logits(step, batch,
                Tensor(logits.data(), Shape{batch.rows, model->config().vocab_size}, DType::f32));
  EXPECT_LT(relative_rms(logits, read_all(expected, "logits")), 1e-5);

  const std::int64_t count = batch.rows - static_cast<std::int64_t>(ids.size());
  const CrossEntropySums sums =
      model->train_step(step, batch, 1.0 / static_cast<double>(count), 0, nullptr);
  EXPECT_EQ(sums.rows, count);
  const double loss = static_cast<double>(read_all(expected, "loss")[0]);
  EXPECT_NEAR(sums.loss / static_cast<double>(count), loss, 1e-5 * loss);

  // Gradients under their names and layouts on disk: written as if they were the weights.
  Transformer gradients(model->config(), DType::f32, false);
  copy(Queue{}, gradients.params().all_values(), model->params().all_grads());
  const std::string written =
      ::testing::TempDir() + "golden_gradients_" + GetParam() + std::to_string(getpid());
  save_model(gradients, written);
  const SafetensorsFile got(written + "/model.safetensors");
  std::size_t compared = 0;
  for (const auto& [name, info] : expected.tensors()) {
    if (!name.starts_with("grad.")) continue;
    const std::string parameter = name.substr(5);
    ASSERT_TRUE(got.has(parameter)) << parameter;
    ASSERT_EQ(got.info(parameter).shape, info.shape) << parameter;
    EXPECT_LT(relative_rms(read_all(got, parameter), read_all(expected, name)), 1e-5) << parameter;
    ++compared;
  }
  EXPECT_EQ(compared, got.tensors().size());
  std::filesystem::remove_all(written);
}

INSTANTIATE_TEST_SUITE_P(Models, Golden,
                         ::testing::Values("gpt2", "llama", "gpt2_t2r", "gpt2_t2r_decay"),
                         [](const auto& param_info) { return std::string(param_info.param); });

}  // namespace
}  // namespace t2r
