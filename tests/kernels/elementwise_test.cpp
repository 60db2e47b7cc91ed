// Spans: fill, copy, add, scale, and the two reductions, against plain loops.
#include "kernels/elementwise.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <limits>

#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

// Around one piece (8192 elements) and one vector, and nothing at all.
const Shape kShapes[] = {{0, 7},  {7, 0},   {1, 1},    {31, 33},  {32, 32},
                         {3, 37}, {1, 127}, {8193, 1}, {2, 8191}, {5, 20011}};
const std::int64_t kPaddings[] = {0, 5};

std::vector<double> rounded(std::vector<double> x, DType dtype) {
  for (double& value : x) {
    if (dtype == DType::f32) value = static_cast<float>(value);
    if (dtype == DType::bf16) value = bf16(static_cast<float>(value));
  }
  return x;
}

TEST(Elementwise, FillWritesEveryElement) {
  for (DType dtype : kAllDTypes)
    for (const Shape& shape : kShapes)
      for (std::int64_t padding : kPaddings) {
        const Guarded x = poisoned(shape, dtype, padding);
        fill({}, x, 0.375);
        for (double value : values(x)) ASSERT_EQ(value, 0.375);
      }
}

TEST(Elementwise, CopyRoundsToTheOtherType) {
  for (DType to : kAllDTypes)
    for (DType from : kAllDTypes)
      for (const Shape& shape : kShapes)
        for (std::int64_t padding : kPaddings) {
          const Guarded x = random_tensor(shape, from, 1, 3, padding);
          const Guarded y = poisoned(shape, to, 3 - padding / 2);
          copy({}, y, x);
          // double to bf16 goes through float, as every conversion to bf16 does
          ASSERT_EQ(values(y), rounded(values(x), to)) << name_of(from) << " to " << name_of(to);
        }
}

TEST(Elementwise, CopyKeepsSpecialValues) {
  const Guarded x = poisoned({1, 3}, DType::f32);
  const double infinity = std::numeric_limits<double>::infinity();
  set(x, 0, 0, infinity);
  set(x, 0, 1, -infinity);
  const Guarded y = poisoned({1, 3}, DType::bf16);
  fill({}, y, 0);
  copy({}, y, x);
  EXPECT_EQ(get(y, 0, 0), infinity);
  EXPECT_EQ(get(y, 0, 1), -infinity);
  EXPECT_TRUE(std::isnan(get(y, 0, 2)));
}

TEST(Elementwise, AddAndScale) {
  for (DType to : kAllDTypes)
    for (DType from : kAllDTypes)
      for (const Shape& shape : kShapes) {
        const Guarded x = random_tensor(shape, from, 2, 1, 1);
        const Guarded y = random_tensor(shape, to, 3);
        std::vector<double> expected = values(y), add = values(x);
        for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += add[i];
        add_to({}, y, x);
        expect_close(y, expected, "add_to");
        expected = values(y);
        for (double& value : expected) value *= -1.7;
        scale_by({}, y, -1.7);
        expect_close(y, expected, "scale_by");
      }
}

TEST(Elementwise, SumOfSquaresIsTheSameForAnyNumberOfThreads) {
  const int threads = omp_get_max_threads();
  for (DType dtype : kAllDTypes)
    for (const Shape& shape : kShapes)
      for (std::int64_t padding : kPaddings) {
        const Guarded x = random_tensor(shape, dtype, 4, 1, padding);
        double expected = 0;
        for (double value : values(x)) expected += value * value;
        const double sum = sum_of_squares({}, x);
        EXPECT_NEAR(sum, expected, 1e-13 * expected);
        for (int other : {1, 3}) {
          omp_set_num_threads(other);
          EXPECT_EQ(sum, sum_of_squares({}, x));
          omp_set_num_threads(threads);
        }
      }
}

TEST(Elementwise, FirstNonFiniteFindsTheFirst) {
  for (DType dtype : kAllDTypes)
    for (std::int64_t padding : kPaddings) {
      const Guarded x = random_tensor({5, 20011}, dtype, 5, 1, padding);
      EXPECT_EQ(first_non_finite({}, x), -1);
      for (std::int64_t at : {100054, 70000, 20011, 20010, 1, 0}) {  // each before the last
        set(x, at / 20011, at % 20011,
            at % 2 ? std::nan("") : -std::numeric_limits<double>::infinity());
        EXPECT_EQ(first_non_finite({}, x), at);
      }
    }
  EXPECT_EQ(first_non_finite({}, poisoned({0}, DType::f32)), -1);
  const Guarded largest = poisoned({1}, DType::f32);
  fill({}, largest, std::numeric_limits<float>::max());
  EXPECT_EQ(first_non_finite({}, largest), -1);
}

TEST(Elementwise, ShapesMustAgree) {
  EXPECT_THROW(copy({}, poisoned({2, 3}, DType::f32), poisoned({3, 2}, DType::f32)), Error);
  EXPECT_THROW(add_to({}, poisoned({2, 3}, DType::f32), poisoned({2, 4}, DType::f32)), Error);
}

}  // namespace
}  // namespace t2r::test
