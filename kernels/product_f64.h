// Matrix product in double for the gradient tests, which run whole models in fp64: oneDNN has none.
#pragma once

#include <algorithm>
#include <cstdint>

#include "kernels/pointwise.h"

namespace t2r {

/// C (rows, columns) = A (rows, inner) B (inner, columns), plus `bias` (columns) and, when `sum`,
/// plus C itself. Element (i, k) of A is at a[i * a_row + k * a_column]; the rows of B and C are
/// contiguous and lie b_row and c_row apart. Sums run over k in order, whatever the threads.
inline void product_f64(double* c, std::int64_t c_row, const double* a, std::int64_t a_row,
                        std::int64_t a_column, const double* b, std::int64_t b_row,
                        const double* bias, bool sum, std::int64_t rows, std::int64_t columns,
                        std::int64_t inner) {
  // A tile of C stays in registers over the whole of k: 4 x 32 are 16 vectors of 8.
  constexpr std::int64_t kRows = 4, kColumns = 32;
  const std::int64_t down = (rows + kRows - 1) / kRows;
  const std::int64_t across = (columns + kColumns - 1) / kColumns;
#pragma omp parallel for schedule(static) if (rows * columns * inner > kParallelElements)
  for (std::int64_t tile = 0; tile < down * across; ++tile) {
    const std::int64_t i = tile % down * kRows, j = tile / down * kColumns;
    const std::int64_t height = std::min(kRows, rows - i), width = std::min(kColumns, columns - j);
    double acc[kRows][kColumns] = {};
    if (height == kRows && width == kColumns) {
      for (std::int64_t k = 0; k < inner; ++k)
        for (std::int64_t r = 0; r < kRows; ++r) {
          const double factor = a[(i + r) * a_row + k * a_column];
#pragma omp simd
          for (std::int64_t s = 0; s < kColumns; ++s) acc[r][s] += factor * b[k * b_row + j + s];
        }
    } else {
      for (std::int64_t k = 0; k < inner; ++k)
        for (std::int64_t r = 0; r < height; ++r) {
          const double factor = a[(i + r) * a_row + k * a_column];
#pragma omp simd
          for (std::int64_t s = 0; s < width; ++s) acc[r][s] += factor * b[k * b_row + j + s];
        }
    }
    for (std::int64_t r = 0; r < height; ++r) {
      double* to = c + (i + r) * c_row + j;
      for (std::int64_t s = 0; s < width; ++s)
        to[s] = acc[r][s] + (bias ? bias[j + s] : 0.0) + (sum ? to[s] : 0.0);
    }
  }
}

}  // namespace t2r
