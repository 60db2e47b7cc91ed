// A typed view of memory that somebody else owns. Copying it is free; it does no arithmetic.
#pragma once

#include <array>
#include <cstdint>
#include <cstdlib>
#include <initializer_list>
#include <string>

#include "core/base/dtype.h"
#include "core/base/error.h"

namespace t2r {

enum class Device : std::uint8_t { cpu, cuda };

/// Where work is ordered: a device and, on a GPU, a stream.
struct Queue {
  Device device = Device::cpu;
  void* stream = nullptr;
};

/// Up to four dimensions, outermost first.
class Shape {
 public:
  static constexpr int kMaxRank = 4;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) {
    check(dims.size() <= kMaxRank, "a shape of {} dimensions: at most {} are supported",
          dims.size(), kMaxRank);
    for (std::int64_t dim : dims) {
      check(dim >= 0, "a shape with the negative dimension {}", dim);
      dims_[rank_++] = dim;
    }
  }

  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return dims_[i]; }
  /// The number of elements; 1 for rank 0. Throws when the product does not fit 63 bits.
  std::int64_t size() const {
    std::int64_t total = 1;
    for (int i = 0; i < rank_; ++i)
      if (__builtin_mul_overflow(total, dims_[i], &total)) [[unlikely]]
        fail("the shape {} is too large", text());  // text() costs: only when it is needed
    return total;
  }
  /// The same with dimension `i` of another size.
  Shape with(int i, std::int64_t size) const {
    check(0 <= i && i < rank_ && size >= 0, "dimension {} of {} as {}", i, text(), size);
    Shape other = *this;
    other.dims_[i] = size;
    return other;
  }
  bool operator==(const Shape& other) const {
    if (rank_ != other.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if (dims_[i] != other.dims_[i]) return false;
    return true;
  }
  /// As "(3, 4)".
  std::string text() const {
    std::string s = "(";
    for (int i = 0; i < rank_; ++i) s += (i ? ", " : "") + std::to_string(dims_[i]);
    return s + ")";
  }

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

/// Rows (the first dimension) may lie `row_stride` elements apart; within a row all is contiguous.
struct Tensor {
  void* data = nullptr;
  Shape shape;
  DType dtype = DType::f32;
  Device device = Device::cpu;
  std::int64_t row_stride = 0;

  Tensor() = default;
  Tensor(void* data_, Shape shape_, DType dtype_, Device device_ = Device::cpu)
      : data(data_), shape(shape_), dtype(dtype_), device(device_) {
    row_stride = columns_count();
  }

  explicit operator bool() const { return data != nullptr; }

  std::int64_t size() const { return shape.size(); }
  std::int64_t bytes() const { return size() * size_of(dtype); }
  std::int64_t rows() const { return shape.rank() == 0 ? 1 : shape[0]; }
  /// Elements in one row: the product of all dimensions but the first.
  std::int64_t columns_count() const {
    std::int64_t n = 1;
    for (int i = 1; i < shape.rank(); ++i) n *= shape[i];
    return n;
  }
  bool contiguous() const { return row_stride == columns_count() || rows() <= 1; }

  /// The elements as T; throws when the tensor holds another type.
  template <class T>
  T* as() const {
    check(dtype == dtype_of<T>(), "a tensor of {} read as {}", name_of(dtype),
          name_of(dtype_of<T>()));
    return static_cast<T*>(data);
  }

  /// The same elements under another shape of the same size (contiguous tensors only).
  Tensor view(Shape other) const {
    if (!contiguous() || other.size() != size()) [[unlikely]]
      fail("cannot view {} as {}", shape.text(), other.text());
    return Tensor(data, other, dtype, device);
  }

  /// Rows [begin, end).
  Tensor row_range(std::int64_t begin, std::int64_t end) const {
    if (begin < 0 || begin > end || end > rows()) [[unlikely]]
      fail("rows [{}, {}) of {}", begin, end, shape.text());
    Tensor part = *this;
    std::array<std::int64_t, 4> d{end - begin, 1, 1, 1};
    for (int i = 1; i < shape.rank(); ++i) d[i] = shape[i];
    part.shape = shape.rank() == 1   ? Shape{d[0]}
                 : shape.rank() == 2 ? Shape{d[0], d[1]}
                 : shape.rank() == 3 ? Shape{d[0], d[1], d[2]}
                                     : Shape{d[0], d[1], d[2], d[3]};
    part.data = static_cast<char*>(data) + begin * row_stride * size_of(dtype);
    return part;
  }

  /// Columns [begin, end) of a matrix, a strided view.
  Tensor column_range(std::int64_t begin, std::int64_t end) const {
    if (shape.rank() != 2 || begin < 0 || begin > end || end > shape[1]) [[unlikely]]
      fail("columns [{}, {}) of {}", begin, end, shape.text());
    Tensor part = *this;
    part.shape = Shape{shape[0], end - begin};
    part.data = static_cast<char*>(data) + begin * size_of(dtype);
    return part;
  }
};

/// Throws unless `tensor` has exactly this shape; `what` names it in the message.
inline void check_shape(const Tensor& tensor, const Shape& expected, const char* what) {
  if (tensor.shape == expected) [[likely]]
    return;
  fail("{} has the shape {}, expected {}", what, tensor.shape.text(), expected.text());
}

}  // namespace t2r
