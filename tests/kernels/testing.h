// What every kernel test needs: guarded and poisoned tensors, random contents, a relative RMS
// against a reference in double, and central differences.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "core/base/dtype.h"
#include "core/base/random.h"
#include "core/base/tensor.h"

namespace t2r::test {

/// Runs a test body over all storage types: for (DType dtype : kAllDTypes) { ... }
constexpr DType kAllDTypes[] = {DType::f64, DType::f32, DType::bf16};

/// The relative RMS error that a kernel with this storage type may have.
constexpr double tolerance(DType dtype) {
  return dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 1e-5 : 1e-2;
}

inline double get(const Tensor& x, std::int64_t row, std::int64_t column) {
  const std::int64_t i = row * x.row_stride + column;
  return dispatch(x.dtype, [&]<class T>() -> double { return x.as<T>()[i]; });
}

inline void set(const Tensor& x, std::int64_t row, std::int64_t column, double value) {
  const std::int64_t i = row * x.row_stride + column;
  dispatch(x.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, double>)
      x.as<T>()[i] = value;
    else
      x.as<T>()[i] = static_cast<float>(value);
  });
}

/// Calls f(row, column) for every element, in row order.
template <class F>
void each(const Tensor& x, F&& f) {
  for (std::int64_t row = 0; row < x.rows(); ++row)
    for (std::int64_t column = 0; column < x.columns_count(); ++column) f(row, column);
}

/// The elements in row order, strides removed; what a reference in double works on.
inline std::vector<double> values(const Tensor& x) {
  std::vector<double> result;
  each(x, [&](auto row, auto column) { result.push_back(get(x, row, column)); });
  return result;
}

/// Writes `source` (row order) into x, rounded to its type.
inline void assign(const Tensor& x, const std::vector<double>& source) {
  std::size_t next = 0;
  each(x, [&](auto row, auto column) { set(x, row, column, source.at(next++)); });
}

/// A tensor with memory of its own: elements start as NaN, so that what a kernel forgets to write
/// is seen, and guard bytes lie before, after and (with `padding` elements a row) between the rows;
/// check_guards(), also called at the end of its life, fails the test when one was touched.
class Guarded {
 public:
  Guarded(Shape shape, DType dtype, std::int64_t padding = 0) : tensor_(nullptr, shape, dtype) {
    tensor_.row_stride += padding;
    const std::int64_t body = tensor_.rows() * tensor_.row_stride * size_of(dtype);
    memory_.assign(static_cast<std::size_t>(body + 3 * kGuard), kPattern);
    auto address = reinterpret_cast<std::uintptr_t>(memory_.data()) + kGuard;
    address = (address + kGuard - 1) / kGuard * kGuard;  // aligned to kGuard bytes
    tensor_.data = reinterpret_cast<void*>(address);
    for (std::int64_t row = 0; row < tensor_.rows(); ++row) std::memset(begin(row), 0xFF, width());
  }
  /// Normal random numbers, mean 0, of a stream that `seed` names.
  Guarded(Shape shape, DType dtype, std::uint64_t seed, double deviation, std::int64_t padding)
      : Guarded(shape, dtype, padding) {
    std::uint64_t counter = 0;
    each(tensor_, [&](auto row, auto column) {
      set(tensor_, row, column, deviation * random_normal(seed, 0x7e57, counter++));
    });
  }
  ~Guarded() { check_guards(); }
  Guarded(Guarded&&) = default;  // a moved-from object has no memory and checks nothing
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  Guarded& operator=(Guarded&&) = delete;

  const Tensor& tensor() const { return tensor_; }
  operator Tensor() const { return tensor_; }  // NOLINT

  void check_guards() const {
    if (memory_.empty()) return;
    const unsigned char* at = memory_.data();
    const unsigned char* const end = at + memory_.size();
    for (std::int64_t row = 0; row < tensor_.rows(); ++row, at += width())
      for (; at != begin(row); ++at) ASSERT_EQ(*at, kPattern) << "written before row " << row;
    for (; at != end; ++at) ASSERT_EQ(*at, kPattern) << "written behind the last row";
  }

 private:
  static constexpr std::int64_t kGuard = 64;
  static constexpr unsigned char kPattern = 0xA5;

  unsigned char* begin(std::int64_t row) const {
    return static_cast<unsigned char*>(tensor_.data) +
           row * tensor_.row_stride * size_of(tensor_.dtype);
  }
  std::size_t width() const {
    return static_cast<std::size_t>(tensor_.columns_count() * size_of(tensor_.dtype));
  }

  std::vector<unsigned char> memory_;
  Tensor tensor_;
};

/// A NaN-poisoned tensor for a kernel to write to.
inline Guarded poisoned(Shape shape, DType dtype, std::int64_t padding = 0) {
  return Guarded(shape, dtype, padding);
}
/// A tensor of normal random numbers.
inline Guarded random_tensor(Shape shape, DType dtype, std::uint64_t seed, double deviation = 1,
                             std::int64_t padding = 0) {
  return Guarded(shape, dtype, seed, deviation, padding);
}

/// sqrt(sum (actual - expected)^2 / sum expected^2); 0 for nothing, NaN when anything is NaN.
inline double relative_rms(const std::vector<double>& actual, const std::vector<double>& expected) {
  if (actual.size() != expected.size()) return std::nan("");
  double difference = 0, total = 0;
  for (std::size_t i = 0; i < actual.size(); ++i) {
    difference += (actual[i] - expected[i]) * (actual[i] - expected[i]);
    total += expected[i] * expected[i];
  }
  return difference == 0 ? 0 : std::sqrt(difference / total);
}

/// Fails the test unless `actual` is `expected` to `limit` (default: tolerance of its type).
inline void expect_close(const Tensor& actual, const std::vector<double>& expected,
                         const std::string& what, double limit = 0) {
  const double error = relative_rms(values(actual), expected);
  EXPECT_LE(error, limit > 0 ? limit : tolerance(actual.dtype))  // false for NaN
      << what << " " << name_of(actual.dtype) << " " << actual.shape.text();
}

/// Compares the fp64 `gradient` with central differences of `loss()` by each element of the fp64
/// tensor `x`, which loss() reads. Relative RMS over the tensor.
inline void expect_gradient(const Tensor& x, const Tensor& gradient,
                            const std::function<double()>& loss, const std::string& what,
                            double limit = 1e-6, double step = 1e-5) {
  std::vector<double> numeric;
  each(x, [&](auto row, auto column) {
    const double old = get(x, row, column);
    set(x, row, column, old + step);
    const double above = loss();
    set(x, row, column, old - step);
    const double below = loss();
    set(x, row, column, old);
    numeric.push_back((above - below) / (2 * step));
  });
  EXPECT_LE(relative_rms(values(gradient), numeric), limit) << "gradient of " << what;
}

/// sum a * b over all elements: with fixed random b, a scalar loss whose gradient by a is b.
inline double dot(const Tensor& a, const Tensor& b) {
  const std::vector<double> left = values(a), right = values(b);
  double sum = 0;
  for (std::size_t i = 0; i < left.size(); ++i) sum += left[i] * right[i];
  return sum;
}

}  // namespace t2r::test
