// Real architectures against what Hugging Face's code, PyTorch's layers or a plain recurrence with
// autograd computed from the same files in fp64 (tests/golden/make_golden.py, make_qwen2_golden.py
// and make_translation_golden.py): logits, loss and every gradient.
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

/// Relative to the expected values, or to 1e-2 where these are nothing but rounding (the keys'
/// biases of softmax attention have no gradient; those that have one are larger).
double relative_rms(const std::vector<float>& got, const std::vector<float>& expected) {
  double error = 0, size = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    const double e = static_cast<double>(expected[i]), d = static_cast<double>(got[i]) - e;
    error += d * d;
    size += e * e;
  }
  const auto n = static_cast<double>(got.size());
  if (size < 1e-20 * n) size = 1e-4 * n;
  return std::sqrt(error / size);
}

std::vector<float> read_all(const SafetensorsFile& file, const std::string& name) {
  std::vector<float> values(static_cast<std::size_t>(file.info(name).elements));
  file.read(name, 0, std::span<float>(values));
  return values;
}

/// The sequences of ids.json: lists of tokens, or pairs of source and target.
struct GoldenBatch {
  TokenRowsBuffer tokens, sources;
  std::vector<std::int32_t> targets;

  explicit GoldenBatch(const std::string& path) {
    std::ifstream in(path);
    for (const nlohmann::json& entry : nlohmann::json::parse(in)) {
      const auto ids =
          (entry.is_array() ? entry : entry["target"]).get<std::vector<std::int32_t>>();
      tokens.add(ids);
      targets.insert(targets.end(), ids.begin() + 1, ids.end());
      targets.push_back(kIgnoredTarget);
      if (entry.is_object()) sources.add(entry["source"].get<std::vector<std::int32_t>>());
    }
  }
  Batch batch() const {
    Batch batch;
    static_cast<TokenRows&>(batch) = tokens.rows();
    batch.targets = targets.data();
    if (sources.offsets().size() > 1) batch.source = sources.rows();
    return batch;
  }
};

TEST_P(Golden, LogitsLossAndGradients) {
  const GoldenBatch sequences(folder_ + "/ids.json");
  const Batch batch = sequences.batch();

  const auto model = load_model(folder_, DType::f32, TrainedPart::all);
  const SafetensorsFile expected(folder_ + "/expected.safetensors");
  Arena activations(std::int64_t{1} << 28), scratch(std::int64_t{1} << 28);
  Step step{.activations = activations, .scratch = scratch, .queue = {}};

  std::vector<float> logits(static_cast<std::size_t>(batch.rows * model->config().vocab_size));
  model->logits(step, batch,
                Tensor(logits.data(), Shape{batch.rows, model->config().vocab_size}, DType::f32));
  EXPECT_LT(relative_rms(logits, read_all(expected, "logits")), 1e-5);

  const std::int64_t count = batch.rows - batch.segments.count;
  const CrossEntropySums sums =
      model->train_step(step, batch, 1.0 / static_cast<double>(count), 0, nullptr);
  EXPECT_EQ(sums.rows, count);
  const double loss = static_cast<double>(read_all(expected, "loss")[0]);
  EXPECT_NEAR(sums.loss / static_cast<double>(count), loss, 1e-5 * loss);

  // Gradients under their names and layouts on disk: written as if they were the weights.
  Transformer gradients(model->config(), DType::f32, TrainedPart::nothing);
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
                         ::testing::Values("gpt2", "llama", "qwen2", "gpt2_t2r", "gpt2_t2r_decay",
                                           "translation", "translation_post_norm",
                                           "translation_t2r"),
                         [](const auto& param_info) { return std::string(param_info.param); });

}  // namespace
}  // namespace t2r
