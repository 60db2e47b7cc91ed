// Tiles of strided matrices in the type that sums are kept in, and the few vector operations that
// linear attention and the feature maps do between matrix products.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/base/dtype.h"
#include "core/base/tensor.h"
#include "kernels/pointwise.h"
#include "kernels/scratch.h"
#include "kernels/tile_matmul.h"

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
  if constexpr (std::is_same_v<To, From> && !std::is_same_v<To, bf16>) {
    // Not a call of memcpy, which the compiler makes of the loop below: rows are short.
    constexpr int kWidth = tile::kLanes<To>;
    std::int64_t i = 0;
    for (; i + kWidth <= n; i += kWidth) tile::store(to + i, tile::load(from + i));
    for (; i < n; ++i) to[i] = from[i];
    return;
  }
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) store(to[i], static_cast<accumulate_t<To>>(from[i]));
}

/// The elements [row, row + rows) x [column, column + columns), copied to `tile` (rows, columns) as
/// the accumulation type. Also where the types are equal: rows that lie a power of two apart, as
/// those of a head in a wide matrix do, would otherwise fight for the same sets of the cache.
template <class A, class T>
inline Rows<const A> load_tile(A* tile, Rows<const T> from, std::int64_t row, std::int64_t rows,
                               std::int64_t column, std::int64_t columns) {
  for (std::int64_t i = 0; i < rows; ++i)
    convert(tile + i * columns, from.at(row + i, column), columns);
  return {tile, columns};
}
/// The way back.
template <class A, class T>
inline void store_tile(Rows<T> to, std::int64_t row, std::int64_t rows, std::int64_t column,
                       std::int64_t columns, Rows<A> tile) {
  for (std::int64_t i = 0; i < rows; ++i) convert(to.at(row + i, column), tile.at(i), columns);
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
