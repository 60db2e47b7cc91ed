// Linear attention and a softmax window under one normaliser: moves of rows, and one sweep.
#include <algorithm>

#include "kernels/attention_window.h"
#include "kernels/cpu.h"
#include "kernels/pointwise.h"

namespace t2r {
namespace {

void check_heads(const Tensor& x, const Tensor& denominator, std::int64_t heads) {
  check(heads > 0 && x.shape.rank() == 2 && x.shape[1] % heads == 0,
        "attention window: {} heads in rows of {}", heads, x.shape.text());
  check_shape(denominator, {x.rows(), heads}, "the denominator of linear attention");
  check(denominator.dtype == accumulate_dtype(x.dtype),
        "attention window: a denominator of {} beside an output of {}", name_of(denominator.dtype),
        name_of(x.dtype));
}

}  // namespace

void shift_rows(Queue queue, Tensor y, Tensor x, const Segments& segments, std::int64_t rows) {
  check_cpu("shift_rows", queue, y, x);
  check_shape(y, x.shape, "shifted rows");
  check(y.dtype == x.dtype && segments.rows() == x.rows(),
        "shift_rows: {} rows of {} into {}, in segments of {}", x.rows(), name_of(x.dtype),
        name_of(y.dtype), segments.rows());
  const std::int64_t columns = x.columns_count();
  dispatch(x.dtype, [&]<class T>() {
    for (std::int64_t s = 0; s < segments.count; ++s) {
      const std::int64_t first = segments.offsets[s], length = segments.length(s);
#pragma omp parallel for schedule(static) if (length * columns > kParallelElements)
      for (std::int64_t i = 0; i < length; ++i) {
        T* to = y.as<T>() + (first + i) * y.row_stride;
        const std::int64_t source = i - rows;
        if (source < 0 || source >= length)
          std::fill_n(to, columns, T(0));
        else
          std::copy_n(x.as<T>() + (first + source) * x.row_stride, columns, to);
      }
    }
  });
}

void window_combine(Queue queue, Tensor out, Tensor denominator, Tensor window, std::int64_t heads,
                    double clamp) {
  check_cpu("window_combine", queue, out, denominator, window);
  check_heads(out, denominator, heads);
  check_shape(window, out.shape, "softmax attention to the window");
  check(window.dtype == out.dtype, "attention window: {} beside linear attention's {}",
        name_of(window.dtype), name_of(out.dtype));
  const std::int64_t d = out.shape[1] / heads;
  dispatch(out.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
#pragma omp parallel for schedule(static) if (out.size() > kParallelElements)
    for (std::int64_t row = 0; row < out.rows(); ++row)
      for (std::int64_t h = 0; h < heads; ++h) {
        T* o = out.as<T>() + row * out.row_stride + h * d;
        const T* near = window.as<T>() + row * window.row_stride + h * d;
        A& den = denominator.as<A>()[row * denominator.row_stride + h];
        const A divided_by = std::max(den, static_cast<A>(clamp));
        den += A(1);
#pragma omp simd
        for (std::int64_t c = 0; c < d; ++c)
          store(o[c], (static_cast<A>(near[c]) + static_cast<A>(o[c]) * divided_by) / den);
      }
  });
}

void window_gradient(Queue queue, Tensor dwindow, Tensor dout, Tensor denominator,
                     std::int64_t heads) {
  check_cpu("window_gradient", queue, dwindow, dout, denominator);
  check_heads(dout, denominator, heads);
  check_shape(dwindow, dout.shape, "the gradient of attention to the window");
  check(dwindow.dtype == dout.dtype, "attention window: a gradient of {} from one of {}",
        name_of(dwindow.dtype), name_of(dout.dtype));
  const std::int64_t d = dout.shape[1] / heads;
  dispatch(dout.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
#pragma omp parallel for schedule(static) if (dout.size() > kParallelElements)
    for (std::int64_t row = 0; row < dout.rows(); ++row)
      for (std::int64_t h = 0; h < heads; ++h) {
        T* to = dwindow.as<T>() + row * dwindow.row_stride + h * d;
        const T* from = dout.as<T>() + row * dout.row_stride + h * d;
        const A den = denominator.as<A>()[row * denominator.row_stride + h];
#pragma omp simd
        for (std::int64_t c = 0; c < d; ++c) store(to[c], static_cast<A>(from[c]) / den);
      }
  });
}

}  // namespace t2r
