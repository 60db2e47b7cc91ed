// Tile products against plain loops in double, in every form and for odd sizes.
#include "kernels/tile_matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

enum class Order { nn, nt, tn };

template <class T>
void compare(Order order, std::int64_t m, std::int64_t n, std::int64_t k, bool accumulate) {
  const DType dtype = dtype_of<T>();
  const auto a = random_tensor(order == Order::tn ? Shape{k, m} : Shape{m, k}, dtype, 1, 1, 3);
  const auto b = random_tensor(order == Order::nt ? Shape{n, k} : Shape{k, n}, dtype, 2, 1, 1);
  const auto start = random_tensor({m, n}, dtype, 3);
  Guarded c({m, n}, dtype, 2);
  if (accumulate) each(c, [&](auto i, auto j) { set(c, i, j, get(start, i, j)); });
  std::vector<double> expected;
  each(c, [&](auto i, auto j) {
    double sum = accumulate ? get(start, i, j) : 0;
    for (std::int64_t l = 0; l < k; ++l)
      sum += (order == Order::tn ? get(a, l, i) : get(a, i, l)) *
             (order == Order::nt ? get(b, j, l) : get(b, l, j));
    expected.push_back(sum);
  });
  const auto run = order == Order::nn   ? tile_matmul_nn<T>
                   : order == Order::nt ? tile_matmul_nt<T>
                                        : tile_matmul_tn<T>;
  run(c.tensor().as<T>(), c.tensor().row_stride, a.tensor().as<T>(), a.tensor().row_stride,
      b.tensor().as<T>(), b.tensor().row_stride, m, n, k, accumulate);
  expect_close(c, expected, "product over k = " + std::to_string(k));
}

TEST(TileMatmul, MatchesPlainLoops) {
  for (Order order : {Order::nn, Order::nt, Order::tn})
    for (std::int64_t m : {0, 1, 2, 3, 5, 7, 8, 13, 31})
      for (std::int64_t n : {0, 1, 7, 16, 17, 33, 64, 81, 131})
        for (std::int64_t k : {0, 1, 3, 33, 129})
          for (bool accumulate : {false, true}) {
            compare<float>(order, m, n, k, accumulate);
            compare<double>(order, m, n, k, accumulate);
          }
}

TEST(TileMatmul, TransposesEverySize) {
  for (std::int64_t rows : {0, 1, 7, 8, 16, 17, 35})
    for (std::int64_t columns : {0, 1, 8, 15, 16, 33, 64}) {
      const auto in = random_tensor({rows, columns}, DType::f32, 4, 1, 5);
      Guarded out({columns, rows}, DType::f32, 3);
      tile::transpose(out.tensor().as<float>(), out.tensor().row_stride, in.tensor().as<float>(),
                      in.tensor().row_stride, rows, columns);
      each(out, [&](auto i, auto j) { ASSERT_EQ(get(out, i, j), get(in, j, i)); });
    }
}

TEST(TileMatmul, SumsLanes) {
  constexpr int W = tile::kLanes<double>;
  tile::Vector<double> rows[W];
  for (int r = 0; r < W; ++r)
    for (int lane = 0; lane < W; ++lane) rows[r][lane] = 100 * r + lane;
  const auto sums = tile::sum_lanes<double>(rows);
  for (int r = 0; r < W; ++r) EXPECT_EQ(sums[r], W * 100 * r + W * (W - 1) / 2);
}

}  // namespace
}  // namespace t2r::test
