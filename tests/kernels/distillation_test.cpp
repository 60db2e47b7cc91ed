// A teacher's distribution as a target, against the definition in double, whole and in parts.
#include "kernels/distillation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/elementwise.h"
#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

struct Expected {
  double loss = 0;
  std::vector<double> gradient;
};

/// (1 - share) cross-entropy + share KL, summed over the rows that count, and its gradient.
Expected reference(const Tensor& logits, const Tensor& teacher,
                   const std::vector<std::int32_t>& targets, double share, double smoothing,
                   double scale) {
  Expected e;
  const std::int64_t columns = logits.shape[1];
  for (std::int64_t row = 0; row < logits.rows(); ++row) {
    const std::int32_t target = targets[static_cast<std::size_t>(row)];
    double z = 0, teacher_z = 0;
    for (std::int64_t j = 0; j < columns; ++j) {
      z += std::exp(get(logits, row, j));
      teacher_z += std::exp(get(teacher, row, j));
    }
    for (std::int64_t j = 0; j < columns; ++j) {
      if (target == kIgnoredTarget) {
        e.gradient.push_back(0);
        continue;
      }
      const double q = std::exp(get(logits, row, j)) / z;
      const double p = std::exp(get(teacher, row, j)) / teacher_z;
      const double y =
          smoothing / static_cast<double>(columns) + (j == target ? 1 - smoothing : 0.0);
      e.loss += (1 - share) * -y * std::log(q) + share * p * (std::log(p) - std::log(q));
      e.gradient.push_back(scale * (q - (1 - share) * y - share * p));
    }
  }
  return e;
}

TEST(Distillation, FollowsTheDefinition) {
  for (DType dtype : {DType::f64, DType::f32})
    for (const Shape& shape : {Shape{1, 2}, Shape{7, 33}, Shape{5, 1500}})
      for (double share : {1.0, 0.3})
        for (double smoothing : {0.0, 0.1})
          for (std::int64_t parts : {1, 2}) {
            const std::int64_t rows = shape[0], columns = shape[1], half = columns / 2;
            std::vector<std::int32_t> targets;
            for (std::int64_t row = 0; row < rows; ++row)
              targets.push_back(row % 5 == 3 ? kIgnoredTarget
                                             : static_cast<std::int32_t>(row * 7 % columns));
            const Guarded logits = random_tensor(shape, dtype, 1, 3, 3);
            const Guarded teacher = random_tensor(shape, dtype, 2, 3, 1);
            const Expected e = reference(logits, teacher, targets, share, smoothing, 0.25);
            const Guarded maxima = poisoned({rows}, DType::f64),
                          sums = poisoned({rows, 3}, DType::f64);
            cross_entropy_statistics({}, {maxima, sums}, teacher, targets.data(), {0, columns});
            const auto columns_of = [&](const Tensor& x, std::int64_t part) {
              return x.column_range(part == 0 ? 0 : half, parts == 1 || part == 1 ? columns : half);
            };
            double divergence = 0;
            for (std::int64_t part = 0; part < parts; ++part)
              divergence += teacher_probabilities({}, columns_of(teacher, part), {maxima, sums},
                                                  columns_of(logits, part), targets.data(),
                                                  {part * half, columns});
            const CrossEntropySums sum =
                cross_entropy({}, logits, targets.data(), smoothing, 0.25, logits);
            for (std::int64_t part = 0; part < parts; ++part)
              blend_teacher({}, columns_of(logits, part), columns_of(teacher, part), targets.data(),
                            share, smoothing, 0.25, {part * half, columns});
            const double loss = (1 - share) * sum.loss + share * (sum.nll + divergence);
            EXPECT_NEAR(loss, e.loss, (dtype == DType::f64 ? 1e-11 : 1e-4) * (1 + e.loss));
            expect_close(logits, e.gradient, "dlogits", dtype == DType::f64 ? 1e-11 : 1e-5);
          }
}

TEST(Distillation, ATeacherThatIsTheModelLeavesNothingToLearn) {
  const Guarded logits = random_tensor({4, 50}, DType::f32, 1, 5),
                teacher = random_tensor({4, 50}, DType::f32, 1, 5);
  const std::vector<std::int32_t> targets{1, 2, 3, 49};
  const Guarded maxima = poisoned({4}, DType::f64), sums = poisoned({4, 3}, DType::f64);
  cross_entropy_statistics({}, {maxima, sums}, teacher, targets.data(), {0, 50});
  const double divergence =
      teacher_probabilities({}, teacher, {maxima, sums}, logits, targets.data(), {0, 50});
  const CrossEntropySums sum = cross_entropy({}, logits, targets.data(), 0, 1, logits);
  blend_teacher({}, logits, teacher, targets.data(), 1, 0, 1, {0, 50});
  EXPECT_NEAR(sum.nll + divergence, 0, 1e-5);
  for (const double gradient : values(logits)) EXPECT_NEAR(gradient, 0, 1e-6);
}

TEST(SquaredDifference, AndItsGradient) {
  for (DType dtype : kAllDTypes)
    for (std::int64_t rows : {0, 1, 700}) {
      const Guarded x = random_tensor({rows, 9}, dtype, 1), y = random_tensor({rows, 9}, dtype, 2),
                    dx = poisoned({rows, 9}, dtype);
      double expected = 0;
      std::vector<double> gradient;
      const std::vector<double> a = values(x), b = values(y);
      for (std::size_t i = 0; i < a.size(); ++i) {
        const double d = a[i] - b[i];
        expected += d * d;
        gradient.push_back(0.5 * d);
      }
      EXPECT_NEAR(squared_difference({}, dx, x, y, 0.5), expected,
                  tolerance(dtype) * (1 + expected));
      expect_close(dx, gradient, "dx");
      if (rows > 0) {
        EXPECT_THROW(squared_difference({}, dx, x, y.tensor().row_range(0, rows - 1), 1), Error);
      }
    }
}

}  // namespace
}  // namespace t2r::test
