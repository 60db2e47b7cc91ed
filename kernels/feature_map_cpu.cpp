// The feature maps on the CPU: small products head by head over tiles of rows, with scale, bias and
// relu (or sine and cosine) on the way out. The parts that gradients of the weights are summed in
// depend on the number of rows only, so the result is the same for any number of threads.
#include <algorithm>
#include <cmath>

#include "kernels/feature_map.h"
#include "kernels/pointwise.h"
#include "kernels/scratch.h"
#include "kernels/tile_matmul.h"
#include "kernels/tile_rows.h"
#include "kernels/vector_math.h"

namespace t2r {
namespace {

constexpr std::int64_t kTileRows = 64;
// Rows of one part of the work, and the most parts that weight gradients are kept in.
constexpr std::int64_t kPartRows = 512;
constexpr std::int64_t kMostParts = 8;
// |x| is sqrt(|x|^2 + this): a vector of zeros has a direction of zeros.
constexpr double kNormGuard = 1e-12;

struct Sizes {
  std::int64_t rows, heads, input_heads, group, k, d;
};

/// One map's arguments, unpacked. Backward reads dy and y, forward writes y.
template <class T>
struct Call {
  using A = accumulate_t<T>;
  Sizes sizes;
  Rows<const T> x, weight, bias;  // a head a row
  Rows<T> y, dx;
  Rows<const T> dy;
  Rows<A> dweight, dbias;
  A scale;
};

/// Calls body(first, last) of each part of the rows, for i in [0, count), in parallel.
template <class Body>
void for_each_part(std::int64_t count, std::int64_t rows, std::int64_t parts, std::int64_t work,
                   const Body& body) {
#pragma omp parallel for schedule(static) if (work >= kParallelElements)
  for (std::int64_t i = 0; i < count * parts; ++i) {
    const std::int64_t part = i % parts;
    body(i / parts, part, rows * part / parts, rows * (part + 1) / parts);
  }
}

std::int64_t parts_of(std::int64_t rows) {
  return std::clamp<std::int64_t>(rows / kPartRows, 1, kMostParts);
}

/// x' = x / |x| of `rows` rows into `to` (rows, d), 1 / |x| into `inverse`.
template <class A>
void normalise(A* to, A* inverse, Rows<const A> x, std::int64_t rows, std::int64_t d) {
  for (std::int64_t i = 0; i < rows; ++i) {
    inverse[i] = A(1) / std::sqrt(inner(x.at(i), x.at(i), d) + static_cast<A>(kNormGuard));
#pragma omp simd
    for (std::int64_t c = 0; c < d; ++c) to[i * d + c] = x.at(i)[c] * inverse[i];
  }
}

template <class T>
void t2r_forward(const Call<T>& call) {
  using A = accumulate_t<T>;
  const auto [rows, heads, input_heads, group, k, d] = call.sizes;
  const std::int64_t parts = std::max<std::int64_t>(1, rows / kPartRows);
  const auto part_of_head = [&](std::int64_t h, std::int64_t, std::int64_t begin,
                                std::int64_t end) {
    ScratchScope scratch;
    A* turned = scratch.array<A>(d * k);
    A* bias = scratch.array<A>(k);
    A* x_scratch = scratch.array<A>(kTileRows * d);
    A* features = scratch.array<A>(kTileRows * k);
    const Rows<const T> head_weight{call.weight.at(h), d};
    const Rows<const A> weight = load_tile(scratch.array<A>(k * d), head_weight, 0, k, 0, d);
    tile::transpose(turned, k, weight.data, weight.stride, k, d);
    convert(bias, call.bias.at(h), k);
    for (std::int64_t row = begin; row < end; row += kTileRows) {
      const std::int64_t n = std::min(kTileRows, end - row);
      const Rows<const A> x = load_tile(x_scratch, call.x, row, n, h / group * d, d);
      tile_matmul_nn(features, k, x.data, x.stride, turned, k, n, k, d, false);
      for (std::int64_t i = 0; i < n; ++i) {
        T* y = call.y.at(row + i, h * k);
#pragma omp simd
        for (std::int64_t r = 0; r < k; ++r) {
          const A value = call.scale * features[i * k + r] + bias[r];
          store(y[r], value < A(0) ? A(0) : value);
        }
      }
    }
  };
  for_each_part(heads, rows, parts, rows * heads * k, part_of_head);
}

/// Adds the parts' sums, (parts, heads, size) at `from` with distance `stride`, to `to` in the
/// parts' order.
template <class A>
void add_parts(Rows<A> to, const A* from, std::int64_t stride, std::int64_t parts,
               std::int64_t heads, std::int64_t size, A factor) {
  for (std::int64_t h = 0; h < heads; ++h)
    for (std::int64_t part = 0; part < parts; ++part)
      add_scaled(to.at(h), factor, from + (part * heads + h) * stride, size);
}

template <class T>
void t2r_backward(const Call<T>& call) {
  using A = accumulate_t<T>;
  const auto [rows, heads, input_heads, group, k, d] = call.sizes;
  const std::int64_t parts = parts_of(rows), sums_size = k * d + k;
  ScratchScope shared;
  A* sums = shared.array<A>(parts * heads * sums_size);  // dW, then db, without the scale
  const auto part_of_head = [&](std::int64_t input, std::int64_t part, std::int64_t begin,
                                std::int64_t end) {
    ScratchScope scratch;
    A* pre = scratch.array<A>(kTileRows * k);  // gradient before the relu
    A* x_scratch = scratch.array<A>(kTileRows * d);
    A* dx_scratch = scratch.array<A>(kTileRows * d);
    const std::int64_t first = input * group;
    const Rows<const T> stored{call.weight.at(first), d};  // (group * k, d)
    const Rows<const A> weight =
        load_tile(scratch.array<A>(group * k * d), stored, 0, group * k, 0, d);
    A* part_sums = sums + (part * heads + first) * sums_size;
    std::fill(part_sums, part_sums + group * sums_size, A(0));
    for (std::int64_t row = begin; row < end; row += kTileRows) {
      const std::int64_t n = std::min(kTileRows, end - row);
      const Rows<const A> x = load_tile(x_scratch, call.x, row, n, input * d, d);
      const Rows<A> dx{dx_scratch, d};
      for (std::int64_t g = 0; g < group; ++g) {
        A *dweight = part_sums + g * sums_size, *dbias = dweight + k * d;
        for (std::int64_t i = 0; i < n; ++i) {
          const T* dy = call.dy.at(row + i, (first + g) * k);
          const T* y = call.y.at(row + i, (first + g) * k);
#pragma omp simd
          for (std::int64_t r = 0; r < k; ++r) {
            const A gradient = static_cast<A>(y[r]) > A(0) ? static_cast<A>(dy[r]) : A(0);
            pre[i * k + r] = gradient;
            dbias[r] += gradient;
          }
        }
        tile_matmul_nn(dx.data, dx.stride, pre, k, weight.at(g * k), weight.stride, n, d, k, g > 0);
        tile_matmul_tn(dweight, d, pre, k, x.data, x.stride, k, d, n, true);
      }
      for (std::int64_t i = 0; i < n; ++i) scale(dx.at(i), call.scale, d);
      store_tile(call.dx, row, n, input * d, d, dx);
    }
  };
  for_each_part(input_heads, rows, parts, rows * heads * k, part_of_head);
  add_parts(call.dweight, sums, sums_size, parts, heads, k * d, call.scale);
  add_parts(call.dbias, sums + k * d, sums_size, parts, heads, k, A(1));
}

template <class T>
void rfa_forward(const Call<T>& call) {
  using A = accumulate_t<T>;
  const auto [rows, heads, input_heads, group, k, d] = call.sizes;
  const std::int64_t half = k / 2, parts = std::max<std::int64_t>(1, rows / kPartRows);
  const A amplitude = std::sqrt(A(2) / static_cast<A>(k));
  const auto part_of_head = [&](std::int64_t h, std::int64_t, std::int64_t begin,
                                std::int64_t end) {
    ScratchScope scratch;
    A* angles = scratch.array<A>(kTileRows * half);
    A* unit = scratch.array<A>(kTileRows * d);
    A* inverse = scratch.array<A>(kTileRows);
    A* x_scratch = scratch.array<A>(kTileRows * d);
    const Rows<const T> stored{call.weight.at(h), d};
    const Rows<const A> weight = load_tile(scratch.array<A>(half * d), stored, 0, half, 0, d);
    const A frequency = A(1) / static_cast<A>(*call.bias.at(h));
    for (std::int64_t row = begin; row < end; row += kTileRows) {
      const std::int64_t n = std::min(kTileRows, end - row);
      normalise(unit, inverse, load_tile(x_scratch, call.x, row, n, h / group * d, d), n, d);
      tile_matmul_nt(angles, half, unit, d, weight.data, weight.stride, n, half, d, false);
      for (std::int64_t i = 0; i < n; ++i) {
        T* y = call.y.at(row + i, h * k);
        for (std::int64_t r = 0; r < half; ++r) {
          const A angle = angles[i * half + r] * frequency;
          store(y[r], amplitude * std::sin(angle));
          store(y[half + r], amplitude * std::cos(angle));
        }
      }
    }
  };
  for_each_part(heads, rows, parts, rows * heads * k, part_of_head);
}

/// With u = W x' / s, the angles: du_r = dy_r y_{k/2+r} - dy_{k/2+r} y_r, dx' = W^T du / s and
/// ds = -du . u / s = -dx' . x' / s.
template <class T>
void rfa_backward(const Call<T>& call) {
  using A = accumulate_t<T>;
  const auto [rows, heads, input_heads, group, k, d] = call.sizes;
  const std::int64_t half = k / 2, parts = parts_of(rows);
  ScratchScope shared;
  A* sums = shared.array<A>(parts * heads);  // dx' . x'
  const auto part_of_head = [&](std::int64_t input, std::int64_t part, std::int64_t begin,
                                std::int64_t end) {
    ScratchScope scratch;
    A* d_angles = scratch.array<A>(kTileRows * half);
    A* unit = scratch.array<A>(kTileRows * d);
    A* d_unit = scratch.array<A>(kTileRows * d);  // of one head
    A* inverse = scratch.array<A>(kTileRows);
    A* x_scratch = scratch.array<A>(kTileRows * d);
    A* dx_scratch = scratch.array<A>(kTileRows * d);
    const std::int64_t first = input * group;
    const Rows<const T> stored{call.weight.at(first), d};  // (group * half, d)
    const Rows<const A> weight =
        load_tile(scratch.array<A>(group * half * d), stored, 0, group * half, 0, d);
    A* part_sums = sums + part * heads + first;
    std::fill(part_sums, part_sums + group, A(0));
    for (std::int64_t row = begin; row < end; row += kTileRows) {
      const std::int64_t n = std::min(kTileRows, end - row);
      normalise(unit, inverse, load_tile(x_scratch, call.x, row, n, input * d, d), n, d);
      const Rows<A> dx{dx_scratch, d};
      for (std::int64_t i = 0; i < n; ++i) std::fill(dx.at(i), dx.at(i) + d, A(0));
      for (std::int64_t g = 0; g < group; ++g) {
        const A frequency = A(1) / static_cast<A>(*call.bias.at(first + g));
        for (std::int64_t i = 0; i < n; ++i) {
          const T* dy = call.dy.at(row + i, (first + g) * k);
          const T* y = call.y.at(row + i, (first + g) * k);
#pragma omp simd
          for (std::int64_t r = 0; r < half; ++r)
            d_angles[i * half + r] =
                frequency * (static_cast<A>(dy[r]) * static_cast<A>(y[half + r]) -
                             static_cast<A>(dy[half + r]) * static_cast<A>(y[r]));
        }
        tile_matmul_nn(d_unit, d, d_angles, half, weight.at(g * half), weight.stride, n, d, half,
                       false);
        for (std::int64_t i = 0; i < n; ++i) {
          part_sums[g] += inner<A>(d_unit + i * d, unit + i * d, d);
          add_scaled<A>(dx.at(i), A(1), d_unit + i * d, d);
        }
      }
      for (std::int64_t i = 0; i < n; ++i) {  // through x' = x / |x|
        add_scaled<A>(dx.at(i), -inner<A>(dx.at(i), unit + i * d, d), unit + i * d, d);
        scale(dx.at(i), inverse[i], d);
      }
      store_tile(call.dx, row, n, input * d, d, dx);
    }
  };
  for_each_part(input_heads, rows, parts, rows * heads * k, part_of_head);
  for (std::int64_t h = 0; h < heads; ++h)
    add_parts(Rows<A>{call.dbias.at(h), 1}, sums + h, heads, parts, 1, 1,
              A(-1) / static_cast<A>(*call.bias.at(h)));
}

/// to (count) = softmax(sign x).
template <class A>
void softmax_of(A* to, const A* x, A sign, std::int64_t count) {
  A top = sign * x[0];
  for (std::int64_t r = 1; r < count; ++r) top = std::max(top, sign * x[r]);
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t r = 0; r < count; ++r) {
    to[r] = fast_exp(sign * x[r] - top);
    sum += to[r];
  }
  scale(to, A(1) / sum, count);
}

template <class T>
void hedgehog_forward(const Call<T>& call) {
  using A = accumulate_t<T>;
  const auto [rows, heads, input_heads, group, k, d] = call.sizes;
  const std::int64_t half = k / 2, parts = std::max<std::int64_t>(1, rows / kPartRows);
  const auto part_of_head = [&](std::int64_t h, std::int64_t, std::int64_t begin,
                                std::int64_t end) {
    ScratchScope scratch;
    A* turned = scratch.array<A>(d * half);
    A* mapped = scratch.array<A>(kTileRows * half);  // W x
    A* features = scratch.array<A>(k);
    A* x_scratch = scratch.array<A>(kTileRows * d);
    const Rows<const T> stored{call.weight.at(h), d};
    const Rows<const A> weight = load_tile(scratch.array<A>(half * d), stored, 0, half, 0, d);
    tile::transpose(turned, half, weight.data, weight.stride, half, d);
    for (std::int64_t row = begin; row < end; row += kTileRows) {
      const std::int64_t n = std::min(kTileRows, end - row);
      const Rows<const A> x = load_tile(x_scratch, call.x, row, n, h / group * d, d);
      tile_matmul_nn(mapped, half, x.data, x.stride, turned, half, n, half, d, false);
      for (std::int64_t i = 0; i < n; ++i) {
        softmax_of(features, mapped + i * half, A(1), half);
        softmax_of(features + half, mapped + i * half, A(-1), half);
        convert(call.y.at(row + i, h * k), features, k);
      }
    }
  };
  for_each_part(heads, rows, parts, rows * heads * k, part_of_head);
}

/// With u = W x and y = [p ; m]: du = p (dy_p - dy_p . p) - m (dy_m - dy_m . m), dx = W^T du.
template <class T>
void hedgehog_backward(const Call<T>& call) {
  using A = accumulate_t<T>;
  const auto [rows, heads, input_heads, group, k, d] = call.sizes;
  const std::int64_t half = k / 2, parts = parts_of(rows), sums_size = half * d;
  ScratchScope shared;
  A* sums = shared.array<A>(parts * heads * sums_size);  // dW
  const auto part_of_head = [&](std::int64_t input, std::int64_t part, std::int64_t begin,
                                std::int64_t end) {
    ScratchScope scratch;
    A* d_mapped = scratch.array<A>(kTileRows * half);
    A* y = scratch.array<A>(k);
    A* dy = scratch.array<A>(k);
    A* x_scratch = scratch.array<A>(kTileRows * d);
    A* dx_scratch = scratch.array<A>(kTileRows * d);
    const std::int64_t first = input * group;
    const Rows<const T> stored{call.weight.at(first), d};  // (group * half, d)
    const Rows<const A> weight =
        load_tile(scratch.array<A>(group * half * d), stored, 0, group * half, 0, d);
    A* part_sums = sums + (part * heads + first) * sums_size;
    std::fill(part_sums, part_sums + group * sums_size, A(0));
    for (std::int64_t row = begin; row < end; row += kTileRows) {
      const std::int64_t n = std::min(kTileRows, end - row);
      const Rows<const A> x = load_tile(x_scratch, call.x, row, n, input * d, d);
      const Rows<A> dx{dx_scratch, d};
      for (std::int64_t g = 0; g < group; ++g) {
        for (std::int64_t i = 0; i < n; ++i) {
          convert(y, call.y.at(row + i, (first + g) * k), k);
          convert(dy, call.dy.at(row + i, (first + g) * k), k);
          const A plus = inner<A>(dy, y, half), minus = inner<A>(dy + half, y + half, half);
#pragma omp simd
          for (std::int64_t r = 0; r < half; ++r)
            d_mapped[i * half + r] = y[r] * (dy[r] - plus) - y[half + r] * (dy[half + r] - minus);
        }
        tile_matmul_nn(dx.data, dx.stride, d_mapped, half, weight.at(g * half), weight.stride, n, d,
                       half, g > 0);
        tile_matmul_tn(part_sums + g * sums_size, d, d_mapped, half, x.data, x.stride, half, d, n,
                       true);
      }
      store_tile(call.dx, row, n, input * d, d, dx);
    }
  };
  for_each_part(input_heads, rows, parts, rows * heads * k, part_of_head);
  add_parts(call.dweight, sums, sums_size, parts, heads, sums_size, A(1));
}

template <class T>
void elu_forward(const Call<T>& call) {
  using A = accumulate_t<T>;
  const auto [rows, heads, input_heads, group, k, d] = call.sizes;
#pragma omp parallel for schedule(static) if (rows * heads * k >= kParallelElements)
  for (std::int64_t row = 0; row < rows; ++row)
    for (std::int64_t h = 0; h < heads; ++h) {
      const T* x = call.x.at(row, h / group * d);
      T* y = call.y.at(row, h * k);
#pragma omp simd
      for (std::int64_t c = 0; c < d; ++c) {
        const A value = call.scale * static_cast<A>(x[c]);
        store(y[c], value > A(0) ? value + A(1) : fast_exp(value));
      }
    }
}

/// The derivative follows from y: y itself where y < 1, else 1.
template <class T>
void elu_backward(const Call<T>& call) {
  using A = accumulate_t<T>;
  const auto [rows, heads, input_heads, group, k, d] = call.sizes;
#pragma omp parallel if (rows * heads * k >= kParallelElements)
  {
    ScratchScope scratch;
    A* sum = scratch.array<A>(d);
#pragma omp for schedule(static)
    for (std::int64_t row = 0; row < rows; ++row)
      for (std::int64_t input = 0; input < input_heads; ++input) {
        std::fill(sum, sum + d, A(0));
        for (std::int64_t h = input * group; h < (input + 1) * group; ++h) {
          const T *dy = call.dy.at(row, h * k), *y = call.y.at(row, h * k);
#pragma omp simd
          for (std::int64_t c = 0; c < d; ++c) {
            const A value = static_cast<A>(y[c]);
            sum[c] += call.scale * static_cast<A>(dy[c]) * (value < A(1) ? value : A(1));
          }
        }
        convert(call.dx.at(row, input * d), sum, d);
      }
  }
}

/// Sizes from the tensors, everything checked.
Sizes checked_sizes(const Queue& queue, const Tensor& y, const Tensor& x,
                    const FeatureMapWeights& weights, std::int64_t heads,
                    std::int64_t input_heads) {
  check(queue.device == Device::cpu, "feature map: no kernel for this device in this build");
  check(heads > 0 && input_heads > 0 && heads % input_heads == 0,
        "feature map: {} heads of {} input heads, the latter must divide the former", heads,
        input_heads);
  check(x.shape.rank() == 2 && x.shape[1] % input_heads == 0 && x.shape[1] > 0,
        "feature map: the input is {} for {} heads", x.shape.text(), input_heads);
  check(y.shape.rank() == 2 && y.shape[0] == x.shape[0] && y.shape[1] % heads == 0 &&
            y.shape[1] > 0 && y.dtype == x.dtype,
        "feature map: features {} {} of {} heads from an input {} {}", name_of(y.dtype),
        y.shape.text(), heads, name_of(x.dtype), x.shape.text());
  const Sizes sizes{x.rows(),           heads,
                    input_heads,        heads / input_heads,
                    y.shape[1] / heads, x.shape[1] / input_heads};
  if (weights.kind == FeatureMap::elu) {
    check(sizes.k == sizes.d,
          "the elu feature map gives as many features as a head has dimensions: {}, not {}",
          sizes.d, sizes.k);
    return sizes;
  }
  const bool biased = weights.kind != FeatureMap::hedgehog;
  check(weights.weight.dtype == x.dtype && (!biased || weights.bias.dtype == x.dtype),
        "feature map: weights of {} and {} for an input of {}", name_of(weights.weight.dtype),
        name_of(weights.bias.dtype), name_of(x.dtype));
  check(weights.weight.contiguous() && (!biased || weights.bias.contiguous()),
        "feature map: the weights must be contiguous");
  if (weights.kind != FeatureMap::t2r) {
    const char* name = weights.kind == FeatureMap::rfa ? "rfa" : "hedgehog";
    check(sizes.k % 2 == 0, "the {} feature map needs an even number of features, not {}", name,
          sizes.k);
    check_shape(weights.weight, {heads, sizes.k / 2, sizes.d}, "the feature map's weight");
    if (biased) check_shape(weights.bias, {heads}, "the rfa feature map's scale");
  } else {
    check_shape(weights.weight, {heads, sizes.k, sizes.d}, "the t2r feature map's weight");
    check_shape(weights.bias, {heads, sizes.k}, "the t2r feature map's bias");
  }
  return sizes;
}

template <class T>
Call<T> unpack(const Sizes& sizes, const Tensor& y, const Tensor& x,
               const FeatureMapWeights& weights, double scale) {
  Call<T> call{};
  call.sizes = sizes;
  call.x = rows_of<const T>(x);
  call.y = rows_of<T>(y);
  call.scale = static_cast<accumulate_t<T>>(scale);
  if (weights.kind == FeatureMap::elu) return call;
  call.weight = rows_of<const T>(weights.weight);
  if (weights.bias) call.bias = rows_of<const T>(weights.bias);
  return call;
}

}  // namespace

void feature_map_forward(Queue queue, Tensor y, Tensor x, const FeatureMapWeights& weights,
                         std::int64_t heads, std::int64_t input_heads, double scale) {
  const Sizes sizes = checked_sizes(queue, y, x, weights, heads, input_heads);
  dispatch(x.dtype, [&]<class T>() {
    const Call<T> call = unpack<T>(sizes, y, x, weights, scale);
    switch (weights.kind) {
      case FeatureMap::t2r:
        return t2r_forward(call);
      case FeatureMap::elu:
        return elu_forward(call);
      case FeatureMap::rfa:
        return rfa_forward(call);
      case FeatureMap::hedgehog:
        return hedgehog_forward(call);
    }
  });
}

void feature_map_backward(Queue queue, Tensor dx, FeatureMapWeights dweights, Tensor dy, Tensor y,
                          Tensor x, const FeatureMapWeights& weights, std::int64_t heads,
                          std::int64_t input_heads, double scale) {
  const Sizes sizes = checked_sizes(queue, y, x, weights, heads, input_heads);
  check(dx.shape == x.shape && dx.dtype == x.dtype && dy.shape == y.shape && dy.dtype == y.dtype,
        "feature map: gradients {} and {} for an input {} and features {}", dx.shape.text(),
        dy.shape.text(), x.shape.text(), y.shape.text());
  const bool weight_learned =
      weights.kind == FeatureMap::t2r || weights.kind == FeatureMap::hedgehog;
  const bool bias_learned = weights.kind == FeatureMap::t2r || weights.kind == FeatureMap::rfa;
  if (weight_learned)
    check_shape(dweights.weight, weights.weight.shape, "the gradient of the feature map's weight");
  if (bias_learned)
    check_shape(dweights.bias, weights.bias.shape, "the gradient of the feature map's bias");
  dispatch(x.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    Call<T> call = unpack<T>(sizes, y, x, weights, scale);
    call.dx = rows_of<T>(dx);
    call.dy = rows_of<const T>(dy);
    if (weight_learned) call.dweight = rows_of<A>(dweights.weight);
    if (bias_learned) call.dbias = rows_of<A>(dweights.bias);
    switch (weights.kind) {
      case FeatureMap::t2r:
        return t2r_backward(call);
      case FeatureMap::elu:
        return elu_backward(call);
      case FeatureMap::rfa:
        return rfa_backward(call);
      case FeatureMap::hedgehog:
        return hedgehog_backward(call);
    }
  });
}

void relu_inplace(Queue queue, Tensor x) {
  check(queue.device == Device::cpu, "relu: no kernel for this device in this build");
  dispatch(x.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    const Rows<T> rows = rows_of<T>(x);
    for_each_piece_of(x, x.contiguous(),
                      [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
                        T* values = rows.at(row);
#pragma omp simd
                        for (std::int64_t i = begin; i < end; ++i) {
                          const A value = static_cast<A>(values[i]);
                          store(values[i], value < A(0) ? A(0) : value);
                        }
                      });
  });
}

}  // namespace t2r
