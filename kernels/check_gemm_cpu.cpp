// The start-up check of the math library: one small product of each kind against a plain loop.
#include <cmath>
#include <vector>

#include "core/base/random.h"
#include "kernels/linear.h"

namespace t2r {
namespace {

/// Random elements in [-1, 1), with the memory that holds them and their values in double.
struct Matrix {
  std::vector<std::byte> memory;
  std::vector<double> elements;
  Tensor tensor;

  Matrix(std::int64_t rows, std::int64_t columns, DType dtype, std::uint64_t stream) {
    memory.resize(static_cast<std::size_t>(rows * columns * size_of(dtype)));
    tensor = Tensor(memory.data(), {rows, columns}, dtype);
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
      const double value = 2 * random_uniform(1, stream, static_cast<std::uint64_t>(i)) - 1;
      dispatch(dtype, [&]<class T>() {
        tensor.as<T>()[i] = static_cast<T>(static_cast<accumulate_t<T>>(value));
      });
    }
    elements = read();
  }
  std::vector<double> read() const {
    std::vector<double> result;
    dispatch(tensor.dtype, [&]<class T>() {
      for (std::int64_t i = 0; i < tensor.size(); ++i)
        result.push_back(static_cast<double>(accumulate_t<T>(tensor.as<T>()[i])));
    });
    return result;
  }
};

/// Throws when `c` differs from `start` + sum over k of a(i, k) b(k, j), both given as functions.
template <class A, class B>
void compare(const Matrix& c, std::int64_t inner, bool sum, const char* what, A a, B b) {
  const std::vector<double> actual = c.read();
  const std::int64_t rows = c.tensor.shape[0], columns = c.tensor.shape[1];
  double difference = 0, total = 0;
  for (std::int64_t i = 0; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j) {
      const auto at = static_cast<std::size_t>(i * columns + j);
      double expected = sum ? c.elements[at] : 0;
      for (std::int64_t k = 0; k < inner; ++k) expected += a(i, k) * b(k, j);
      difference += (actual[at] - expected) * (actual[at] - expected);
      total += expected * expected;
    }
  const DType dtype = c.tensor.dtype;
  const double limit = dtype == DType::f64 ? 1e-12 : dtype == DType::f32 ? 1e-5 : 1e-2;
  const double error = std::sqrt(difference / total);
  check(error <= limit,
        "the math library (oneDNN) computes wrong {} products on this processor: {} x {} x {}, "
        "{}, relative error {:.2g}, allowed {:.0e}; set ONEDNN_MAX_CPU_ISA=AVX2 or install "
        "another version",
        name_of(dtype), rows, columns, inner, what, error, limit);
}

}  // namespace

void check_gemm(DType dtype) {
  const std::int64_t in = 67, out = 53;
  for (std::int64_t rows : {5, 261}) {  // as in decoding and as in training: different code
    const Matrix x(rows, in, dtype, 1), w(out, in, dtype, 2), dy(rows, out, dtype, 3);
    const Matrix y(rows, out, dtype, 4), dx(rows, in, dtype, 5);
    const Matrix dw(out, in, accumulate_dtype(dtype), 6);
    const LinearWeight weight(w.tensor);
    linear_forward({}, y.tensor, x.tensor, weight);
    linear_backward_input({}, dx.tensor, dy.tensor, weight);
    linear_backward_weight({}, dw.tensor, {}, dy.tensor, x.tensor);
    const auto at = [](const Matrix& m, std::int64_t i, std::int64_t j) {
      return m.elements[static_cast<std::size_t>(i * m.tensor.shape[1] + j)];
    };
    compare(
        y, in, false, "x W^T", [&](auto i, auto k) { return at(x, i, k); },
        [&](auto k, auto j) { return at(w, j, k); });
    compare(
        dx, out, false, "dy W", [&](auto i, auto k) { return at(dy, i, k); },
        [&](auto k, auto j) { return at(w, k, j); });
    compare(
        dw, rows, true, "dy^T x", [&](auto i, auto k) { return at(dy, k, i); },
        [&](auto k, auto j) { return at(x, k, j); });
  }
}

}  // namespace t2r
