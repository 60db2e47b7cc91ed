// exp, tanh and sigmoid of vector_math.h against the standard library in double.
#include "kernels/vector_math.h"

#include <gtest/gtest.h>

#include <limits>

namespace t2r::test {
namespace {

/// The largest relative error of f over [low, high].
template <class F, class G>
double worst(F f, G exact, float low, float high) {
  double error = 0;
  for (int i = 0; i <= 200000; ++i) {
    const float x = low + (high - low) * static_cast<float>(i) / 200000;
    const double expected = exact(static_cast<double>(x));
    if (expected == 0) continue;
    const double relative = std::abs(f(x) - expected) / std::abs(expected);
    if (!(relative <= error)) error = relative;
  }
  return error;
}

TEST(VectorMath, RelativeErrors) {
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  EXPECT_LT(worst(
                fast_exp<float>, [](double x) { return std::exp(x); }, -87.3f, 88.3f),
            1.2e-7);
  EXPECT_LT(worst(
                fast_tanh<float>, [](double x) { return std::tanh(x); }, -12, 12),
            2e-7);
  EXPECT_LT(worst(
                fast_tanh<float>, [](double x) { return std::tanh(x); }, -1e-3f, 1e-3f),
            2e-7);
  EXPECT_LT(worst(fast_sigmoid<float>, sigmoid, -80, 40), 2.5e-7);
}

TEST(VectorMath, Ends) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
  for (float x : {88.5f, 1e4f, 1e30f, kInfinity}) {
    EXPECT_EQ(fast_exp(x), kInfinity);
    EXPECT_EQ(fast_exp(-x), 0);
    EXPECT_EQ(fast_tanh(x), 1);
    EXPECT_EQ(fast_tanh(-x), -1);
    EXPECT_EQ(fast_sigmoid(x), 1);
    EXPECT_EQ(fast_sigmoid(-x), 0);
  }
  EXPECT_EQ(fast_exp(0.0f), 1);
  EXPECT_TRUE(std::isnan(fast_exp(kNaN)));
  EXPECT_TRUE(std::isnan(fast_tanh(kNaN)));
  EXPECT_TRUE(std::isnan(fast_sigmoid(kNaN)));
}

TEST(VectorMath, DoubleIsTheStandardLibrary) {
  EXPECT_EQ(fast_exp(1.25), std::exp(1.25));
  EXPECT_EQ(fast_tanh(1.25), std::tanh(1.25));
  EXPECT_EQ(fast_sigmoid(1.25), 1 / (1 + std::exp(-1.25)));
}

}  // namespace
}  // namespace t2r::test
