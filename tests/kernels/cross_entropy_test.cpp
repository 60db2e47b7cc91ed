// Cross-entropy: against the definition in double, its gradient, ignored rows, bad targets.
#include "kernels/cross_entropy.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <limits>

#include "kernels/elementwise.h"
#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

std::vector<std::int32_t> random_targets(std::int64_t rows, std::int64_t columns) {
  std::vector<std::int32_t> targets;
  for (std::int64_t row = 0; row < rows; ++row) {
    const double u = random_uniform(9, 9, static_cast<std::uint64_t>(row));
    targets.push_back(row % 5 == 3 ? kIgnoredTarget
                                   : static_cast<std::int32_t>(u * static_cast<double>(columns)));
  }
  return targets;
}

struct Expected {
  CrossEntropySums sums;
  std::vector<double> gradient;
};

Expected reference(const Tensor& logits, const std::vector<std::int32_t>& targets, double smoothing,
                   double scale) {
  Expected e;
  const std::int64_t columns = logits.shape[1];
  for (std::int64_t row = 0; row < logits.shape[0]; ++row) {
    const std::int32_t target = targets[static_cast<std::size_t>(row)];
    if (target == kIgnoredTarget) {
      e.gradient.insert(e.gradient.end(), static_cast<std::size_t>(columns), 0.0);
      continue;
    }
    double total = 0;
    for (std::int64_t j = 0; j < columns; ++j) total += std::exp(get(logits, row, j));
    ++e.sums.rows;
    for (std::int64_t j = 0; j < columns; ++j) {
      const double log_p = get(logits, row, j) - std::log(total);
      const double share =
          smoothing / static_cast<double>(columns) + (j == target ? 1 - smoothing : 0.0);
      e.sums.loss -= share * log_p;
      if (j == target) e.sums.nll -= log_p;
      e.gradient.push_back(scale * (std::exp(log_p) - share));
    }
  }
  return e;
}

TEST(CrossEntropy, FollowsTheDefinition) {
  for (DType dtype : kAllDTypes)
    for (DType gradient_dtype : {dtype, accumulate_dtype(dtype), DType::bf16})
      for (const Shape& shape : {Shape{0, 5}, Shape{1, 1}, Shape{7, 2}, Shape{33, 31},
                                 Shape{4, 1024}, Shape{6, 1025}, Shape{11, 5003}})
        for (double smoothing : {0.0, 0.1}) {
          const auto targets = random_targets(shape[0], shape[1]);
          const Guarded logits = random_tensor(shape, dtype, 1, 4, 3);
          const Expected e = reference(logits, targets, smoothing, 0.25);
          const Guarded gradient = poisoned(shape, gradient_dtype, 1);
          const auto sums = cross_entropy({}, logits, targets.data(), smoothing, 0.25, gradient);
          const double limit = dtype == DType::f64 ? 1e-12 : 1e-5;
          EXPECT_NEAR(sums.loss, e.sums.loss, limit * (1 + e.sums.loss));
          EXPECT_NEAR(sums.nll, e.sums.nll, limit * (1 + e.sums.nll));
          EXPECT_EQ(sums.rows, e.sums.rows);
          expect_close(gradient, e.gradient, "dlogits", std::max(limit, tolerance(gradient_dtype)));
          // No gradient asked for: the same loss. In place: the same gradient.
          const auto only = cross_entropy({}, logits, targets.data(), smoothing, 0.25, {});
          EXPECT_EQ(only.loss, sums.loss);
          if (gradient_dtype == dtype) {
            cross_entropy({}, logits, targets.data(), smoothing, 0.25, logits);
            EXPECT_EQ(values(logits), values(gradient));
          }
        }
}

/// Columns [cuts[i], cuts[i + 1]) as if each lay on a rank of its own.
TEST(CrossEntropy, PartsOfTheVocabularyGiveTheWhole) {
  for (DType dtype : {DType::f64, DType::f32})
    for (double smoothing : {0.0, 0.1})
      for (const std::vector<std::int64_t>& cuts :
           {std::vector<std::int64_t>{0, 31}, {0, 1, 31}, {0, 10, 20, 31}, {0, 15, 16, 17, 31}}) {
        const std::int64_t rows = 23, columns = 31;
        const auto targets = random_targets(rows, columns);
        const Guarded logits = random_tensor({rows, columns}, dtype, 4, 6);
        const Expected e = reference(logits, targets, smoothing, 0.25);
        const std::size_t ranks = cuts.size() - 1;
        std::vector<Guarded> maxima, sums;
        const auto here = [&](std::size_t r) {
          return logits.tensor().column_range(cuts[r], cuts[r + 1]);
        };
        const auto part = [&](std::size_t r) { return VocabularyPart{cuts[r], columns}; };
        const Guarded largest = poisoned({rows}, DType::f64),
                      total = poisoned({rows, 3}, DType::f64);
        fill({}, largest, -1e300);
        fill({}, total, 0);
        for (std::size_t r = 0; r < ranks; ++r) {
          maxima.push_back(poisoned({rows}, DType::f64));
          sums.push_back(poisoned({rows, 3}, DType::f64));
          cross_entropy_statistics({}, {maxima[r], sums[r]}, here(r), targets.data(), part(r));
          for (std::int64_t row = 0; row < rows; ++row) {
            double& most = largest.tensor().as<double>()[row];
            most = std::max(most, maxima[r].tensor().as<double>()[row]);
          }
        }
        for (std::size_t r = 0; r < ranks; ++r) {
          cross_entropy_rescale({}, {maxima[r], sums[r]}, largest, targets.data(),
                                cuts[r + 1] - cuts[r], part(r));
          add_to({}, total, sums[r]);
        }
        const double limit = dtype == DType::f64 ? 1e-12 : 1e-5;
        const Guarded gradient = poisoned({rows, columns}, dtype);
        for (std::size_t r = 0; r < ranks; ++r) {
          const auto got =
              cross_entropy_finish({}, {maxima[r], total}, here(r), targets.data(), smoothing, 0.25,
                                   gradient.tensor().column_range(cuts[r], cuts[r + 1]), part(r));
          EXPECT_NEAR(got.loss, e.sums.loss, limit * (1 + e.sums.loss));
          EXPECT_NEAR(got.nll, e.sums.nll, limit * (1 + e.sums.nll));
          EXPECT_EQ(got.rows, e.sums.rows);
        }
        expect_close(gradient, e.gradient, "dlogits", std::max(limit, tolerance(dtype)));
      }
}

TEST(CrossEntropy, GradientByCentralDifferences) {
  const auto targets = random_targets(7, 13);
  for (double smoothing : {0.0, 0.3}) {
    const Guarded logits = random_tensor({7, 13}, DType::f64, 2, 2);
    const Guarded gradient = poisoned({7, 13}, DType::f64);
    const auto loss = [&] {
      return 0.5 * cross_entropy({}, logits, targets.data(), smoothing, 1, {}).loss;
    };
    cross_entropy({}, logits, targets.data(), smoothing, 0.5, gradient);
    expect_gradient(logits, gradient, loss, "logits");
  }
}

TEST(CrossEntropy, LargeLogitsAndPaddingColumns) {
  const double infinity = std::numeric_limits<double>::infinity();
  for (DType dtype : kAllDTypes) {
    const Guarded logits = poisoned({1, 4}, dtype), gradient = poisoned({1, 4}, dtype);
    const double row[] = {1000, 1000, -1000, -infinity};
    for (std::int64_t j = 0; j < 4; ++j) set(logits, 0, j, row[j]);
    const std::int32_t target = 1;
    const auto sums = cross_entropy({}, logits, &target, 0, 1, gradient);
    EXPECT_NEAR(sums.loss, std::log(2.0), 1e-6);
    EXPECT_EQ(values(gradient), (std::vector<double>{0.5, -0.5, 0, 0}));
  }
}

TEST(CrossEntropy, NonFiniteLogitsShowInTheLoss) {
  for (double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    const Guarded logits = random_tensor({3, 40}, DType::f32, 3);
    set(logits, 1, 17, bad);
    const std::vector<std::int32_t> targets{1, 2, 3};
    EXPECT_FALSE(std::isfinite(cross_entropy({}, logits, targets.data(), 0.1, 1, {}).loss));
  }
}

TEST(CrossEntropy, IsTheSameForAnyNumberOfThreads) {
  const int threads = omp_get_max_threads();
  const Guarded logits = random_tensor({67, 1009}, DType::f32, 4);
  const auto targets = random_targets(67, 1009);
  const double loss = cross_entropy({}, logits, targets.data(), 0.1, 1, {}).loss;
  for (int other : {1, 3}) {
    omp_set_num_threads(other);
    EXPECT_EQ(loss, cross_entropy({}, logits, targets.data(), 0.1, 1, {}).loss);
    omp_set_num_threads(threads);
  }
}

TEST(CrossEntropy, RejectsBadTargets) {
  const Guarded logits = random_tensor({2, 10}, DType::f32, 5);
  for (std::int32_t bad : {10, -2}) {
    const std::vector<std::int32_t> targets{3, bad};
    EXPECT_THROW(cross_entropy({}, logits, targets.data(), 0, 1, {}), Error);
  }
}

}  // namespace
}  // namespace t2r::test
