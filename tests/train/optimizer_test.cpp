// AdamW over the arenas against the plainest loop in double, parameter by parameter.
#include "core/train/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/base/random.h"
#include "kernels/elementwise.h"

namespace t2r {
namespace {

/// Parameters with odd sizes, so that there are gaps between them.
void build(ParamStore& params, DType dtype) {
  const auto add = [&](const char* name, Shape shape, bool decay) {
    params.add({.name = name, .shape = shape, .init = Init::normal, .weight_decay = decay});
  };
  add("a", {5, 7}, true);
  add("b", {13}, true);
  add("c", {3}, false);
  add("d", {1}, false);
  add("e", {4, 33}, true);
  params.allocate(dtype);
  params.initialize(11);
}

void set_gradients(const ParamStore& params, std::uint64_t step) {
  for (int i = 0; i < params.count(); ++i) {
    const Tensor grad = params.grad(ParamId{i});
    for (std::int64_t j = 0; j < grad.size(); ++j) {
      const double value =
          random_normal(step, static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(j));
      if (grad.dtype == DType::f64)
        grad.as<double>()[j] = value;
      else
        grad.as<float>()[j] = static_cast<float>(value);
    }
  }
}

double element(const Tensor& x, std::int64_t i) {
  return dispatch(x.dtype, [&]<class T>() { return static_cast<double>(x.as<T>()[i]); });
}

TEST(Optimizer, EqualsAPlainLoop) {
  for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
    ParamStore params{TrainedPart::all};
    build(params, dtype);
    const AdamWOptions options{.beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .weight_decay = 0.1};
    Optimizer optimizer(params, options);
    std::vector<std::vector<double>> w, m, v;
    for (int i = 0; i < params.count(); ++i) {
      const Tensor value = params.value(ParamId{i});
      w.emplace_back();
      for (std::int64_t j = 0; j < value.size(); ++j) w.back().push_back(element(value, j));
      m.emplace_back(w.back().size());
      v.emplace_back(w.back().size());
    }
    for (std::int64_t t = 1; t <= 4; ++t) {
      set_gradients(params, static_cast<std::uint64_t>(t));
      const double rate = 0.01 / static_cast<double>(t), scale = 0.7;
      for (int i = 0; i < params.count(); ++i)
        for (std::size_t j = 0; j < w[static_cast<std::size_t>(i)].size(); ++j) {
          const auto n = static_cast<std::size_t>(i);
          const double g = scale * element(params.grad(ParamId{i}), static_cast<std::int64_t>(j));
          m[n][j] = 0.8 * m[n][j] + 0.2 * g;
          v[n][j] = 0.95 * v[n][j] + 0.05 * g * g;
          const double mean = m[n][j] / (1 - std::pow(0.8, t));
          const double square = v[n][j] / (1 - std::pow(0.95, t));
          const double decay = params.spec(ParamId{i}).weight_decay ? 0.1 : 0;
          w[n][j] -= rate * (mean / (std::sqrt(square) + 1e-6) + decay * w[n][j]);
        }
      optimizer.update(Queue{}, rate, scale, t);
    }
    const double limit = dtype == DType::f64 ? 1e-12 : 3e-6;
    for (int i = 0; i < params.count(); ++i) {
      const std::int64_t offset = params.offset(ParamId{i});
      for (std::size_t j = 0; j < w[static_cast<std::size_t>(i)].size(); ++j) {
        const double expected = w[static_cast<std::size_t>(i)][j];
        const auto at = static_cast<std::int64_t>(j);
        EXPECT_NEAR(element(optimizer.master(), offset + at), expected, limit);
        // Values are the master's rounded; for bf16 that is the only place where precision is lost.
        const double value = element(params.value(ParamId{i}), at);
        EXPECT_NEAR(value, expected, dtype == DType::bf16 ? std::abs(expected) / 200 : limit);
      }
    }
  }
}

TEST(Optimizer, NewParametersHaveARateOfTheirOwn) {
  for (const double rate : {1.0, 10.0}) {
    ParamStore params{TrainedPart::all};
    params.add({.name = "old", .shape = {40}, .init = Init::ones, .weight_decay = true});
    params.add({.name = "map",
                .shape = {40},
                .init = Init::ones,
                .weight_decay = true,
                .group = ParamGroup::feature_map});
    params.add({.name = "norm", .shape = {40}, .init = Init::ones});
    params.allocate(DType::f64);
    params.initialize(1);
    fill(Queue{}, params.all_grads(), 1);
    Optimizer optimizer(params, {.weight_decay = 0.5, .new_parameter_rate = rate});
    optimizer.update(Queue{}, 1e-3, 1, 1);
    const auto moved = [&](int p) { return 1 - params.value(ParamId{p}).as<double>()[7]; };
    EXPECT_NEAR(moved(0), 1.5e-3, 1e-9);
    EXPECT_NEAR(moved(1), 1.5e-3 * rate, 1e-9);
    EXPECT_NEAR(moved(2), 1e-3, 1e-9);
  }
}

TEST(Optimizer, Bf16MastersCollectWhatRoundsAwayInBf16) {
  ParamStore params{TrainedPart::all};
  params.add({.name = "w", .shape = {1}, .init = Init::ones});
  params.allocate(DType::bf16);
  params.initialize(1);
  Optimizer optimizer(params, {});
  for (std::int64_t t = 1; t <= 100; ++t) {
    params.all_grads().as<float>()[0] = 1;
    optimizer.update(Queue{}, 1e-4, 1, t);  // 1 - 1e-4 is 1 in bf16
  }
  EXPECT_NEAR(optimizer.master().as<float>()[0], 0.99f, 1e-4f);
  EXPECT_NEAR(static_cast<float>(params.all_values().as<bf16>()[0]), 0.99f, 4e-3f);
}

TEST(Optimizer, NormAndClipping) {
  ParamStore params{TrainedPart::all};
  build(params, DType::f64);
  Optimizer optimizer(params, {});
  set_gradients(params, 3);
  double sum = 0;
  for (int i = 0; i < params.count(); ++i)
    for (std::int64_t j = 0; j < params.grad(ParamId{i}).size(); ++j)
      sum += std::pow(element(params.grad(ParamId{i}), j), 2);
  EXPECT_NEAR(optimizer.global_norm(Queue{}), std::sqrt(sum), 1e-12);
  EXPECT_DOUBLE_EQ(clip_factor(4.0, 1.0), 0.25);
  EXPECT_DOUBLE_EQ(clip_factor(0.5, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_factor(1.0, 1.0), 1.0);
  EXPECT_DOUBLE_EQ(clip_factor(100.0, 0.0), 1.0);
}

TEST(Optimizer, NamesTheFirstBadGradient) {
  for (const char* name : {"a", "c", "e"}) {
    ParamStore params{TrainedPart::all};
    build(params, DType::f32);
    Optimizer optimizer(params, {});
    EXPECT_EQ(optimizer.first_bad_gradient(), "");
    const Tensor grad = params.grad(params.find(name));
    grad.as<float>()[grad.size() - 1] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_EQ(optimizer.first_bad_gradient(), name);
    EXPECT_FALSE(std::isfinite(optimizer.global_norm(Queue{})));
  }
}

}  // namespace
}  // namespace t2r
