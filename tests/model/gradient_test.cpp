// The gradient of a whole tiny model in fp64 against central differences, for every parameter.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/elementwise.h"
#include "tests/model/tiny.h"

namespace t2r {
namespace {

using testing::tiny_model;
using testing::TinyBatch;
using testing::Variant;
using testing::variants;
using testing::Workspace;

class Gradient : public ::testing::TestWithParam<int> {};

double loss_of(Transformer& model, Workspace& work, const Batch& batch, double smoothing) {
  fill(Queue{}, model.params().all_grads(), 0);
  return model.train_step(work.step, batch, 1.0 / 20, smoothing, nullptr).loss / 20;
}

void compare_all(const ModelConfig& config, bool train, double smoothing) {
  const auto model = tiny_model(config, DType::f64, TrainedPart::all);
  TinyBatch data({5, 1, 7}, config, 11);
  const Batch batch = data.all();
  Workspace work;
  work.step.train = train;
  loss_of(*model, work, batch, smoothing);
  const Tensor grads = model->params().all_grads();
  const std::vector<double> analytic(grads.as<double>(), grads.as<double>() + grads.size());

  double* values = model->params().all_values().as<double>();
  for (int p = 0; p < model->params().count(); ++p) {
    const ParamSpec& spec = model->params().spec(ParamId{p});
    if (!model->params().trained(ParamId{p})) {
      EXPECT_THROW(model->params().grad(ParamId{p}), Error) << spec.name;
      continue;
    }
    const std::int64_t begin = model->params().offset(ParamId{p});
    double largest = 0;
    for (std::int64_t i = 0; i < spec.shape.size(); ++i) {
      const auto at = static_cast<std::size_t>(begin + i);
      const double kept = values[at], h = 1e-5;
      values[at] = kept + h;
      model->params().touch();
      const double above = loss_of(*model, work, batch, smoothing);
      values[at] = kept - h;
      model->params().touch();
      const double below = loss_of(*model, work, batch, smoothing);
      values[at] = kept;
      const double numeric = (above - below) / (2 * h);
      ASSERT_NEAR(analytic[at], numeric, 1e-6 * std::max(1.0, std::abs(numeric)))
          << spec.name << " element " << i;
      largest = std::max(largest, std::abs(analytic[at]));
    }
    const bool silent = spec.name.ends_with("k_proj.bias");
    EXPECT_TRUE(silent || largest > 1e-7) << spec.name << " has no gradient at all";
  }
}

TEST_P(Gradient, EqualsCentralDifferences) {
  compare_all(variants()[static_cast<std::size_t>(GetParam())].config, false, 0);
}

TEST_P(Gradient, EqualsCentralDifferencesWithDropoutAndSmoothing) {
  ModelConfig config = variants()[static_cast<std::size_t>(GetParam())].config;
  config.dropout = 0.2f;
  config.attention_dropout = 0.1f;
  config.activation_dropout = 0.15f;
  compare_all(config, true, 0.1);
}

INSTANTIATE_TEST_SUITE_P(Models, Gradient, ::testing::Range(0, static_cast<int>(variants().size())),
                         [](const auto& param_info) {
                           return variants()[static_cast<std::size_t>(param_info.param)].name;
                         });

TEST(LayerDrop, SkipsABlockInForwardAndBackward) {
  ModelConfig config = variants()[0].config;
  config.layers = 6;
  config.layer_drop = 0.5f;
  const auto model = tiny_model(config, DType::f64, TrainedPart::all);
  TinyBatch data({9}, config, 3);
  int skipped = 0;
  for (std::uint64_t step = 0; step < 4; ++step) {
    Workspace work;
    work.step.train = true;
    work.step.step = step;
    loss_of(*model, work, data.all(), 0);
    for (int layer = 0; layer < 6; ++layer) {
      const ParamId id =
          model->params().find("model.layers." + std::to_string(layer) + ".mlp.down_proj.weight");
      skipped += sum_of_squares(Queue{}, model->params().grad(id)) == 0;
    }
  }
  EXPECT_GT(skipped, 4);
  EXPECT_LT(skipped, 20);
}

TEST(MicroBatches, AddUpToTheWholeBatch) {
  for (const Variant& variant : variants()) {
    ModelConfig config = variant.config;
    config.dropout = 0.2f;
    config.attention_dropout = 0.1f;
    const auto model = tiny_model(config, DType::f64, TrainedPart::all);
    TinyBatch data({7, 1, 9, 4}, config, 11);
    Workspace work;
    work.step.train = true;
    const double whole = loss_of(*model, work, data.all(), 0.1);
    const Tensor grads = model->params().all_grads();
    const std::vector<double> expected(grads.as<double>(), grads.as<double>() + grads.size());
    fill(Queue{}, grads, 0);
    double parts = 0;
    for (auto [first, last] : {std::pair<std::size_t, std::size_t>{0, 1}, {1, 3}, {3, 4}})
      parts += model->train_step(work.step, data.part(first, last), 1.0 / 20, 0.1, nullptr).loss;
    EXPECT_NEAR(parts / 20, whole, 1e-12) << variant.name;
    for (std::size_t i = 0; i < expected.size(); ++i)
      ASSERT_NEAR(grads.as<double>()[i], expected[i], 1e-12) << variant.name << " at " << i;
  }
}

TEST(Precision, NarrowTypesFollowDouble) {
  for (const Variant& variant : variants()) {
    TinyBatch data({7, 1, 9, 4}, variant.config, 11);
    const auto exact = tiny_model(variant.config, DType::f64, TrainedPart::all);
    Workspace work;
    const double expected = loss_of(*exact, work, data.all(), 0);
    for (auto [dtype, tolerance] : {std::pair{DType::f32, 1e-5}, {DType::bf16, 5e-2}}) {
      const auto model = tiny_model(variant.config, dtype, TrainedPart::all);
      const double loss = loss_of(*model, work, data.all(), 0);
      EXPECT_NEAR(loss, expected, tolerance * expected) << variant.name << " " << name_of(dtype);
      double error = 0, size = 0;
      for (std::int64_t i = 0; i < exact->params().gradient_span(); ++i) {
        const double e = exact->params().all_grads().as<double>()[i];
        const double g = static_cast<double>(model->params().all_grads().as<float>()[i]);
        error += (g - e) * (g - e);
        size += e * e;
      }
      EXPECT_LT(std::sqrt(error / size), dtype == DType::f32 ? 1e-4 : 0.1)
          << variant.name << " " << name_of(dtype);
    }
  }
}

}  // namespace
}  // namespace t2r
