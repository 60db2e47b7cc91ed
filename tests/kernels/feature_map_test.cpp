// Feature maps against their formulas in double, forward and backward, and by central differences.
#include "kernels/feature_map.h"

#include <gtest/gtest.h>
#include <omp.h>

#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

struct MapCase {
  FeatureMap kind = FeatureMap::t2r;
  DType dtype = DType::f64;
  std::int64_t rows = 1, heads = 1, input_heads = 1, k = 4, d = 8;
  double scale = 1;
};

std::string text(const MapCase& c) {
  const char* names[] = {"t2r", "elu", "rfa", "hedgehog"};
  return fmt::format("{} {} rows {} heads {}/{} k {} d {}", names[static_cast<int>(c.kind)],
                     name_of(c.dtype), c.rows, c.heads, c.input_heads, c.k, c.d);
}

/// Random inputs and poisoned results; gradients of the weights start at 1, to see that they are
/// added to.
struct MapBatch {
  MapCase c;
  DType sums;
  Guarded x, weight, bias, dy, y, dx, dweight, dbias;

  explicit MapBatch(const MapCase& setup)
      : c(setup),
        sums(accumulate_dtype(c.dtype)),
        x(random_tensor({c.rows, c.input_heads * c.d}, c.dtype, 1, 1, 3)),
        weight(random_tensor({c.heads, weight_rows(), c.d}, c.dtype, 2, 1 / std::sqrt(c.d), 0)),
        bias(c.kind == FeatureMap::rfa ? random_tensor({c.heads}, c.dtype, 3)
                                       : random_tensor({c.heads, c.k}, c.dtype, 3, 0.5)),
        dy(random_tensor({c.rows, c.heads * c.k}, c.dtype, 4, 1, 7)),
        y(poisoned({c.rows, c.heads * c.k}, c.dtype, 5)),
        dx(poisoned({c.rows, c.input_heads * c.d}, c.dtype, 1)),
        dweight(poisoned({c.heads, weight_rows(), c.d}, sums)),
        dbias(poisoned(bias.tensor().shape, sums)) {
    if (c.kind == FeatureMap::rfa)  // s, of order 1 and of either sign
      for (std::int64_t h = 0; h < c.heads; ++h)
        set(bias, h, 0, std::copysign(0.5 + std::abs(get(bias, h, 0)), get(bias, h, 0)));
  }

  bool learned_weight() const {
    return c.kind == FeatureMap::t2r || c.kind == FeatureMap::hedgehog;
  }
  bool learned_bias() const { return c.kind == FeatureMap::t2r || c.kind == FeatureMap::rfa; }
  std::int64_t weight_rows() const {
    return c.kind == FeatureMap::rfa || c.kind == FeatureMap::hedgehog ? c.k / 2 : c.k;
  }
  FeatureMapWeights weights() const {
    if (c.kind == FeatureMap::elu) return {c.kind, {}, {}};
    if (c.kind == FeatureMap::hedgehog) return {c.kind, weight, {}};
    return {c.kind, weight, bias};
  }
  void forward() { feature_map_forward({}, y, x, weights(), c.heads, c.input_heads, c.scale); }
  void backward() {
    for (const Tensor& sum : {dweight.tensor(), dbias.tensor()})
      each(sum, [&](auto row, auto column) { set(sum, row, column, 1); });
    FeatureMapWeights dweights = weights();
    if (learned_bias()) dweights.bias = dbias;
    dweights.weight = learned_weight() ? dweight.tensor() : Tensor();
    feature_map_backward({}, dx, dweights, dy, y, x, weights(), c.heads, c.input_heads, c.scale);
  }
};

/// The formulas in double; results as values() gives them.
struct MapReference {
  std::vector<double> y, dx, dweight, dbias;

  explicit MapReference(const MapBatch& b) {
    const MapCase& c = b.c;
    const auto at = [](std::int64_t i) { return static_cast<std::size_t>(i); };
    y.assign(at(c.rows * c.heads * c.k), 0);
    dx.assign(at(c.rows * c.input_heads * c.d), 0);
    dweight.assign(at(c.heads * b.weight_rows() * c.d), 1);
    dbias.assign(at(b.bias.tensor().size()), 1);
    for (std::int64_t row = 0; row < c.rows; ++row)
      for (std::int64_t h = 0; h < c.heads; ++h) {
        const std::int64_t input = h / (c.heads / c.input_heads);
        std::vector<double> x(at(c.d)), du(at(b.weight_rows()));
        double length = 1e-12;
        for (std::int64_t j = 0; j < c.d; ++j) {
          x[at(j)] = get(b.x, row, input * c.d + j);
          length += x[at(j)] * x[at(j)];
        }
        length = std::sqrt(length);
        for (double& value : x)
          value *= c.kind == FeatureMap::rfa        ? 1 / length
                   : c.kind == FeatureMap::hedgehog ? 1
                                                    : c.scale;
        const auto u = [&](std::int64_t r) {  // W x
          double sum = 0;
          for (std::int64_t j = 0; j < c.d; ++j) sum += get(b.weight, h, r * c.d + j) * x[at(j)];
          return sum;
        };
        const auto feature = [&](std::int64_t r) -> double& {
          return y[at((row * c.heads + h) * c.k + r)];
        };
        const auto gradient = [&](std::int64_t r) { return get(b.dy, row, h * c.k + r); };
        const auto d_input = [&](std::int64_t j) -> double& {
          return dx[at((row * c.input_heads + input) * c.d + j)];
        };
        if (c.kind == FeatureMap::elu) {
          for (std::int64_t j = 0; j < c.d; ++j) {
            feature(j) = x[at(j)] > 0 ? x[at(j)] + 1 : std::exp(x[at(j)]);
            d_input(j) += c.scale * gradient(j) * std::min(1.0, feature(j));
          }
        } else if (c.kind == FeatureMap::t2r) {
          for (std::int64_t r = 0; r < c.k; ++r) {
            feature(r) = std::max(0.0, u(r) + get(b.bias, h, r));
            if (feature(r) == 0) continue;
            dbias[at(h * c.k + r)] += gradient(r);
            for (std::int64_t j = 0; j < c.d; ++j) {
              dweight[at((h * c.k + r) * c.d + j)] += gradient(r) * x[at(j)];
              d_input(j) += c.scale * gradient(r) * get(b.weight, h, r * c.d + j);
            }
          }
        } else if (c.kind == FeatureMap::hedgehog) {
          for (const double sign : {1.0, -1.0}) {
            const std::int64_t half = c.k / 2, first = sign > 0 ? 0 : half;
            double sum = 0, mean = 0;
            for (std::int64_t r = 0; r < half; ++r) sum += std::exp(sign * u(r));
            for (std::int64_t r = 0; r < half; ++r) {
              feature(first + r) = std::exp(sign * u(r)) / sum;
              mean += feature(first + r) * gradient(first + r);
            }
            for (std::int64_t r = 0; r < half; ++r)
              for (std::int64_t j = 0; j < c.d; ++j) {
                const double g = sign * feature(first + r) * (gradient(first + r) - mean);
                dweight[at((h * half + r) * c.d + j)] += g * x[at(j)];
                d_input(j) += g * get(b.weight, h, r * c.d + j);
              }
          }
        } else {
          const double s = get(b.bias, h, 0), amplitude = std::sqrt(2.0 / static_cast<double>(c.k));
          std::vector<double> d_unit(at(c.d));
          double along = 0;
          for (std::int64_t r = 0; r < c.k / 2; ++r) {
            const double angle = u(r) / s;
            feature(r) = amplitude * std::sin(angle);
            feature(c.k / 2 + r) = amplitude * std::cos(angle);
            const double d_angle = amplitude * (gradient(r) * std::cos(angle) -
                                                gradient(c.k / 2 + r) * std::sin(angle));
            dbias[at(h)] -= d_angle * angle / s;
            for (std::int64_t j = 0; j < c.d; ++j)
              d_unit[at(j)] += d_angle * get(b.weight, h, r * c.d + j) / s;
          }
          for (std::int64_t j = 0; j < c.d; ++j) along += d_unit[at(j)] * x[at(j)];
          for (std::int64_t j = 0; j < c.d; ++j)
            d_input(j) += (d_unit[at(j)] - along * x[at(j)]) / length;
        }
      }
  }
};

void expect_map_right(const MapCase& setup) {
  SCOPED_TRACE(text(setup));
  const double limit = tolerance(setup.dtype);
  MapBatch batch(setup);
  const MapReference expected(batch);
  batch.forward();
  expect_close(batch.y, expected.y, "y", limit);
  batch.backward();
  expect_close(batch.dx, expected.dx, "dx", limit);
  if (batch.learned_weight()) expect_close(batch.dweight, expected.dweight, "dW", limit);
  if (batch.learned_bias()) expect_close(batch.dbias, expected.dbias, "db", limit);
}

const FeatureMap kMaps[] = {FeatureMap::t2r, FeatureMap::elu, FeatureMap::rfa,
                            FeatureMap::hedgehog};

TEST(FeatureMap, EqualsItsFormula) {
  for (FeatureMap kind : kMaps)
    for (DType dtype : kAllDTypes) {
      const auto k = [&](std::int64_t features, std::int64_t d) {
        return kind == FeatureMap::elu ? d : features;
      };
      for (std::int64_t rows : {0, 1, 31, 65})
        expect_map_right({kind, dtype, rows, 2, 2, k(4, 8), 8, 0.35});
      expect_map_right({kind, dtype, 64, 4, 2, k(32, 64), 64, 0.125});
      expect_map_right({kind, dtype, 130, 6, 1, k(10, 3), 3, 1});
      expect_map_right({kind, dtype, 1100, 2, 1, k(6, 5), 5, 0.5});
    }
  expect_map_right({FeatureMap::t2r, DType::f64, 33, 3, 3, 1, 17, 0.5});
}

TEST(FeatureMap, EveryGradientByCentralDifferences) {
  for (FeatureMap kind : kMaps)
    for (std::int64_t input_heads : {4, 2}) {
      MapBatch batch(
          {kind, DType::f64, 7, 4, input_heads, kind == FeatureMap::elu ? 5 : 6, 5, 0.4});
      SCOPED_TRACE(text(batch.c));
      const auto loss = [&] {
        batch.forward();
        return dot(batch.y, batch.dy);
      };
      loss();
      batch.backward();
      for (const Tensor& sum : {batch.dweight.tensor(), batch.dbias.tensor()})  // started at 1
        each(sum, [&](auto row, auto column) { set(sum, row, column, get(sum, row, column) - 1); });
      expect_gradient(batch.x, batch.dx, loss, "x");
      if (batch.learned_weight()) expect_gradient(batch.weight, batch.dweight, loss, "weight");
      if (batch.learned_bias()) expect_gradient(batch.bias, batch.dbias, loss, "bias");
    }
}

TEST(FeatureMap, ThreadsDoNotChangeABit) {
  const int threads = omp_get_max_threads();
  for (FeatureMap kind : kMaps) {
    const MapCase setup{kind, DType::f32, 1500, 4, 1, 16, 16, 0.25};
    MapBatch one(setup), two(setup);
    omp_set_num_threads(1);
    one.forward();
    one.backward();
    omp_set_num_threads(2);
    two.forward();
    two.backward();
    omp_set_num_threads(threads);
    EXPECT_EQ(values(one.y), values(two.y));
    EXPECT_EQ(values(one.dx), values(two.dx));
    EXPECT_EQ(values(one.dweight), values(two.dweight));
    EXPECT_EQ(values(one.dbias), values(two.dbias));
  }
}

TEST(FeatureMap, RfaOfAZeroVectorIsFinite) {
  MapBatch batch({FeatureMap::rfa, DType::f32, 2, 1, 1, 4, 8, 1});
  for (std::int64_t c = 0; c < 8; ++c) set(batch.x, 0, c, 0);
  batch.forward();
  batch.backward();
  EXPECT_EQ(get(batch.y, 0, 0), 0);
  EXPECT_FLOAT_EQ(static_cast<float>(get(batch.y, 0, 2)), static_cast<float>(std::sqrt(0.5)));
  for (const Tensor& x : {batch.y.tensor(), batch.dx.tensor(), batch.dbias.tensor()})
    for (double value : values(x)) EXPECT_TRUE(std::isfinite(value));
}

TEST(FeatureMap, NanIsNotHidden) {
  for (FeatureMap kind : kMaps) {
    MapBatch batch({kind, DType::f32, 3, 1, 1, 8, 8, 1});
    set(batch.x, 1, 2, std::nan(""));
    batch.forward();
    double sum = 0;
    for (std::int64_t c = 0; c < 8; ++c) sum += get(batch.y, 1, c);
    EXPECT_TRUE(std::isnan(sum)) << text(batch.c);
  }
}

TEST(FeatureMap, WrongArgumentsFail) {
  MapBatch batch({FeatureMap::t2r, DType::f32, 3, 4, 2, 6, 5, 1});
  EXPECT_NO_THROW(batch.forward());
  for (auto [heads, inputs] : {std::pair{4, 3}, {3, 2}, {0, 0}, {2, 2}})
    EXPECT_THROW(feature_map_forward({}, batch.y, batch.x, batch.weights(), heads, inputs, 1),
                 Error);
  EXPECT_THROW(feature_map_forward({}, batch.y, batch.x, {FeatureMap::elu, {}, {}}, 4, 2, 1),
               Error);
  const Guarded other = random_tensor({4, 6, 5}, DType::f64, 1);
  EXPECT_THROW(
      feature_map_forward({}, batch.y, batch.x, {FeatureMap::t2r, other, batch.bias}, 4, 2, 1),
      Error);
  const Guarded odd = poisoned({3, 4 * 7}, DType::f32);
  EXPECT_THROW(
      feature_map_forward({}, odd, batch.x, {FeatureMap::rfa, batch.weight, batch.bias}, 4, 2, 1),
      Error);
}

TEST(Relu, InPlace) {
  for (DType dtype : kAllDTypes)
    for (std::int64_t rows : {0, 1, 33})
      for (std::int64_t padding : {0, 3}) {
        const Guarded x = random_tensor({rows, 700}, dtype, 5, 1, padding);
        std::vector<double> expected = values(x);
        for (double& value : expected) value = std::max(0.0, value);
        relu_inplace({}, x);
        EXPECT_EQ(values(x), expected);
      }
  const Guarded x = random_tensor({1, 2}, DType::f32, 5);
  set(x, 0, 1, std::nan(""));
  relu_inplace({}, x);
  EXPECT_TRUE(std::isnan(get(x, 0, 1)));
}

}  // namespace
}  // namespace t2r::test
