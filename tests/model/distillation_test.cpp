// Learning from a teacher and from softmax attention: gradients against central differences, and
// what stays untouched.
#include "core/model/distillation.h"

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

/// The gradient at every `stride`th element against central differences of `loss`, which leaves
/// gradients in the model.
template <class Loss>
void compare(Transformer& model, std::int64_t stride, const Loss& loss) {
  loss();
  const Tensor grads = model.params().all_grads();
  const std::vector<double> analytic(grads.as<double>(), grads.as<double>() + grads.size());
  double* values = model.params().all_values().as<double>();
  for (int p = 0; p < model.params().count(); ++p) {
    const ParamSpec& spec = model.params().spec(ParamId{p});
    if (!spec.trainable) continue;
    const std::int64_t begin = model.params().offset(ParamId{p});
    for (std::int64_t i = begin; i < begin + spec.shape.size(); i += stride) {
      const auto shifted = [&](double h) {
        const double kept = values[i];
        values[i] = kept + h;
        model.params().touch();
        const double value = loss();
        values[i] = kept;
        model.params().touch();
        return value;
      };
      const double numeric = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
      ASSERT_NEAR(analytic[static_cast<std::size_t>(i)], numeric,
                  1e-6 * std::max(1.0, std::abs(numeric)))
          << spec.name << " element " << i - begin;
    }
  }
}

bool belongs_to_map(const std::string& name) {
  return name.find(".phi.") != std::string::npos || name.ends_with(".decay") ||
         name.ends_with(".window_gate");
}

TEST(Teacher, GradientEqualsCentralDifferences) {
  for (const Variant& variant : variants()) {
    if (variant.config.linear_layers.empty()) continue;
    SCOPED_TRACE(variant.name);
    ModelConfig softmax = variant.config;
    softmax.linear_layers.clear();
    for (const double share : {1.0, 0.4}) {
      Teacher teacher(tiny_model(softmax, DType::f64, TrainedPart::nothing, 9), share);
      const auto model = tiny_model(variant.config, DType::f64, TrainedPart::all);
      TinyBatch data({5, 1, 7}, variant.config, 11);
      const Batch batch = data.all();
      Workspace work;
      work.step.teacher = &teacher;
      compare(*model, 5, [&] {
        fill(Queue{}, model->params().all_grads(), 0);
        return model->train_step(work.step, batch, 0.1, 0.1, nullptr).loss * 0.1;
      });
    }
  }
}

TEST(Teacher, OfTheSameWeightsGivesNoGradient) {
  const ModelConfig config = variants()[0].config;
  Teacher teacher(tiny_model(config, DType::f64, TrainedPart::nothing), 1);
  const auto model = tiny_model(config, DType::f64, TrainedPart::all);
  TinyBatch data({5, 1, 7}, config, 11);
  Workspace work;
  work.step.teacher = &teacher;
  EXPECT_NEAR(model->train_step(work.step, data.all(), 1, 0, nullptr).loss, 0, 1e-12);
  EXPECT_LT(sum_of_squares(Queue{}, model->params().all_grads()), 1e-24);
}

TEST(Teacher, RefusesAShareOfNothing) {
  for (const double share : {0.0, -1.0, 1.5})
    EXPECT_THROW(Teacher(tiny_model(variants()[0].config, DType::f32, TrainedPart::nothing), share),
                 Error);
}

TEST(Transfer, GradientEqualsCentralDifferencesAndStaysInTheMaps) {
  for (const Variant& variant : variants()) {
    if (variant.config.linear_layers.empty()) continue;
    SCOPED_TRACE(variant.name);
    const auto model = tiny_model(variant.config, DType::f64, TrainedPart::all);
    TinyBatch data({5, 1, 7}, variant.config, 11);
    const Batch batch = data.all();
    Workspace work;
    Transfer transfer;
    const auto loss = [&] {
      fill(Queue{}, model->params().all_grads(), 0);
      transfer = {0.05, std::vector<Transfer::Layer>(model->transfer_layers()), 0};
      work.step.train = true;  // no dropout all the same
      model->transfer_step(work.step, batch, transfer);
      double sum = 0;
      for (const Transfer::Layer& layer : transfer.layers) sum += layer.error;
      return 0.05 * sum;
    };
    loss();
    std::vector<std::string> touched;
    for (int p = 0; p < model->params().count(); ++p) {
      const std::string& name = model->params().spec(ParamId{p}).name;
      if (!model->params().trained(ParamId{p})) continue;
      EXPECT_EQ(sum_of_squares(Queue{}, model->params().grad(ParamId{p})) > 0, belongs_to_map(name))
          << name;
    }
    for (const Transfer::Layer& layer : transfer.layers) EXPECT_GT(layer.target, 0);
    // Only what belongs to maps: other parameters move the target too, on purpose without gradient.
    double* values = model->params().all_values().as<double>();
    const Tensor grads = model->params().all_grads();
    const std::vector<double> analytic(grads.as<double>(), grads.as<double>() + grads.size());
    for (int p = 0; p < model->params().count(); ++p) {
      const ParamSpec& spec = model->params().spec(ParamId{p});
      const bool map = belongs_to_map(spec.name);
      if (!map || !spec.trainable) continue;
      for (std::int64_t i = 0; i < spec.shape.size(); i += 3) {
        const std::int64_t at = model->params().offset(ParamId{p}) + i;
        const double kept = values[at];
        values[at] = kept + 1e-5;
        const double above = loss();
        values[at] = kept - 1e-5;
        const double below = loss();
        values[at] = kept;
        const double numeric = (above - below) / 2e-5;
        ASSERT_NEAR(analytic[static_cast<std::size_t>(at)], numeric,
                    1e-6 * std::max(1.0, std::abs(numeric)))
            << spec.name << " element " << i;
      }
    }
  }
}

TEST(Transfer, SoftmaxGoesOnThroughThePass) {
  // With its layers' attention replaced by softmax, a swapped model is the one it came from.
  const Variant variant = testing::language_models()[6];
  ModelConfig softmax = variant.config;
  softmax.linear_layers.clear();
  const auto teacher = tiny_model(softmax, DType::f64, TrainedPart::nothing);
  Transformer model(variant.config, DType::f64, TrainedPart::all);
  transfer_weights(*teacher, model, 3);
  TinyBatch data({5, 9}, variant.config, 11);
  Workspace work;
  Transfer transfer{1, std::vector<Transfer::Layer>(model.transfer_layers()), 0};
  model.transfer_step(work.step, data.all(), transfer);
  // The second layer's target depends on the first layer's output, and not on its map.
  const double target = transfer.layers[1].target;
  model.params().initialize(77);
  transfer_weights(*teacher, model, 4);
  Transfer again{1, std::vector<Transfer::Layer>(model.transfer_layers()), 0};
  model.transfer_step(work.step, data.all(), again);
  EXPECT_EQ(again.layers[1].target, target);
  EXPECT_NE(again.layers[1].error, transfer.layers[1].error);
}

}  // namespace
}  // namespace t2r
