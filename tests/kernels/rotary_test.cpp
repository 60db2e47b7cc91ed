// Rotary positions against the plain formula, their inverse, and the property they exist for.
#include "kernels/rotary.h"

#include <numeric>

#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

std::vector<double> rotated(const Tensor& x, const std::vector<std::int32_t>& positions,
                            std::int64_t head_dim, double theta) {
  std::vector<double> result;
  each(x, [&](auto row, auto column) {
    const std::int64_t i = column % head_dim, half = head_dim / 2;
    const double angle =
        positions[static_cast<std::size_t>(row)] *
        std::pow(theta, -2.0 * static_cast<double>(i % half) / static_cast<double>(head_dim));
    const double other = i < half ? -get(x, row, column + half) : get(x, row, column - half);
    result.push_back(get(x, row, column) * std::cos(angle) + other * std::sin(angle));
  });
  return result;
}

TEST(Rotary, MatchesReference) {
  struct Case {
    std::int64_t rows, heads, head_dim;
    double theta;
  };
  // The kept sines must follow a change of head size and of theta, and grow.
  const Case cases[] = {{0, 1, 2, 1e4},   {1, 1, 2, 1e4},   {5, 3, 4, 1e4},   {5, 3, 4, 5e5},
                        {33, 2, 62, 1e4}, {31, 5, 64, 1e4}, {97, 9, 66, 1e4}, {7, 1, 4, 1e4}};
  for (DType dtype : kAllDTypes)
    for (const Case& c : cases) {
      std::vector<std::int32_t> positions;
      for (std::int64_t row = 0; row < c.rows; ++row)
        positions.push_back(static_cast<std::int32_t>((row * 37) % 101));
      const Guarded x = random_tensor({c.rows, c.heads * c.head_dim}, dtype, 1, 1, 5);
      const auto before = values(x), expected = rotated(x, positions, c.head_dim, c.theta);
      rotary({}, x, positions.data(), c.head_dim, c.theta, false);
      expect_close(x, expected, "rotated");
      rotary({}, x, positions.data(), c.head_dim, c.theta, true);
      expect_close(x, before, "rotated there and back");
    }
}

/// Positions beyond the kept sines, mixed with near ones.
TEST(Rotary, FarPositions) {
  const std::vector<std::int32_t> positions = {3, 16383, 16384, 1000000, 0, 16385};
  const Guarded x = random_tensor({6, 24}, DType::f64, 2);
  const auto expected = rotated(x, positions, 8, 1e4);
  rotary({}, x, positions.data(), 8, 1e4, false);
  expect_close(x, expected, "far", 1e-10);  // the angle itself is rounded at 1e6
}

/// Products of rotated queries and keys depend on the distance of their positions alone.
TEST(Rotary, ProductsDependOnDistance) {
  const std::int32_t first[] = {5, 2}, second[] = {105, 102};
  double products[2];
  for (int run = 0; run < 2; ++run) {
    const Guarded x = random_tensor({2, 16}, DType::f64, 3);
    rotary({}, x, run ? second : first, 16, 1e4, false);
    products[run] = 0;
    for (std::int64_t i = 0; i < 16; ++i) products[run] += get(x, 0, i) * get(x, 1, i);
  }
  EXPECT_NEAR(products[0], products[1], 1e-12);
}

/// A column range of a wider matrix: the columns beside it stay as they are.
TEST(Rotary, ColumnRange) {
  const std::vector<std::int32_t> positions = {4, 9, 2};
  const Guarded all = random_tensor({3, 30}, DType::f32, 4);
  const auto before = values(all);
  const Tensor part = all.tensor().column_range(6, 22);
  const auto expected = rotated(part, positions, 8, 1e4);
  rotary({}, part, positions.data(), 8, 1e4, false);
  expect_close(part, expected, "columns 6 to 21");
  each(all, [&](auto row, auto column) {
    if (column >= 6 && column < 22) return;
    EXPECT_EQ(get(all, row, column), before[static_cast<std::size_t>(row * 30 + column)]);
  });
}

/// The gradient of x is the inverse rotation of the gradient of y.
TEST(Rotary, Gradients) {
  const std::vector<std::int32_t> positions = {0, 1, 7};
  const Guarded x = random_tensor({3, 12}, DType::f64, 5),
                dy = random_tensor({3, 12}, DType::f64, 6);
  const Guarded dx = random_tensor({3, 12}, DType::f64, 6);
  rotary({}, dx, positions.data(), 6, 1e4, true);
  expect_gradient(
      x, dx,
      [&] {
        const auto y = rotated(x, positions, 6, 1e4);
        const auto weights = values(dy);
        return std::inner_product(y.begin(), y.end(), weights.begin(), 0.0);
      },
      "x");
}

TEST(Rotary, RefusesWrongUse) {
  const std::int32_t positions[] = {0, 1}, negative[] = {0, -1};
  const Guarded x = random_tensor({2, 12}, DType::f32, 7);
  EXPECT_THROW(rotary({}, x, positions, 3, 1e4, false), Error);
  EXPECT_THROW(rotary({}, x, positions, 0, 1e4, false), Error);
  EXPECT_THROW(rotary({}, x, positions, 8, 1e4, false), Error);
  EXPECT_THROW(rotary({}, x, positions, 4, 0, false), Error);
  EXPECT_THROW(rotary({}, x, negative, 4, 1e4, false), Error);
}

}  // namespace
}  // namespace t2r::test
