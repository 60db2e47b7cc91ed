// Spans on the CPU: memory-bound loops, in pieces of fixed length so that sums do not depend on
// the number of threads.
#include <atomic>
#include <bit>
#include <limits>
#include <type_traits>

#include "kernels/cpu.h"
#include "kernels/elementwise.h"
#include "kernels/pointwise.h"
#include "kernels/scratch.h"

namespace t2r {
namespace {

/// Calls f(y, x, count) with typed pointers for pieces of y and x (of one shape) in parallel.
template <class F>
void for_each_pair(const Tensor& y, const Tensor& x, F&& f) {
  check_shape(x, y.shape, "the source");
  dispatch(y.dtype, [&]<class Y>() {
    dispatch(x.dtype, [&]<class X>() {
      Y* const to = y.as<Y>();
      const X* const from = x.as<X>();
      for_each_piece_of(y, y.contiguous() && x.contiguous(),
                        [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
                          f(to + row * y.row_stride + begin, from + row * x.row_stride + begin,
                            end - begin);
                        });
    });
  });
}

/// Calls f(x, count, first) for pieces of x in parallel; `first` is the place of the piece's first
/// element in row order.
template <class F>
void for_each_part(const Tensor& x, F&& f) {
  dispatch(x.dtype, [&]<class T>() {
    T* const data = x.as<T>();
    for_each_piece_of(
        x, x.contiguous(), [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
          f(data + row * x.row_stride + begin, end - begin, row * x.columns_count() + begin);
        });
  });
}

/// True when an exponent is all ones: infinity or NaN. Integer work, so it vectorises.
inline bool non_finite(double x) {
  return (std::bit_cast<std::uint64_t>(x) & 0x7FF0000000000000u) == 0x7FF0000000000000u;
}
inline bool non_finite(float x) {
  return (std::bit_cast<std::uint32_t>(x) & 0x7F800000u) == 0x7F800000u;
}
inline bool non_finite(bf16 x) {
  return (x.bits & 0x7F80u) == 0x7F80u;
}

}  // namespace

void fill(Queue queue, Tensor x, double value) {
  check_cpu("fill", queue, x);
  for_each_part(x, [=]<class T>(T* data, std::int64_t count, std::int64_t) {
    const T element = static_cast<T>(static_cast<accumulate_t<T>>(value));
    std::fill_n(data, count, element);
  });
}

void copy(Queue queue, Tensor y, Tensor x) {
  check_cpu("copy", queue, y, x);
  for_each_pair(y, x, []<class Y, class X>(Y* to, const X* from, std::int64_t count) {
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) store(to[i], accumulate_t<Y>(from[i]));
  });
}

void add_to(Queue queue, Tensor y, Tensor x) {
  check_cpu("add_to", queue, y, x);
  for_each_pair(y, x, []<class Y, class X>(Y* to, const X* from, std::int64_t count) {
    using A = accumulate_t<Y>;
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) store(to[i], A(to[i]) + A(from[i]));
  });
}

void scale_by(Queue queue, Tensor y, double factor) {
  check_cpu("scale_by", queue, y);
  for_each_part(y, [=]<class T>(T* data, std::int64_t count, std::int64_t) {
    using A = accumulate_t<T>;
    const A f = static_cast<A>(factor);
#pragma omp simd
    for (std::int64_t i = 0; i < count; ++i) store(data[i], A(data[i]) * f);
  });
}

double squared_difference(Queue queue, Tensor dx, Tensor x, Tensor y, double scale) {
  check_cpu("squared_difference", queue, dx, x, y);
  for (const Tensor& other : {dx, y}) {
    check_shape(other, x.shape, "squared_difference");
    check(other.dtype == x.dtype && other.contiguous() && x.contiguous(),
          "squared_difference: tensors of {} and {}, which must be alike and contiguous",
          name_of(x.dtype), name_of(other.dtype));
  }
  if (x.size() == 0) return 0;
  ScratchScope scratch;
  double* const sums = scratch.array<double>((x.size() + kPieceElements - 1) / kPieceElements);
  dispatch(x.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    const T *a = x.as<T>(), *b = y.as<T>();
    T* d = dx.as<T>();
    for_each_piece(1, x.size(), [&](std::int64_t, std::int64_t begin, std::int64_t end) {
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t i = begin; i < end; ++i) {
        const A difference = A(a[i]) - A(b[i]);
        sum += static_cast<double>(difference) * static_cast<double>(difference);
        store(d[i], static_cast<A>(scale) * difference);
      }
      sums[begin / kPieceElements] = sum;
    });
  });
  double total = 0;
  for (std::int64_t i = 0; i < (x.size() + kPieceElements - 1) / kPieceElements; ++i)
    total += sums[i];
  return total;
}

double sum_of_squares(Queue queue, Tensor x) {
  check_cpu("sum_of_squares", queue, x);
  if (x.size() == 0) return 0;
  const std::int64_t rows = x.contiguous() ? 1 : x.rows();
  const std::int64_t columns = x.size() / rows;
  const std::int64_t in_row = (columns + kPieceElements - 1) / kPieceElements;
  ScratchScope scratch;
  double* const sums = scratch.array<double>(rows * in_row);
  for_each_part(x, [&]<class T>(const T* data, std::int64_t count, std::int64_t first) {
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (std::int64_t i = 0; i < count; ++i) {
      const double value = accumulate_t<T>(data[i]);
      sum += value * value;
    }
    sums[first / columns * in_row + first % columns / kPieceElements] = sum;
  });
  double total = 0;
  for (std::int64_t i = 0; i < rows * in_row; ++i) total += sums[i];
  return total;
}

std::int64_t first_non_finite(Queue queue, Tensor x) {
  check_cpu("first_non_finite", queue, x);
  std::atomic<std::int64_t> found = std::numeric_limits<std::int64_t>::max();
  for_each_part(x, [&]<class T>(const T* data, std::int64_t count, std::int64_t first) {
    int any = 0;
#pragma omp simd reduction(| : any)
    for (std::int64_t i = 0; i < count; ++i) any |= non_finite(data[i]);
    if (!any) return;
    std::int64_t i = 0;
    while (!non_finite(data[i])) ++i;
    std::int64_t before = found;
    while (first + i < before && !found.compare_exchange_weak(before, first + i)) {
    }
  });
  return found == std::numeric_limits<std::int64_t>::max() ? -1 : found.load();
}

}  // namespace t2r
