// GELU, ReLU, SiLU and SwiGLU against the standard library in double, their gradients, and extreme
// inputs.
#include "kernels/activation.h"

#include <limits>

#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

constexpr Activation kPointwise[] = {Activation::gelu_tanh, Activation::gelu_erf, Activation::relu,
                                     Activation::silu};

const Shape kShapes[] = {{0, 5}, {1, 1}, {3, 31}, {2, 32}, {5, 33}, {1, 20011}, {7, 2049}};

double plain(Activation kind, double x) {
  switch (kind) {
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case Activation::gelu_erf:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::silu:
      return x / (1 + std::exp(-x));
    default:
      return std::max(x, 0.0);
  }
}

double plain_slope(Activation kind, double x) {
  switch (kind) {
    case Activation::gelu_tanh: {
      const double t = std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x));
      return 0.5 * (1 + t) +
             0.5 * x * (1 - t * t) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
    }
    case Activation::gelu_erf:
      return 0.5 * std::erfc(-x / std::sqrt(2.0)) + x * std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
    case Activation::silu: {
      const double s = 1 / (1 + std::exp(-x));
      return s * (1 + x * (1 - s));
    }
    default:
      return x > 0 ? 1 : 0;
  }
}

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

template <class F>
std::vector<double> map(const Tensor& x, F&& f) {
  std::vector<double> result;
  each(x, [&](auto row, auto column) { result.push_back(f(row, column)); });
  return result;
}

TEST(Activation, MatchesReference) {
  for (DType dtype : kAllDTypes)
    for (Activation kind : kPointwise)
      for (const Shape& shape : kShapes)
        for (std::int64_t padding : {0, 3}) {
          const Guarded x = random_tensor(shape, dtype, 1, 3, padding);
          const Guarded dy = random_tensor(shape, dtype, 2, 1, padding);
          const Guarded y = poisoned(shape, dtype, padding), dx = poisoned(shape, dtype);
          activation_forward({}, kind, y, x);
          activation_backward({}, kind, dx, dy, x);
          const auto expected_dx = map(x, [&](auto row, auto column) {
            return get(dy, row, column) * plain_slope(kind, get(x, row, column));
          });
          expect_close(y, map(x, [&](auto r, auto c) { return plain(kind, get(x, r, c)); }), "y");
          expect_close(dx, expected_dx, "dx");
          activation_backward({}, kind, dy, dy, x);  // in place
          expect_close(dy, expected_dx, "dx in place of dy");
        }
}

/// Element by element, so that a wrong tail cannot hide behind large values.
TEST(Activation, TailsAreAccurateInFloat) {
  for (Activation kind : {Activation::gelu_tanh, Activation::gelu_erf}) {
    const Guarded x = poisoned({1, 1201}, DType::f32), y = poisoned({1, 1201}, DType::f32);
    each(x, [&](auto, auto i) { set(x, 0, i, -6 + 0.01 * static_cast<double>(i)); });
    activation_forward({}, kind, y, x);
    each(x, [&](auto, auto i) {
      const double expected = plain(kind, get(x, 0, i));
      EXPECT_NEAR(get(y, 0, i), expected, 2e-5 * std::abs(expected) + 1e-12) << get(x, 0, i);
    });
  }
}

TEST(Activation, ExtremeInputsStayFinite) {
  const double extremes[] = {0, -0.0, 1e-30, 20, -20, 64, -64, 1e4, -1e4, 1e19, -1e19, 1e30, -1e30};
  for (DType dtype : kAllDTypes)
    for (Activation kind : kPointwise) {
      const Guarded x = poisoned({1, 13}, dtype), y = poisoned({1, 13}, dtype);
      const Guarded dy = random_tensor({1, 13}, dtype, 3), dx = poisoned({1, 13}, dtype);
      each(x, [&](auto, auto i) { set(x, 0, i, extremes[i]); });
      activation_forward({}, kind, y, x);
      activation_backward({}, kind, dx, dy, x);
      each(x, [&](auto, auto i) {
        EXPECT_TRUE(std::isfinite(get(y, 0, i))) << extremes[i];
        EXPECT_TRUE(std::isfinite(get(dx, 0, i))) << extremes[i];
        const double size = std::abs(extremes[i]);
        if (size < 20) return;
        // SiLU is x exp(x) there, which is not yet nothing.
        const double tail =
            1e-30 + (kind == Activation::silu ? 4 * size * std::exp(-std::min(size, 64.0)) : 0);
        EXPECT_NEAR(get(y, 0, i), std::max(get(x, 0, i), 0.0), tail) << extremes[i];
        EXPECT_NEAR(get(dx, 0, i), extremes[i] > 0 ? get(dy, 0, i) : 0, tail) << extremes[i];
      });
    }
}

TEST(Activation, NotANumberIsNotHidden) {
  for (DType dtype : kAllDTypes)
    for (Activation kind : kPointwise) {
      const Guarded x = poisoned({1, 40}, dtype), y = random_tensor({1, 40}, dtype, 4);
      activation_forward({}, kind, y, x);
      each(y, [&](auto, auto i) { EXPECT_TRUE(std::isnan(get(y, 0, i))); });
    }
}

TEST(Activation, Gradients) {
  for (Activation kind : kPointwise) {
    const Guarded x = random_tensor({3, 7}, DType::f64, 5),
                  dy = random_tensor({3, 7}, DType::f64, 6);
    const Guarded y = poisoned({3, 7}, DType::f64), dx = poisoned({3, 7}, DType::f64);
    activation_backward({}, kind, dx, dy, x);
    expect_gradient(
        x, dx,
        [&] {
          activation_forward({}, kind, y, x);
          return dot(y, dy);
        },
        "x");
  }
}

TEST(Swiglu, MatchesReference) {
  for (DType dtype : kAllDTypes)
    for (const Shape& shape : kShapes)
      for (std::int64_t padding : {0, 3}) {
        const std::int64_t n = shape[1];
        const Guarded in = random_tensor({shape[0], 2 * n}, dtype, 7, 3, padding);
        const Guarded dy = random_tensor(shape, dtype, 8, 1, padding);
        const Guarded y = poisoned(shape, dtype, padding);
        const Guarded din = poisoned({shape[0], 2 * n}, dtype, padding);
        swiglu_forward({}, y, in);
        swiglu_backward({}, din, dy, in);
        expect_close(y,
                     map(y,
                         [&](auto row, auto i) {
                           const double g = get(in, row, i);
                           return g * sigmoid(g) * get(in, row, n + i);
                         }),
                     "y");
        expect_close(din,
                     map(in,
                         [&](auto row, auto i) {
                           const double g = get(in, row, i % n), s = sigmoid(g);
                           const double d = get(dy, row, i % n);
                           if (i >= n) return d * g * s;
                           return d * get(in, row, n + i) * s * (1 + g * (1 - s));
                         }),
                     "gradient");
      }
}

TEST(Swiglu, Gradients) {
  const Guarded in = random_tensor({3, 10}, DType::f64, 9),
                dy = random_tensor({3, 5}, DType::f64, 10);
  const Guarded y = poisoned({3, 5}, DType::f64), din = poisoned({3, 10}, DType::f64);
  swiglu_backward({}, din, dy, in);
  expect_gradient(
      in, din,
      [&] {
        swiglu_forward({}, y, in);
        return dot(y, dy);
      },
      "gate and up");
}

TEST(Swiglu, LargeGatesStayFinite) {
  for (DType dtype : kAllDTypes) {
    const Guarded in = poisoned({1, 4}, dtype), y = poisoned({1, 2}, dtype);
    const Guarded dy = random_tensor({1, 2}, dtype, 11), din = poisoned({1, 4}, dtype);
    const double contents[] = {-1e4, 1e4, 2, 2};
    each(in, [&](auto, auto i) { set(in, 0, i, contents[i]); });
    swiglu_forward({}, y, in);
    swiglu_backward({}, din, dy, in);
    EXPECT_EQ(get(y, 0, 0), 0);
    EXPECT_EQ(get(y, 0, 1), 2 * get(in, 0, 1));
    each(din, [&](auto, auto i) { EXPECT_TRUE(std::isfinite(get(din, 0, i))) << i; });
  }
}

TEST(Activation, RefusesWrongUse) {
  const Guarded x = random_tensor({2, 6}, DType::f32, 12), y = poisoned({2, 6}, DType::f32);
  const Guarded other = poisoned({2, 5}, DType::f32), half = poisoned({2, 6}, DType::bf16);
  EXPECT_THROW(activation_forward({}, Activation::swiglu, y, x), Error);
  EXPECT_THROW(activation_forward({}, Activation::relu, other, x), Error);
  EXPECT_THROW(activation_forward({}, Activation::relu, half, x), Error);
  EXPECT_THROW(activation_backward({}, Activation::relu, y, other, x), Error);
  EXPECT_THROW(swiglu_forward({}, other, x), Error);
  EXPECT_THROW(swiglu_backward({}, other, poisoned({2, 3}, DType::f32), x), Error);
}

}  // namespace
}  // namespace t2r::test
