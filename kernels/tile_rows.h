// Tiles of strided matrices in the type that sums are kept in, and the few vector operations that
// linear attention and the feature maps do between matrix products.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/base/dtype.h"
#include "core/base/tensor.h"
#include "kernels/pointwise.h"
#include "kernels/scratch.h"

namespace t2r {

/// A matrix whose rows lie `stride` elements apart.
template <class T>
struct Rows {
  T* data = nullptr;
  std::int64_t stride = 0;

  T* at(std::int64_t row, std::int64_t column = 0) const { return data + row * stride + column; }
  explicit operator bool() const { return data != nullptr; }
};

template <class T>
Rows<T> rows_of(const Tensor& x) {
  return {x.as<std::remove_const_t<T>>(), x.row_stride};
}

/// to[i] = from[i] over n elements, between storage and accumulation types.
template <class To, class From>
inline void convert(To* to, const From* from, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) store(to[i], static_cast<accumulate_t<To>>(from[i]));
}

/// The elements [row, row + rows) x [column, column + columns) as the accumulation type: in place
/// where that is the storage type, else converted into `scratch` (rows, columns).
template <class A, class T>
inline Rows<const A> tile_of(Rows<const T> from, std::int64_t row, std::int64_t rows,
                             std::int64_t column, std::int64_t columns, A* scratch) {
  if constexpr (std::is_same_v<A, T>) {
    return {from.at(row, column), from.stride};
  } else {
    for (std::int64_t i = 0; i < rows; ++i)
      convert(scratch + i * columns, from.at(row + i, column), columns);
    return {scratch, columns};
  }
}

/// Where a tile of results is summed: in place, or in `scratch` until store_tile.
template <class A, class T>
inline Rows<A> sums_of(Rows<T> to, std::int64_t row, std::int64_t column, std::int64_t columns,
                       A* scratch) {
  if constexpr (std::is_same_v<A, T>)
    return {to.at(row, column), to.stride};
  else
    return {scratch, columns};
}
template <class A, class T>
inline void store_tile(Rows<T> to, std::int64_t row, std::int64_t rows, std::int64_t column,
                       std::int64_t columns, Rows<A> sums) {
  if constexpr (!std::is_same_v<A, T>)
    for (std::int64_t i = 0; i < rows; ++i) convert(to.at(row + i, column), sums.at(i), columns);
}

/// Scratch elements that tile_of and sums_of need: none where nothing is converted.
template <class A, class T>
inline A* conversion_scratch(ScratchScope& scratch, std::int64_t elements) {
  return scratch.array<A>(std::is_same_v<A, T> ? 0 : elements);
}

template <class A>
inline A inner(const A* a, const A* b, std::int64_t n) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

/// y += factor * x
template <class A>
inline void add_scaled(A* y, A factor, const A* x, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) y[i] += factor * x[i];
}

template <class A>
inline void scale(A* x, A factor, std::int64_t n) {
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) x[i] *= factor;
}

}  // namespace t2r
