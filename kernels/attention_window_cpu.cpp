// Linear attention and a softmax window under one normaliser: moves of rows, and one sweep.
#include <algorithm>

#include "kernels/attention_window.h"
#include "kernels/cpu.h"
#include "kernels/pointwise.h"

namespace t2r {
namespace {

/// The number of heads, everything checked.
std::int64_t checked_heads(const Tensor& out, const Tensor& denominator, const Tensor& window,
                           const Tensor& gate) {
  const std::int64_t heads = gate.size();
  check(heads > 0 && out.shape.rank() == 2 && out.shape[1] % heads == 0,
        "attention window: {} gates for rows of {}", heads, out.shape.text());
  check_shape(denominator, {out.rows(), heads}, "the denominator of linear attention");
  check_shape(window, out.shape, "softmax attention to the window");
  const DType wide = accumulate_dtype(out.dtype);
  check(denominator.dtype == wide && gate.dtype == wide && window.dtype == out.dtype,
        "attention window: {} denominators, {} gates and a window of {} beside an output of {}",
        name_of(denominator.dtype), name_of(gate.dtype), name_of(window.dtype), name_of(out.dtype));
  return heads;
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

void window_combine(Queue queue, Tensor out, Tensor denominator, Tensor window, Tensor gate,
                    double clamp) {
  check_cpu("window_combine", queue, out, denominator, window, gate);
  const std::int64_t heads = checked_heads(out, denominator, window, gate);
  const std::int64_t d = out.shape[1] / heads;
  dispatch(out.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
#pragma omp parallel for schedule(static) if (out.size() > kParallelElements)
    for (std::int64_t row = 0; row < out.rows(); ++row)
      for (std::int64_t h = 0; h < heads; ++h) {
        T* o = out.as<T>() + row * out.row_stride + h * d;
        const T* near = window.as<T>() + row * window.row_stride + h * d;
        A& den = denominator.as<A>()[row * denominator.row_stride + h];
        const A divided_by = std::max(den, static_cast<A>(clamp)), g = gate.as<A>()[h];
        den += g;
#pragma omp simd
        for (std::int64_t c = 0; c < d; ++c)
          store(o[c], (g * static_cast<A>(near[c]) + static_cast<A>(o[c]) * divided_by) / den);
      }
  });
}

void window_gradient(Queue queue, Tensor dwindow, Tensor dgate, Tensor dout, Tensor out,
                     Tensor denominator, Tensor window, Tensor gate) {
  check_cpu("window_gradient", queue, dwindow, dgate, dout, out, denominator, window, gate);
  const std::int64_t heads = checked_heads(out, denominator, window, gate);
  check_shape(dwindow, dout.shape, "the gradient of attention to the window");
  check_shape(dout, out.shape, "the gradient of attention");
  check_shape(dgate, gate.shape, "the gradient of the gates");
  check(dwindow.dtype == out.dtype && dout.dtype == out.dtype && dgate.dtype == gate.dtype,
        "attention window: gradients of {}, {} and {} beside an output of {}",
        name_of(dwindow.dtype), name_of(dout.dtype), name_of(dgate.dtype), name_of(out.dtype));
  const std::int64_t d = out.shape[1] / heads;
  dispatch(out.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
#pragma omp parallel for schedule(static) if (out.size() > kParallelElements)
    for (std::int64_t h = 0; h < heads; ++h) {
      const A g = gate.as<A>()[h];
      double sum = 0;  // over the rows in order, whatever the number of threads
      for (std::int64_t row = 0; row < out.rows(); ++row) {
        const auto at = [&](const Tensor& x) { return x.as<T>() + row * x.row_stride + h * d; };
        const T *from = at(dout), *o = at(out), *near = at(window);
        T* to = at(dwindow);
        const A den = denominator.as<A>()[row * denominator.row_stride + h];
        A along = 0;
#pragma omp simd reduction(+ : along)
        for (std::int64_t c = 0; c < d; ++c) {
          const A gradient = static_cast<A>(from[c]);
          along += gradient * (static_cast<A>(near[c]) - static_cast<A>(o[c]));
          store(to[c], gradient * g / den);
        }
        sum += static_cast<double>(along / den);
      }
      dgate.as<A>()[h] += static_cast<A>(sum);
    }
  });
}

}  // namespace t2r
