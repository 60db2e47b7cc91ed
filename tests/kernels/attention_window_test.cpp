// Linear attention beside a softmax window: the rows' moves, and the shared normaliser against its
// formula in double with gradients by central differences through all kernels.
#include "kernels/attention_window.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/linear_attention.h"
#include "kernels/softmax_attention.h"
#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

TEST(ShiftRows, MovesEachSegmentAndFillsWithZeros) {
  const std::vector<std::int64_t> offsets{0, 3, 3, 10};
  const Segments segments{3, offsets.data()};
  for (DType dtype : kAllDTypes)
    for (std::int64_t rows : {-8, -2, -1, 0, 1, 2, 7}) {
      const Guarded x = random_tensor({10, 5}, dtype, 3, 1, 4);
      const Guarded y = poisoned({10, 5}, dtype, 2);
      shift_rows({}, y, x, segments, rows);
      for (std::int64_t s = 0; s < segments.count; ++s)
        for (std::int64_t i = 0; i < segments.length(s); ++i)
          for (std::int64_t c = 0; c < 5; ++c) {
            const std::int64_t from = i - rows;
            const bool inside = from >= 0 && from < segments.length(s);
            EXPECT_EQ(get(y, offsets[static_cast<std::size_t>(s)] + i, c),
                      inside ? get(x, offsets[static_cast<std::size_t>(s)] + from, c) : 0);
          }
    }
}

TEST(WindowCombine, SharesOneNormaliser) {
  const std::int64_t rows = 37, heads = 3, d = 6;
  const double clamp = 0.01;
  for (DType dtype : kAllDTypes) {
    const DType wide = accumulate_dtype(dtype);
    const Guarded num = random_tensor({rows, heads * d}, dtype, 1);
    const Guarded near = random_tensor({rows, heads * d}, dtype, 2, 1, 3);
    const Guarded out = poisoned({rows, heads * d}, dtype, 5);
    const Guarded den = random_tensor({rows, heads}, wide, 4),
                  gate = random_tensor({heads}, wide, 7);
    const Guarded dout = random_tensor({rows, heads * d}, dtype, 6, 1, 1);
    const Guarded dwindow = poisoned({rows, heads * d}, dtype, 1),
                  dgate = random_tensor({heads}, wide, 8);
    std::vector<double> expected, expected_gradient, expected_gate = values(dgate);
    for (std::int64_t h = 0; h < heads; ++h) set(gate, h, 0, 0.3 + std::abs(get(gate, h, 0)));
    for (std::int64_t row = 0; row < rows; ++row)
      for (std::int64_t h = 0; h < heads; ++h) {
        // Some denominators lie below the clamp, the first row's are exactly zero.
        set(den, row, h, row == 0 ? 0 : std::abs(get(den, row, h)) * (row % 3 ? 1 : 0.004));
        const double g = get(gate, h, 0), z = g + get(den, row, h);
        for (std::int64_t c = h * d; c < (h + 1) * d; ++c) {
          if (row == 0) set(num, row, c, 0);
          set(out, row, c, get(num, row, c) / std::max(get(den, row, h), clamp));
          const double o = (g * get(near, row, c) + get(num, row, c)) / z;
          expected.push_back(o);
          expected_gradient.push_back(get(dout, row, c) * g / z);
          expected_gate[static_cast<std::size_t>(h)] +=
              get(dout, row, c) * (get(near, row, c) - o) / z;
        }
      }
    window_combine({}, out, den, near, gate, clamp);
    expect_close(out, expected, "out", dtype == DType::bf16 ? 2e-2 : tolerance(dtype));
    window_gradient({}, dwindow, dgate, dout, out, den, near, gate);
    expect_close(dwindow, expected_gradient, "dwindow", tolerance(dtype));
    expect_close(dgate, expected_gate, "dgate", dtype == DType::bf16 ? 2e-2 : tolerance(dtype));
  }
}

TEST(WindowCombine, RefusesWhatDoesNotFit) {
  const Guarded out = random_tensor({4, 6}, DType::f32, 1),
                den = random_tensor({4, 3}, DType::f32, 1);
  const Guarded near = random_tensor({4, 6}, DType::f32, 1),
                odd = random_tensor({4, 4}, DType::f32, 1);
  const Guarded gate = random_tensor({3}, DType::f32, 1), two = random_tensor({2}, DType::f32, 1);
  EXPECT_NO_THROW(window_combine({}, out, den, near, gate, 0.01));
  EXPECT_THROW(window_combine({}, out, den, odd, gate, 0.01), Error);
  EXPECT_THROW(window_combine({}, out, den, near, two, 0.01), Error);
  EXPECT_THROW(window_gradient({}, odd, gate, out, out, den, near, gate), Error);
  const std::vector<std::int64_t> offsets{0, 3};
  EXPECT_THROW(shift_rows({}, near, out, {1, offsets.data()}, 1), Error);
}

/// The whole of it, o = (g o_w + num) / (g + den), by loops in double.
TEST(AttentionWindow, EqualsItsFormulaThroughAllKernels) {
  const std::int64_t heads = 2, d = 5, k = 4, window = 3;
  const std::vector<std::int64_t> offsets{0, 2, 11};
  const Segments segments{2, offsets.data()};
  const std::int64_t rows = 11;
  const double scale = 0.4;
  const Guarded q = random_tensor({rows, heads * d}, DType::f64, 1),
                key = random_tensor({rows, heads * d}, DType::f64, 2),
                v = random_tensor({rows, heads * d}, DType::f64, 3),
                qf = random_tensor({rows, heads * k}, DType::f64, 4),
                kf = random_tensor({rows, heads * k}, DType::f64, 5);
  for (const Guarded* x : {&qf, &kf})
    each(*x, [&](auto row, auto column) { set(*x, row, column, std::abs(get(*x, row, column))); });
  const Guarded out = poisoned({rows, heads * d}, DType::f64),
                near = poisoned({rows, heads * d}, DType::f64),
                far_keys = poisoned({rows, heads * k}, DType::f64),
                far_values = poisoned({rows, heads * d}, DType::f64),
                den = poisoned({rows, heads}, DType::f64),
                lse = poisoned({rows, heads}, DType::f64);
  softmax_attention_forward({}, near, lse, q, key, v, segments, segments,
                            {heads, heads, d, true, window}, scale, {});
  shift_rows({}, far_keys, kf, segments, window);
  shift_rows({}, far_values, v, segments, window);
  linear_attention_forward(
      {}, out, den, qf, far_keys, far_values, segments, segments,
      {.heads = heads, .value_heads = heads, .feature_size = k, .head_dim = d});
  const Guarded gate = poisoned({heads}, DType::f64);
  for (std::int64_t h = 0; h < heads; ++h) set(gate, h, 0, 0.5 + static_cast<double>(h));
  window_combine({}, out, den, near, gate, 0.01);
  std::vector<double> expected;
  for (std::int64_t s = 0; s < segments.count; ++s)
    for (std::int64_t i = offsets[static_cast<std::size_t>(s)];
         i < offsets[static_cast<std::size_t>(s) + 1]; ++i)
      for (std::int64_t h = 0; h < heads; ++h) {
        std::vector<double> sums(static_cast<std::size_t>(d), 0), far(sums);
        double softmax = 0, linear = 0;
        for (std::int64_t j = offsets[static_cast<std::size_t>(s)]; j <= i; ++j) {
          double weight = 0;
          const bool inside = j > i - window;
          for (std::int64_t c = 0; inside && c < d; ++c)
            weight += scale * get(q, i, h * d + c) * get(key, j, h * d + c);
          for (std::int64_t r = 0; !inside && r < k; ++r)
            weight += get(qf, i, h * k + r) * get(kf, j, h * k + r);
          if (inside) weight = std::exp(weight);
          (inside ? softmax : linear) += weight;
          for (std::int64_t c = 0; c < d; ++c)
            (inside ? sums : far)[static_cast<std::size_t>(c)] += weight * get(v, j, h * d + c);
        }
        for (std::int64_t c = 0; c < d; ++c)
          expected.push_back((get(gate, h, 0) * sums[static_cast<std::size_t>(c)] / softmax +
                              far[static_cast<std::size_t>(c)]) /
                             (get(gate, h, 0) + linear));
      }
  expect_close(out, expected, "out", 1e-12);
}

}  // namespace
}  // namespace t2r::test
