// AdamW against the textbook update in double, over several steps.
#include "kernels/adamw.h"

#include <gtest/gtest.h>

#include "kernels/elementwise.h"
#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

/// Loshchilov and Hutter 2019, algorithm 2, one element at a time.
void reference(std::vector<double>& x, const std::vector<double>& grads, std::vector<double>& m,
               std::vector<double>& v, const AdamWStep& s) {
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double g = grads[i] * s.grad_scale;
    m[i] = s.beta1 * m[i] + (1 - s.beta1) * g;
    v[i] = s.beta2 * v[i] + (1 - s.beta2) * g * g;
    const double m_hat = m[i] / (1 - std::pow(s.beta1, s.step));
    const double v_hat = v[i] / (1 - std::pow(s.beta2, s.step));
    x[i] -= s.learning_rate * (m_hat / (std::sqrt(v_hat) + s.eps) + s.weight_decay * x[i]);
  }
}

TEST(AdamW, FollowsTheReference) {
  for (DType dtype : kAllDTypes)
    for (std::int64_t count : {0, 1, 31, 32, 33, 20011}) {
      const DType wide = accumulate_dtype(dtype);
      const Shape shape{count};
      const Guarded values_ = poisoned(shape, dtype);
      const Guarded master = random_tensor(shape, wide, 1, 0.1);
      const Guarded m = poisoned(shape, wide), v = poisoned(shape, wide);
      fill({}, m, 0);
      fill({}, v, 0);
      std::vector<double> x = values(master), m_expected = values(m), v_expected = values(v);
      AdamWStep step{.learning_rate = 3e-2, .beta2 = 0.98, .weight_decay = 0.1, .grad_scale = 0.7};
      for (step.step = 1; step.step <= 4; ++step.step) {
        const Guarded grads = random_tensor(shape, wide, 10 + step.step, 1e-2);
        reference(x, values(grads), m_expected, v_expected, step);
        adamw({}, values_, master, grads, m, v, step);
      }
      const double limit = dtype == DType::f64 ? 1e-12 : 1e-5;  // master weights are fp32
      expect_close(master, x, "master", limit);
      expect_close(m, m_expected, "m", limit);
      expect_close(v, v_expected, "v", limit);
      const Guarded rounded = poisoned(shape, dtype);
      copy({}, rounded, master);
      EXPECT_EQ(values(values_), values(rounded));
    }
}

TEST(AdamW, MasterMayBeTheValues) {
  const Shape shape{1003};
  const Guarded x = random_tensor(shape, DType::f32, 1), other = poisoned(shape, DType::f32);
  const Guarded master = random_tensor(shape, DType::f32, 1);
  const Guarded grads = random_tensor(shape, DType::f32, 2);
  const Guarded m1 = random_tensor(shape, DType::f32, 3), m2 = random_tensor(shape, DType::f32, 3);
  const Guarded v1 = poisoned(shape, DType::f32), v2 = poisoned(shape, DType::f32);
  fill({}, v1, 0.5);
  fill({}, v2, 0.5);
  const AdamWStep step{.learning_rate = 0.1, .weight_decay = 0.01, .step = 7};
  adamw({}, x, x, grads, m1, v1, step);
  adamw({}, other, master, grads, m2, v2, step);
  EXPECT_EQ(values(x), values(master));
  EXPECT_EQ(values(x), values(other));
}

TEST(AdamW, RejectsWrongSpans) {
  const Guarded x = random_tensor({4}, DType::f32, 1), y = random_tensor({5}, DType::f32, 1);
  const Guarded wide = random_tensor({4}, DType::f64, 1);
  EXPECT_THROW(adamw({}, x, x, y, x, x, {}), Error);
  EXPECT_THROW(adamw({}, x, x, wide, x, x, {}), Error);
  EXPECT_THROW(adamw({}, x, x, x, x, x, {.step = 0}), Error);
}

}  // namespace
}  // namespace t2r::test
