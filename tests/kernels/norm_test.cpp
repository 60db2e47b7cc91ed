// LayerNorm and RMSNorm against plain loops in double, gradients by central differences, and the
// promise that results do not depend on the number of threads.
#include "kernels/norm.h"

#include <omp.h>

#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

constexpr double kEps = 1e-5;

/// (rows, columns) around vector widths, blocks of rows and nothing at all.
const Shape kShapes[] = {{0, 8},   {1, 1},  {3, 1},   {1, 31},   {5, 32},   {7, 33},
                         {17, 64}, {16, 3}, {33, 97}, {131, 65}, {37, 513}, {1100, 17}};

struct Reference {
  std::vector<double> y, mean, rstd, dx, dweight, dbias;
};

/// Both norms by their definition; `bias` empty means RMSNorm.
Reference reference(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& dy) {
  const std::int64_t rows = x.rows(), n = x.columns_count();
  Reference r;
  r.dweight.assign(static_cast<std::size_t>(n), 0);
  r.dbias.assign(static_cast<std::size_t>(n), 0);
  for (std::int64_t row = 0; row < rows; ++row) {
    double mean = 0, var = 0;
    if (bias)
      for (std::int64_t i = 0; i < n; ++i) mean += get(x, row, i) / static_cast<double>(n);
    for (std::int64_t i = 0; i < n; ++i)
      var += (get(x, row, i) - mean) * (get(x, row, i) - mean) / static_cast<double>(n);
    const double rstd = 1 / std::sqrt(var + kEps);
    r.mean.push_back(mean);
    r.rstd.push_back(rstd);
    double sum_g = 0, sum_gh = 0;
    for (std::int64_t i = 0; i < n; ++i) {
      const double h = (get(x, row, i) - mean) * rstd;
      const double g = get(dy, row, i) * get(weight, i, 0);
      r.y.push_back(h * get(weight, i, 0) + (bias ? get(bias, i, 0) : 0));
      r.dweight[static_cast<std::size_t>(i)] += get(dy, row, i) * h;
      r.dbias[static_cast<std::size_t>(i)] += get(dy, row, i);
      sum_g += bias ? g : 0;
      sum_gh += g * h;
    }
    for (std::int64_t i = 0; i < n; ++i) {
      const double h = (get(x, row, i) - mean) * rstd;
      const double g = get(dy, row, i) * get(weight, i, 0);
      r.dx.push_back(rstd *
                     (g - sum_g / static_cast<double>(n) - h * sum_gh / static_cast<double>(n)));
    }
  }
  return r;
}

std::vector<double> plus(std::vector<double> a, const std::vector<double>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
  return a;
}

// A vector (n) as the tests read it: n rows of one column.
void run_norm(bool layer, Shape shape, DType dtype, bool accumulate, std::int64_t padding) {
  const std::int64_t rows = shape[0], n = shape[1];
  const DType wide = accumulate_dtype(dtype);
  // A mean that is large beside the deviation shows a one-pass variance.
  const Guarded x = random_tensor(shape, dtype, 1, 2, padding);
  each(x, [&](auto row, auto column) { set(x, row, column, get(x, row, column) + 3); });
  const Guarded weight = random_tensor({n}, dtype, 2), bias = random_tensor({n}, dtype, 3);
  const Guarded dy = random_tensor(shape, dtype, 4, 1, padding);
  const Guarded dx = random_tensor(shape, dtype, 5, 1, padding);
  const Guarded dweight = random_tensor({n}, wide, 6), dbias = random_tensor({n}, wide, 7);
  const Guarded y = poisoned(shape, dtype, padding);
  const Guarded mean = poisoned({rows}, wide), rstd = poisoned({rows}, wide);
  Reference expected = reference(x, weight, layer ? bias.tensor() : Tensor(), dy);
  const auto old_dx = values(dx), old_dweight = values(dweight), old_dbias = values(dbias);
  if (layer) {
    layer_norm_forward({}, y, mean, rstd, x, weight, bias, kEps);
    layer_norm_backward({}, dx, dweight, dbias, dy, x, weight, mean, rstd, accumulate);
    expect_close(mean, expected.mean, "mean");
    expect_close(dbias, plus(old_dbias, expected.dbias), "dbias");
  } else {
    rms_norm_forward({}, y, rstd, x, weight, kEps);
    rms_norm_backward({}, dx, dweight, dy, x, weight, rstd, accumulate);
  }
  expect_close(y, expected.y, "y");
  expect_close(rstd, expected.rstd, "rstd");
  expect_close(dweight, plus(old_dweight, expected.dweight), "dweight");
  if (accumulate)
    expect_close(dx, plus(old_dx, expected.dx), "dx accumulated");
  else if (n > 1)
    expect_close(dx, expected.dx, "dx");
  else  // of one column little but rounding is left of g - h * average(g * h)
    each(dx, [&](auto row, auto i) {
      const double g = get(dy, row, i) * get(weight, 0, 0) * get(rstd, row, 0);
      EXPECT_NEAR(get(dx, row, i), expected.dx[static_cast<std::size_t>(row)],
                  tolerance(dtype) * std::abs(g));
    });
}

TEST(LayerNorm, MatchesReference) {
  for (DType dtype : kAllDTypes)
    for (const Shape& shape : kShapes)
      for (bool accumulate : {false, true}) {
        SCOPED_TRACE(shape.text());
        run_norm(true, shape, dtype, accumulate, accumulate ? 5 : 0);
      }
}

TEST(RmsNorm, MatchesReference) {
  for (DType dtype : kAllDTypes)
    for (const Shape& shape : kShapes)
      for (bool accumulate : {false, true}) {
        SCOPED_TRACE(shape.text());
        run_norm(false, shape, dtype, accumulate, accumulate ? 5 : 0);
      }
}

TEST(LayerNorm, Gradients) {
  const Shape shape{5, 7};
  const Guarded x = random_tensor(shape, DType::f64, 11),
                weight = random_tensor({7}, DType::f64, 12);
  const Guarded bias = random_tensor({7}, DType::f64, 13),
                dy = random_tensor(shape, DType::f64, 14);
  const Guarded y = poisoned(shape, DType::f64), dx = poisoned(shape, DType::f64);
  const Guarded mean = poisoned({5}, DType::f64), rstd = poisoned({5}, DType::f64);
  const Guarded dweight = random_tensor({7}, DType::f64, 0, 0),
                dbias = random_tensor({7}, DType::f64, 0, 0);
  const auto loss = [&] {
    layer_norm_forward({}, y, mean, rstd, x, weight, bias, kEps);
    return dot(y, dy);
  };
  loss();
  layer_norm_backward({}, dx, dweight, dbias, dy, x, weight, mean, rstd, false);
  expect_gradient(x, dx, loss, "x");
  expect_gradient(weight, dweight, loss, "weight");
  expect_gradient(bias, dbias, loss, "bias");
  const Guarded alone = poisoned(shape, DType::f64);
  layer_norm_backward({}, alone, {}, {}, dy, x, weight, mean, rstd, false);
  EXPECT_EQ(values(alone), values(dx));  // without the others', bit for bit
}

TEST(RmsNorm, Gradients) {
  const Shape shape{5, 7};
  const Guarded x = random_tensor(shape, DType::f64, 21),
                weight = random_tensor({7}, DType::f64, 22);
  const Guarded dy = random_tensor(shape, DType::f64, 23);
  const Guarded y = poisoned(shape, DType::f64), dx = poisoned(shape, DType::f64);
  const Guarded rstd = poisoned({5}, DType::f64), dweight = random_tensor({7}, DType::f64, 0, 0);
  const auto loss = [&] {
    rms_norm_forward({}, y, rstd, x, weight, kEps);
    return dot(y, dy);
  };
  loss();
  rms_norm_backward({}, dx, dweight, dy, x, weight, rstd, false);
  expect_gradient(x, dx, loss, "x");
  expect_gradient(weight, dweight, loss, "weight");
  const Guarded alone = poisoned(shape, DType::f64);
  rms_norm_backward({}, alone, {}, dy, x, weight, rstd, false);
  EXPECT_EQ(values(alone), values(dx));
}

/// A large mean beside a small deviation: a one-pass variance would be noise in float.
TEST(LayerNorm, LargeMean) {
  const Guarded x = random_tensor({3, 256}, DType::f32, 31);
  each(x, [&](auto row, auto column) { set(x, row, column, get(x, row, column) + 1000); });
  const Guarded weight = random_tensor({256}, DType::f32, 32),
                bias = random_tensor({256}, DType::f32, 33);
  const Guarded y = poisoned({3, 256}, DType::f32);
  const Guarded mean = poisoned({3}, DType::f32), rstd = poisoned({3}, DType::f32);
  layer_norm_forward({}, y, mean, rstd, x, weight, bias, kEps);
  expect_close(y, reference(x, weight, bias, x).y, "y", 2e-4);
}

TEST(LayerNorm, ResultsDoNotDependOnThreads) {
  const Shape shape{1031, 96};
  const Guarded x = random_tensor(shape, DType::f32, 41), dy = random_tensor(shape, DType::f32, 42);
  const Guarded weight = random_tensor({96}, DType::f32, 43),
                bias = random_tensor({96}, DType::f32, 44);
  const Guarded y = poisoned(shape, DType::f32), dx = poisoned(shape, DType::f32);
  const Guarded mean = poisoned({1031}, DType::f32), rstd = poisoned({1031}, DType::f32);
  const int threads = omp_get_max_threads();
  std::vector<std::vector<double>> results[2];
  for (int count : {1, 3}) {
    omp_set_num_threads(count);
    const Guarded dweight = random_tensor({96}, DType::f32, 0, 0),
                  dbias = random_tensor({96}, DType::f32, 0, 0);
    layer_norm_forward({}, y, mean, rstd, x, weight, bias, kEps);
    layer_norm_backward({}, dx, dweight, dbias, dy, x, weight, mean, rstd, false);
    results[count / 3] = {values(y), values(dx), values(dweight), values(dbias)};
  }
  omp_set_num_threads(threads);
  EXPECT_EQ(results[0], results[1]);  // bit for bit
}

TEST(Norm, RefusesWrongShapesAndTypes) {
  const Guarded x = random_tensor({4, 6}, DType::bf16, 51), y = poisoned({4, 6}, DType::bf16);
  const Guarded weight = random_tensor({6}, DType::bf16, 52),
                short_weight = random_tensor({5}, DType::bf16, 52);
  const Guarded wide = random_tensor({6}, DType::f32, 53);
  const Guarded rstd = poisoned({4}, DType::f32), narrow = poisoned({4}, DType::bf16);
  EXPECT_NO_THROW(rms_norm_forward({}, y, rstd, x, weight, kEps));
  EXPECT_THROW(rms_norm_forward({}, y, rstd, x, short_weight, kEps), Error);
  EXPECT_THROW(rms_norm_forward({}, y, rstd, x, wide, kEps), Error);
  EXPECT_THROW(rms_norm_forward({}, y, narrow, x, weight, kEps), Error);
  EXPECT_THROW(rms_norm_forward({}, y, rstd, x, weight, -1), Error);
  EXPECT_THROW(rms_norm_backward({}, y, weight, x, x, weight, rstd, false), Error);
}

}  // namespace
}  // namespace t2r::test
