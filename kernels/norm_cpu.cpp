// LayerNorm and RMSNorm on the CPU: one body for both, since RMSNorm is LayerNorm without the mean
// and the bias.
#include <algorithm>
#include <cmath>

#include "kernels/cpu.h"
#include "kernels/norm.h"
#include "kernels/pointwise.h"
#include "kernels/scratch.h"

namespace t2r {
namespace {

enum class Norm { layer, rms };

// Rows go to fixed blocks, each with its own sums for dweight and dbias, which are then added in
// block order: the result does not depend on the number of threads.
constexpr std::int64_t kMaxBlocks = 64;
constexpr std::int64_t kMinBlockRows = 16;

void check_vector(const Tensor& tensor, std::int64_t size, DType dtype, const char* what) {
  check_shape(tensor, {size}, what);
  check(tensor.dtype == dtype, "{} is {}, expected {}", what, name_of(tensor.dtype),
        name_of(dtype));
}

/// Shapes and types that forward and backward share; the two tensors are y, x or dy, x.
void check_rows(const Tensor& a, const Tensor& x, const Tensor& weight, const char* what) {
  check(x.shape.rank() == 2, "a norm of {}: expected (rows, columns)", x.shape.text());
  check_shape(a, x.shape, what);
  check(a.dtype == x.dtype, "{} is {} and the norm's input {}", what, name_of(a.dtype),
        name_of(x.dtype));
  check_vector(weight, x.shape[1], x.dtype, "the norm's weight");
}

template <Norm kind, class T, class A>
void forward_row(T* y, A* mean, A* rstd, const T* x, const T* weight, const T* bias, std::int64_t n,
                 A eps) {
  A m = 0;
  if constexpr (kind == Norm::layer) {
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < n; ++i) sum += static_cast<A>(x[i]);
    m = sum / static_cast<A>(n);
    *mean = m;
  }
  A squares = 0;
#pragma omp simd reduction(+ : squares)
  for (std::int64_t i = 0; i < n; ++i) {
    const A centred = static_cast<A>(x[i]) - m;
    squares += centred * centred;
  }
  const A r = 1 / std::sqrt(squares / static_cast<A>(n) + eps);
  *rstd = r;
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) {
    A v = (static_cast<A>(x[i]) - m) * r * static_cast<A>(weight[i]);
    if constexpr (kind == Norm::layer) v += static_cast<A>(bias[i]);
    store(y[i], v);
  }
}

template <Norm kind>
void forward(Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor weight, Tensor bias, double eps) {
  const std::int64_t rows = x.rows(), n = x.columns_count();
  dispatch(x.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    T* const y0 = y.as<T>();
    const T* const x0 = x.as<T>();
    const T* const w = weight.as<T>();
    const T* const b = kind == Norm::layer ? bias.as<T>() : nullptr;
    A* const mean0 = kind == Norm::layer ? mean.as<A>() : nullptr;
    A* const rstd0 = rstd.as<A>();
#pragma omp parallel for schedule(static) if (rows * n >= kParallelElements)
    for (std::int64_t row = 0; row < rows; ++row)
      forward_row<kind>(y0 + row * y.row_stride, kind == Norm::layer ? mean0 + row : nullptr,
                        rstd0 + row, x0 + row * x.row_stride, w, b, n, static_cast<A>(eps));
  });
}

/// With h = (x - mean) * rstd and g = dy * weight:
/// dx = rstd * (g - average(g) - h * average(g * h)), dweight += dy * h, dbias += dy.
/// dweight and dbias are null where they are not wanted.
template <Norm kind, bool weights, class T, class A>
void backward_row(T* dx, A* dweight, A* dbias, const T* dy, const T* x, const T* weight, A mean,
                  A rstd, std::int64_t n, bool accumulate) {
  A sum_g = 0, sum_gh = 0;
#pragma omp simd reduction(+ : sum_g, sum_gh)
  for (std::int64_t i = 0; i < n; ++i) {
    const A d = static_cast<A>(dy[i]);
    const A h = (static_cast<A>(x[i]) - mean) * rstd;
    const A g = d * static_cast<A>(weight[i]);
    if constexpr (weights) dweight[i] += d * h;
    if constexpr (weights && kind == Norm::layer) dbias[i] += d;
    if constexpr (kind == Norm::layer) sum_g += g;
    sum_gh += g * h;
  }
  const A average_g = sum_g / static_cast<A>(n), average_gh = sum_gh / static_cast<A>(n);
  const auto gradient = [&](std::int64_t i) {
    const A h = (static_cast<A>(x[i]) - mean) * rstd;
    return rstd * (static_cast<A>(dy[i]) * static_cast<A>(weight[i]) - average_g - h * average_gh);
  };
  if (accumulate) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) store(dx[i], static_cast<A>(dx[i]) + gradient(i));
  } else {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) store(dx[i], gradient(i));
  }
}

/// The gradient of the input alone.
template <Norm kind>
void backward_input(Tensor dx, Tensor dy, Tensor x, Tensor weight, Tensor mean, Tensor rstd,
                    bool accumulate) {
  const std::int64_t rows = x.rows(), n = x.columns_count();
  dispatch(x.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    const A* const mean0 = kind == Norm::layer ? mean.as<A>() : nullptr;
    const A* const rstd0 = rstd.as<A>();
#pragma omp parallel for schedule(static) if (rows * n >= kParallelElements)
    for (std::int64_t row = 0; row < rows; ++row)
      backward_row<kind, false>(dx.as<T>() + row * dx.row_stride, static_cast<A*>(nullptr),
                                static_cast<A*>(nullptr), dy.as<T>() + row * dy.row_stride,
                                x.as<T>() + row * x.row_stride, weight.as<T>(),
                                kind == Norm::layer ? mean0[row] : A{0}, rstd0[row], n, accumulate);
  });
}

template <Norm kind>
void backward(Tensor dx, Tensor dweight, Tensor dbias, Tensor dy, Tensor x, Tensor weight,
              Tensor mean, Tensor rstd, bool accumulate) {
  const std::int64_t rows = x.rows(), n = x.columns_count();
  const std::int64_t blocks = std::min(kMaxBlocks, (rows + kMinBlockRows - 1) / kMinBlockRows);
  const std::int64_t width = kind == Norm::layer ? 2 * n : n;
  dispatch(x.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    T* const dx0 = dx.as<T>();
    const T* const dy0 = dy.as<T>();
    const T* const x0 = x.as<T>();
    const T* const w = weight.as<T>();
    const A* const mean0 = kind == Norm::layer ? mean.as<A>() : nullptr;
    const A* const rstd0 = rstd.as<A>();
    A* const dw = dweight.as<A>();
    A* const db = kind == Norm::layer ? dbias.as<A>() : nullptr;
    ScratchScope scratch;
    A* const sums = scratch.array<A>(blocks * width);
#pragma omp parallel for schedule(static) if (rows * n >= kParallelElements)
    for (std::int64_t block = 0; block < blocks; ++block) {
      A* const sum = sums + block * width;
      std::fill(sum, sum + width, A{0});
      for (std::int64_t row = rows * block / blocks; row < rows * (block + 1) / blocks; ++row)
        backward_row<kind, true>(dx0 + row * dx.row_stride, sum, sum + n, dy0 + row * dy.row_stride,
                                 x0 + row * x.row_stride, w,
                                 kind == Norm::layer ? mean0[row] : A{0}, rstd0[row], n,
                                 accumulate);
    }
    for (std::int64_t block = 0; block < blocks; ++block) {
      const A* const sum = sums + block * width;
#pragma omp simd
      for (std::int64_t i = 0; i < n; ++i) dw[i] += sum[i];
      if constexpr (kind == Norm::layer) {
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) db[i] += sum[n + i];
      }
    }
  });
}

void check_forward(const Tensor& y, const Tensor& rstd, const Tensor& x, const Tensor& weight,
                   double eps) {
  check_rows(y, x, weight, "the norm's output");
  check_vector(rstd, x.shape[0], accumulate_dtype(x.dtype), "the norm's rstd");
  check(eps >= 0, "a norm with eps {}: it must not be negative", eps);
}

void check_backward(const Tensor& dx, const Tensor& dweight, const Tensor& dy, const Tensor& x,
                    const Tensor& weight, const Tensor& rstd) {
  check_rows(dx, x, weight, "the norm's input gradient");
  check_rows(dy, x, weight, "the norm's output gradient");
  if (dweight)
    check_vector(dweight, x.shape[1], accumulate_dtype(x.dtype), "the norm's weight gradient");
  check_vector(rstd, x.shape[0], accumulate_dtype(x.dtype), "the norm's rstd");
}

}  // namespace

void layer_norm_forward(Queue queue, Tensor y, Tensor mean, Tensor rstd, Tensor x, Tensor weight,
                        Tensor bias, double eps) {
  check_cpu("layer_norm_forward", queue, y, mean, rstd, x, weight, bias);
  check_forward(y, rstd, x, weight, eps);
  check_vector(mean, x.shape[0], accumulate_dtype(x.dtype), "the norm's mean");
  check_vector(bias, x.shape[1], x.dtype, "the norm's bias");
  forward<Norm::layer>(y, mean, rstd, x, weight, bias, eps);
}

void layer_norm_backward(Queue queue, Tensor dx, Tensor dweight, Tensor dbias, Tensor dy, Tensor x,
                         Tensor weight, Tensor mean, Tensor rstd, bool accumulate) {
  check_cpu("layer_norm_backward", queue, dx, dweight, dbias, dy, x, weight, mean, rstd);
  check_backward(dx, dweight, dy, x, weight, rstd);
  check_vector(mean, x.shape[0], accumulate_dtype(x.dtype), "the norm's mean");
  check(static_cast<bool>(dweight) == static_cast<bool>(dbias),
        "a norm with the gradient of its weight or of its bias alone");
  if (!dweight) {
    backward_input<Norm::layer>(dx, dy, x, weight, mean, rstd, accumulate);
    return;
  }
  check_vector(dbias, x.shape[1], accumulate_dtype(x.dtype), "the norm's bias gradient");
  backward<Norm::layer>(dx, dweight, dbias, dy, x, weight, mean, rstd, accumulate);
}

void rms_norm_forward(Queue queue, Tensor y, Tensor rstd, Tensor x, Tensor weight, double eps) {
  check_cpu("rms_norm_forward", queue, y, rstd, x, weight);
  check_forward(y, rstd, x, weight, eps);
  forward<Norm::rms>(y, Tensor(), rstd, x, weight, Tensor(), eps);
}

void rms_norm_backward(Queue queue, Tensor dx, Tensor dweight, Tensor dy, Tensor x, Tensor weight,
                       Tensor rstd, bool accumulate) {
  check_cpu("rms_norm_backward", queue, dx, dweight, dy, x, weight, rstd);
  check_backward(dx, dweight, dy, x, weight, rstd);
  if (!dweight) {
    backward_input<Norm::rms>(dx, dy, x, weight, Tensor(), rstd, accumulate);
    return;
  }
  backward<Norm::rms>(dx, dweight, Tensor(), dy, x, weight, Tensor(), rstd, accumulate);
}

}  // namespace t2r
