// Dropout against its definition element by element, its rate, and its independence of how rows are
// distributed.
#include "kernels/dropout.h"

#include <omp.h>

#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

// Around the four lanes of one draw, vector widths, and the pieces that rows are cut into.
const Shape kShapes[] = {{0, 4},  {1, 1},  {3, 2},    {5, 3},    {7, 5},    {2, 31},
                         {3, 32}, {4, 33}, {2, 2047}, {2, 2049}, {3, 4101}, {64, 768}};

/// The factor of element (row, column) by the definition in the header.
double factor(const Dropout& dropout, std::int64_t row, std::int64_t column, std::int64_t n) {
  if (dropout.rate == 0) return 1;
  const std::int64_t global = dropout.row_ids ? dropout.row_ids[row] : row;
  const auto e = static_cast<std::uint64_t>(global * n + column);
  const float u = to_uniform(random_bits(dropout.seed, dropout.stream, e / 4)[e % 4]);
  return u >= dropout.rate ? 1 / (1 - static_cast<double>(dropout.rate)) : 0;
}

TEST(Dropout, ColumnsOnSeveralRanksAreThoseOfTheWhole) {
  const std::int64_t rows = 9, columns = 101;
  const Guarded x = random_tensor({rows, columns}, DType::f32, 1);
  const Guarded whole = poisoned({rows, columns}, DType::f32),
                parts = poisoned({rows, columns}, DType::f32);
  dropout_add_forward({}, whole, x, Tensor(), {0.4f, 7, 8, nullptr});
  for (const auto& [first, last] : {std::pair{0, 33}, {33, 34}, {34, 101}})
    dropout_add_forward({}, parts.tensor().column_range(first, last),
                        x.tensor().column_range(first, last), Tensor(),
                        {0.4f, 7, 8, nullptr, first, columns});
  EXPECT_EQ(values(parts), values(whole));
}

TEST(Dropout, MatchesReference) {
  for (DType dtype : kAllDTypes)
    for (const Shape& shape : kShapes)
      for (float rate : {0.0f, 0.1f, 0.5f, 0.97f})
        for (bool scattered : {false, true}) {
          SCOPED_TRACE(shape.text());
          std::vector<std::int64_t> row_ids;
          for (std::int64_t row = 0; row < shape[0]; ++row)
            row_ids.push_back((shape[0] - row) * 3 + (std::int64_t{1} << 33));
          const Dropout dropout{rate, 0x123456789abcdefull, 0xfedcba987654321ull,
                                scattered ? row_ids.data() : nullptr};
          const std::int64_t padding = scattered ? 3 : 0;
          const Guarded x = random_tensor(shape, dtype, 1, 1, padding);
          const Guarded residual = random_tensor(shape, dtype, 2, 1, padding);
          const Guarded y = poisoned(shape, dtype, padding), dx = poisoned(shape, dtype);
          std::vector<double> masked, sum;
          each(x, [&](auto row, auto column) {
            masked.push_back(get(x, row, column) * factor(dropout, row, column, shape[1]));
            sum.push_back(get(residual, row, column) + masked.back());
          });
          dropout_add_forward({}, y, x, residual, dropout);
          expect_close(y, sum, "y");
          dropout_backward({}, dx, x, dropout);
          expect_close(dx, masked, "dx");
          dropout_add_forward({}, dx, x, Tensor(), dropout);
          expect_close(dx, masked, "y without residual");
          dropout_add_forward({}, residual, x, residual, dropout);
          expect_close(residual, sum, "y in place of the residual");
          dropout_backward({}, x, x, dropout);
          expect_close(x, masked, "dx in place of dy");
        }
}

TEST(Dropout, KeepsTheRightShare) {
  const Guarded x = poisoned({100, 1000}, DType::f32), y = poisoned({100, 1000}, DType::f32);
  each(x, [&](auto row, auto column) { set(x, row, column, 1); });
  for (float rate : {0.1f, 0.3f}) {
    dropout_add_forward({}, y, x, Tensor(), Dropout{rate, 5, 6});
    double kept = 0, total = 0;
    for (double v : values(y)) {
      kept += v != 0;
      total += v;
    }
    const double sigma = std::sqrt(rate * (1 - rate) * 1e5);
    EXPECT_NEAR(kept, (1 - rate) * 1e5, 4 * sigma);
    EXPECT_NEAR(total / 1e5, 1, 4 * sigma / ((1 - rate) * 1e5));
  }
}

/// A rank that holds some rows of the whole draws for them what one rank alone would draw.
TEST(Dropout, RowsAreIndependentOfTheirPlace) {
  const Shape whole{8, 37};
  const Guarded x = random_tensor(whole, DType::f32, 3), y = poisoned(whole, DType::f32);
  dropout_add_forward({}, y, x, Tensor(), Dropout{0.4f, 7, 8});
  const std::int64_t mine[] = {5, 2, 7};
  const Guarded part = poisoned({3, 37}, DType::f32), out = poisoned({3, 37}, DType::f32);
  each(part, [&](auto row, auto column) { set(part, row, column, get(x, mine[row], column)); });
  dropout_add_forward({}, out, part, Tensor(), Dropout{0.4f, 7, 8, mine});
  each(out,
       [&](auto row, auto column) { EXPECT_EQ(get(out, row, column), get(y, mine[row], column)); });
}

TEST(Dropout, SeedsAndStreamsDiffer) {
  const Guarded x = random_tensor({4, 64}, DType::f32, 4), y = poisoned({4, 64}, DType::f32);
  std::vector<std::vector<double>> results;
  for (const Dropout& dropout : {Dropout{0.5f, 1, 1}, Dropout{0.5f, 2, 1}, Dropout{0.5f, 1, 2},
                                 Dropout{0.5f, 1, std::uint64_t{1} << 32}}) {
    dropout_add_forward({}, y, x, Tensor(), dropout);
    results.push_back(values(y));
  }
  for (std::size_t a = 0; a < results.size(); ++a)
    for (std::size_t b = 0; b < a; ++b) EXPECT_NE(results[a], results[b]);
}

TEST(Dropout, RefusesWrongUse) {
  const Guarded x = random_tensor({2, 6}, DType::f32, 5), y = poisoned({2, 6}, DType::f32);
  const Guarded other = poisoned({2, 5}, DType::f32);
  EXPECT_THROW(dropout_add_forward({}, y, x, Tensor(), Dropout{1.0f, 1, 1}), Error);
  EXPECT_THROW(dropout_add_forward({}, y, x, Tensor(), Dropout{-0.1f, 1, 1}), Error);
  EXPECT_THROW(dropout_add_forward({}, y, x, Tensor(), Dropout{NAN, 1, 1}), Error);
  EXPECT_THROW(dropout_add_forward({}, other, x, Tensor(), Dropout{}), Error);
  EXPECT_THROW(dropout_add_forward({}, y, x, other, Dropout{}), Error);
}

}  // namespace
}  // namespace t2r::test
