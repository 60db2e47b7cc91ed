// y = x W^T + b and its gradients, in every type, at odd sizes, strided, packed and repacked.
#include "kernels/linear.h"

#include <gtest/gtest.h>

#include <thread>

#include "kernels/elementwise.h"
#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

using Doubles = std::vector<double>;

/// C (n, m) = start + sum over k < inner of a(i, k) b(k, j).
template <class A, class B>
Doubles product(std::int64_t n, std::int64_t m, std::int64_t inner, const Doubles& start, A a,
                B b) {
  Doubles c = start;
  c.resize(static_cast<std::size_t>(n * m));
  for (std::int64_t i = 0; i < n; ++i)
    for (std::int64_t j = 0; j < m; ++j)
      for (std::int64_t k = 0; k < inner; ++k)
        c[static_cast<std::size_t>(i * m + j)] += a(i, k) * b(k, j);
  return c;
}

/// Elements of a row-major matrix with this many columns.
auto matrix(const Doubles& x, std::int64_t columns) {
  return [&x, columns](std::int64_t i, std::int64_t j) {
    return x[static_cast<std::size_t>(i * columns + j)];
  };
}
auto transposed(const Doubles& x, std::int64_t columns) {
  return [&x, columns](std::int64_t i, std::int64_t j) {
    return x[static_cast<std::size_t>(j * columns + i)];
  };
}

void check_all(DType dtype, std::int64_t rows, std::int64_t in, std::int64_t out,
               std::int64_t padding) {
  SCOPED_TRACE(
      fmt::format("{} rows {} in {} out {} padding {}", name_of(dtype), rows, in, out, padding));
  const DType wide = accumulate_dtype(dtype);
  const Guarded x = random_tensor({rows, in}, dtype, 1, 1, padding);
  const Guarded w = random_tensor({out, in}, dtype, 2, 1, padding);
  const Guarded bias = random_tensor({out}, dtype, 3, 5);
  const Guarded dy = random_tensor({rows, out}, dtype, 4, 1, padding);
  const LinearWeight weight(w);
  const Doubles xs = values(x), ws = values(w), dys = values(dy), biases = values(bias);

  Doubles start;
  for (std::int64_t row = 0; row < rows; ++row)
    start.insert(start.end(), biases.begin(), biases.end());
  const Doubles with_bias = product(rows, out, in, start, matrix(xs, in), transposed(ws, in));
  const Doubles plain = product(rows, out, in, {}, matrix(xs, in), transposed(ws, in));
  for (DType y_dtype : {dtype, wide}) {
    const Guarded y = poisoned({rows, out}, y_dtype, padding);
    linear_forward({}, y, x, weight, bias);
    expect_close(y, with_bias, "y with bias", tolerance(dtype));
    fill({}, y, std::nan(""));
    linear_forward({}, y, x, weight);
    expect_close(y, plain, "y", tolerance(dtype));
  }

  const Guarded dx = poisoned({rows, in}, dtype, padding);
  linear_backward_input({}, dx, dy, weight);
  expect_close(dx, product(rows, in, out, {}, matrix(dys, out), matrix(ws, in)), "dx");
  const Guarded added = random_tensor({rows, in}, dtype, 5, 10, padding);
  const Doubles before = values(added);
  linear_backward_input({}, added, dy, weight, true);
  expect_close(added, product(rows, in, out, before, matrix(dys, out), matrix(ws, in)), "dx +=");

  const Guarded dw = random_tensor({out, in}, wide, 6, 10, padding);
  const Guarded db = random_tensor({out}, wide, 7, 10);
  const Doubles dw_before = values(dw);
  Doubles db_expected = values(db);
  for (std::size_t i = 0; i < dys.size(); ++i)
    db_expected[i % static_cast<std::size_t>(out)] += dys[i];
  linear_backward_weight({}, dw, db, dy, x);
  // Sums are in accumulate_dtype and the inputs are exact, so fp32's tolerance holds for bf16.
  const double limit = tolerance(wide);
  const Doubles dw_expected =
      product(out, in, rows, dw_before, transposed(dys, out), matrix(xs, in));
  expect_close(dw, dw_expected, "dweight +=", limit);
  expect_close(db, db_expected, "dbias +=", limit);
  const Guarded only = poisoned({out, in}, wide, padding);
  assign(only, dw_before);
  linear_backward_weight({}, only, {}, dy, x);
  EXPECT_EQ(values(only), values(dw));
}

TEST(Linear, FollowsTheReference) {
  for (DType dtype : kAllDTypes) {
    for (std::int64_t rows : {0, 1, 33})
      for (std::int64_t in : {1, 31, 64})
        for (std::int64_t out : {1, 67}) check_all(dtype, rows, in, out, (rows + in) % 2 * 3);
    for (std::int64_t padding : {0, 3}) {
      check_all(dtype, 255, 47, 65, padding);  // about the last with packed fp32 weights
      check_all(dtype, 259, 130, 97, padding);
    }
    check_all(dtype, 1031, 37, 29, 1);
    check_all(dtype, 16, 300, 523, 0);
  }
}

TEST(Linear, ColumnRangesOfWiderMatrices) {
  for (DType dtype : kAllDTypes) {
    const Guarded xs = random_tensor({35, 96}, dtype, 1), ys = poisoned({35, 120}, dtype);
    fill({}, ys, 7);
    const Guarded w = random_tensor({40, 32}, dtype, 2);
    const Guarded y = poisoned({35, 40}, dtype), x = poisoned({35, 32}, dtype);
    copy({}, x, xs.tensor().column_range(32, 64));
    const LinearWeight weight(w);
    linear_forward({}, y, x, weight);
    linear_forward({}, ys.tensor().column_range(40, 80), xs.tensor().column_range(32, 64), weight);
    expect_close(ys.tensor().column_range(40, 80), values(y), "y");
    for (double value : values(ys.tensor().column_range(0, 40))) ASSERT_EQ(value, 7);
    for (double value : values(ys.tensor().column_range(80, 120))) ASSERT_EQ(value, 7);
  }
}

TEST(Linear, CopiesFollowTheVersion) {
  for (DType dtype : kAllDTypes) {
    const Guarded w = random_tensor({70, 45}, dtype, 1), x = random_tensor({9, 45}, dtype, 2);
    const Guarded dy = random_tensor({9, 70}, dtype, 3);
    std::uint64_t version = 1;
    const LinearWeight weight(w, &version);
    for (int step = 0; step < 3; ++step, ++version) {
      fill({}, w, 0.25 * step);
      const Guarded y = poisoned({9, 70}, dtype), dx = poisoned({9, 45}, dtype);
      linear_forward({}, y, x, weight);
      linear_backward_input({}, dx, dy, weight);
      const Doubles ws = values(w), xs = values(x), dys = values(dy);
      expect_close(y, product(9, 70, 45, {}, matrix(xs, 45), transposed(ws, 45)), "y");
      expect_close(dx, product(9, 45, 70, {}, matrix(dys, 70), matrix(ws, 45)), "dx");
    }
  }
}

TEST(Linear, ManyRowCounts) {  // ragged batches: a new shape every call, more than are cached
  constexpr std::int64_t kRows = 530, kIn = 8, kOut = 12;
  const Guarded w = random_tensor({kOut, kIn}, DType::f32, 1);
  const Guarded x = random_tensor({kRows, kIn}, DType::f32, 2);
  const Doubles ws = values(w), xs = values(x);
  const Doubles expected = product(kRows, kOut, kIn, {}, matrix(xs, kIn), transposed(ws, kIn));
  const LinearWeight weight(w);
  for (std::int64_t rows = 1; rows <= kRows; ++rows) {
    const Guarded y = poisoned({rows, kOut}, DType::f32);
    linear_forward({}, y, x.tensor().row_range(0, rows), weight);
    expect_close(y, Doubles(expected.begin(), expected.begin() + rows * kOut), "y");
  }
}

TEST(Linear, GradientsByCentralDifferences) {
  const Guarded x = random_tensor({5, 7}, DType::f64, 1), w = random_tensor({6, 7}, DType::f64, 2);
  const Guarded bias = random_tensor({6}, DType::f64, 3), dy = random_tensor({5, 6}, DType::f64, 4);
  const Guarded y = poisoned({5, 6}, DType::f64), dx = poisoned({5, 7}, DType::f64);
  const Guarded dw = poisoned({6, 7}, DType::f64), db = poisoned({6}, DType::f64);
  const LinearWeight weight(w);
  const auto loss = [&] {
    linear_forward({}, y, x, weight, bias);
    return dot(y, dy);
  };
  fill({}, dw, 0);
  fill({}, db, 0);
  linear_backward_input({}, dx, dy, weight);
  linear_backward_weight({}, dw, db, dy, x);
  expect_gradient(x, dx, loss, "x");
  expect_gradient(w, dw, loss, "weight");
  expect_gradient(bias, db, loss, "bias");
}

TEST(Linear, RanksMayBeThreads) {
  std::vector<std::thread> ranks;
  for (std::uint64_t rank = 0; rank < 3; ++rank)
    ranks.emplace_back([rank] {
      for (DType dtype : kAllDTypes)
        for (std::int64_t rows : {7, 301}) check_all(dtype, rows, 33 + 16 * rank, 45, 0);
    });
  for (std::thread& rank : ranks) rank.join();
}

TEST(Linear, SameBitsEveryTime) {
  for (DType dtype : kAllDTypes) {
    const Guarded x = random_tensor({700, 65}, dtype, 1), dy = random_tensor({700, 33}, dtype, 2);
    const Guarded w = random_tensor({33, 65}, dtype, 3);
    std::vector<Doubles> results[2];
    for (auto& result : results) {
      const LinearWeight weight(w);
      const Guarded y = poisoned({700, 33}, dtype), dx = poisoned({700, 65}, dtype);
      const Guarded dw = poisoned({33, 65}, accumulate_dtype(dtype));
      const Guarded db = poisoned({33}, accumulate_dtype(dtype));
      fill({}, dw, 0);
      fill({}, db, 0);
      linear_forward({}, y, x, weight);
      linear_backward_input({}, dx, dy, weight);
      linear_backward_weight({}, dw, db, dy, x);
      result = {values(y), values(dx), values(dw), values(db)};
    }
    EXPECT_EQ(results[0], results[1]) << name_of(dtype);
  }
}

TEST(Linear, RejectsWrongShapesAndTypes) {
  const Guarded w = random_tensor({4, 3}, DType::f32, 1), x = random_tensor({2, 3}, DType::f32, 1);
  const Guarded y = random_tensor({2, 4}, DType::f32, 1);
  const Guarded wrong = random_tensor({2, 5}, DType::f32, 1);
  const Guarded half = random_tensor({2, 4}, DType::bf16, 1);
  const LinearWeight weight(w);
  EXPECT_THROW(linear_forward({}, y, wrong, weight), Error);
  EXPECT_THROW(linear_forward({}, wrong, x, weight), Error);
  EXPECT_THROW(linear_forward({}, half, x, weight), Error);
  EXPECT_THROW(linear_forward({}, y, x, weight, random_tensor({3}, DType::f32, 1)), Error);
  EXPECT_THROW(linear_backward_input({}, x, half, weight), Error);
  EXPECT_THROW(linear_backward_weight({}, wrong, {}, y, x), Error);
}

TEST(Linear, TheMathLibraryIsRight) {
  for (DType dtype : kAllDTypes) EXPECT_NO_THROW(check_gemm(dtype));
}

}  // namespace
}  // namespace t2r::test
