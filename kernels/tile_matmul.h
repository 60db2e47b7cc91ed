// Small matrix products on one thread, for the tiles inside attention: C = A B and its transposed
// forms, blocked for registers. (Products with weights go to the GEMM library; see linear.h.)
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

namespace t2r {
namespace tile {

#if defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
inline constexpr int kBlockVectors = 4;  // 6 x 4 sums fill the 32 registers
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
inline constexpr int kBlockVectors = 2;  // 6 x 2 sums fill the 16 registers
#else
inline constexpr int kVectorBytes = 16;
inline constexpr int kBlockVectors = 2;
#endif
inline constexpr int kBlockRows = 6;
// Rows of B that are copied at a time where B has to be rearranged: 32 KiB with 4 vectors.
inline constexpr std::int64_t kChunk = 128;

template <class T>
struct VectorOf {
  typedef T Type __attribute__((vector_size(kVectorBytes)));
  static constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
};
template <class T>
using Vector = typename VectorOf<T>::Type;
template <class T>
inline constexpr int kLanes = VectorOf<T>::kLanes;

template <class T>
inline Vector<T> load(const T* p) {
  Vector<T> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class T>
inline void store(T* p, Vector<T> v) {
  std::memcpy(p, &v, sizeof v);
}

/// C (Rows, Columns vectors) [+]= A B; element (i, l) of A lies at a[i * a_row + l * a_step].
template <class T, int Rows, int Columns>
inline void block(T* c, std::int64_t ldc, const T* a, std::int64_t a_row, std::int64_t a_step,
                  const T* b, std::int64_t ldb, std::int64_t k, bool accumulate) {
  constexpr int W = kLanes<T>;
  Vector<T> sum[Rows][Columns];
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < Columns; ++j)
      sum[i][j] = accumulate ? load(c + i * ldc + j * W) : Vector<T>{};
  for (std::int64_t l = 0; l < k; ++l) {
    Vector<T> row[Columns];
#pragma GCC unroll 8
    for (int j = 0; j < Columns; ++j) row[j] = load(b + l * ldb + j * W);
#pragma GCC unroll 8
    for (int i = 0; i < Rows; ++i) {
      const T factor = a[i * a_row + l * a_step];
#pragma GCC unroll 8
      for (int j = 0; j < Columns; ++j) sum[i][j] += factor * row[j];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < Rows; ++i)
#pragma GCC unroll 8
    for (int j = 0; j < Columns; ++j) store(c + i * ldc + j * W, sum[i][j]);
}

/// All m rows of a panel of C that is Columns vectors wide.
template <class T, int Columns>
void panel(T* c, std::int64_t ldc, const T* a, std::int64_t a_row, std::int64_t a_step, const T* b,
           std::int64_t ldb, std::int64_t m, std::int64_t k, bool accumulate) {
  std::int64_t i = 0;
  // Rows are taken six at a time, but 8 = 4 + 4 rather than 6 + 2: short blocks wait for latency.
  while (m - i >= kBlockRows && m - i != kBlockRows + 1 && m - i != kBlockRows + 2) {
    block<T, kBlockRows, Columns>(c + i * ldc, ldc, a + i * a_row, a_row, a_step, b, ldb, k,
                                  accumulate);
    i += kBlockRows;
  }
  while (m - i >= 4) {
    block<T, 4, Columns>(c + i * ldc, ldc, a + i * a_row, a_row, a_step, b, ldb, k, accumulate);
    i += 4;
  }
  if (m - i >= 2) {
    block<T, 2, Columns>(c + i * ldc, ldc, a + i * a_row, a_row, a_step, b, ldb, k, accumulate);
    i += 2;
  }
  if (m - i == 1)
    block<T, 1, Columns>(c + i * ldc, ldc, a + i * a_row, a_row, a_step, b, ldb, k, accumulate);
}

/// The last columns of C, fewer than a vector: B is (k, kLanes), zero beyond column `columns`.
template <class T>
void narrow_panel(T* c, std::int64_t ldc, const T* a, std::int64_t a_row, std::int64_t a_step,
                  const T* b, std::int64_t m, std::int64_t columns, std::int64_t k,
                  bool accumulate) {
  constexpr int W = kLanes<T>;
  constexpr std::int64_t kRows = 12;  // a multiple of every block height
  alignas(kVectorBytes) T sums[kRows * W];
  for (std::int64_t i = 0; i < m; i += kRows) {
    const std::int64_t rows = std::min(kRows, m - i);
    panel<T, 1>(sums, W, a + i * a_row, a_row, a_step, b, W, rows, k, false);
    for (std::int64_t r = 0; r < rows; ++r) {
      T* out = c + (i + r) * ldc;
      for (std::int64_t j = 0; j < columns; ++j)
        out[j] = accumulate ? out[j] + sums[r * W + j] : sums[r * W + j];
    }
  }
}

/// C (m, n) [+]= A B with B (k, n) in rows; see block() for A.
template <class T>
void product(T* c, std::int64_t ldc, const T* a, std::int64_t a_row, std::int64_t a_step,
             const T* b, std::int64_t ldb, std::int64_t m, std::int64_t n, std::int64_t k,
             bool accumulate) {
  constexpr int W = kLanes<T>;
  std::int64_t j = 0;
  for (; n - j >= kBlockVectors * W; j += kBlockVectors * W)
    panel<T, kBlockVectors>(c + j, ldc, a, a_row, a_step, b + j, ldb, m, k, accumulate);
  if (kBlockVectors > 2 && n - j >= 2 * W) {
    panel<T, 2>(c + j, ldc, a, a_row, a_step, b + j, ldb, m, k, accumulate);
    j += 2 * W;
  }
  if (n - j >= W) {
    panel<T, 1>(c + j, ldc, a, a_row, a_step, b + j, ldb, m, k, accumulate);
    j += W;
  }
  if (j == n) return;
  alignas(kVectorBytes) T padded[kChunk * W];
  for (std::int64_t l = 0; l == 0 || l < k; l += kChunk) {
    const std::int64_t chunk = std::min(kChunk, k - l);
    for (std::int64_t r = 0; r < chunk; ++r)
      for (int x = 0; x < W; ++x) padded[r * W + x] = j + x < n ? b[(l + r) * ldb + j + x] : T{};
    narrow_panel(c + j, ldc, a + l * a_step, a_row, a_step, padded, m, n - j, chunk,
                 accumulate || l > 0);
  }
}

/// One stage of an in-register transposition: exchanges the off-diagonal blocks of side `Half`.
template <int Half, class V, int... Lane>
inline void exchange(V& upper, V& lower, std::integer_sequence<int, Lane...>) {
  constexpr int W = sizeof...(Lane);
  const V a = upper, b = lower;
  upper = __builtin_shufflevector(a, b, ((Lane & Half) ? Lane - Half + W : Lane)...);
  lower = __builtin_shufflevector(a, b, ((Lane & Half) ? Lane + W : Lane + Half)...);
}

template <class T, int Half>
inline void transpose_stage(Vector<T>* rows) {
  constexpr int W = kLanes<T>;
#pragma GCC unroll 16
  for (int i = 0; i < W; ++i)
    if ((i & Half) == 0)
      exchange<Half>(rows[i], rows[i + Half], std::make_integer_sequence<int, W>{});
  if constexpr (Half > 1) transpose_stage<T, Half / 2>(rows);
}

/// Lane j of the result is the sum over the lanes of vector j; `rows` (kLanes vectors) is used up.
template <class T, int Half = kLanes<T> / 2>
inline Vector<T> sum_lanes(Vector<T>* rows) {
#pragma GCC unroll 16
  for (int i = 0; i < Half; ++i) {
    exchange<Half>(rows[i], rows[i + Half], std::make_integer_sequence<int, kLanes<T>>{});
    rows[i] += rows[i + Half];
  }
  if constexpr (Half > 1)
    return sum_lanes<T, Half / 2>(rows);
  else
    return rows[0];
}

/// out (columns, rows) = in (rows, columns) transposed.
template <class T>
void transpose(T* out, std::int64_t ld_out, const T* in, std::int64_t ld_in, std::int64_t rows,
               std::int64_t columns) {
  constexpr int W = kLanes<T>;
  std::int64_t i = 0;
  for (; i + W <= rows; i += W) {
    std::int64_t j = 0;
    for (; j + W <= columns; j += W) {
      Vector<T> square[W];
#pragma GCC unroll 16
      for (int r = 0; r < W; ++r) square[r] = load(in + (i + r) * ld_in + j);
      transpose_stage<T, W / 2>(square);
#pragma GCC unroll 16
      for (int r = 0; r < W; ++r) store(out + (j + r) * ld_out + i, square[r]);
    }
    for (; j < columns; ++j)
      for (int r = 0; r < W; ++r) out[j * ld_out + i + r] = in[(i + r) * ld_in + j];
  }
  for (; i < rows; ++i)
    for (std::int64_t j = 0; j < columns; ++j) out[j * ld_out + i] = in[i * ld_in + j];
}

}  // namespace tile

/// c (m, n) = a (m, k) b (k, n), or += when `accumulate`. T is float or double; leading dimensions
/// (distances of rows) in elements; c overlaps neither a nor b. k may be 0.
template <class T>
void tile_matmul_nn(T* c, std::int64_t ldc, const T* a, std::int64_t lda, const T* b,
                    std::int64_t ldb, std::int64_t m, std::int64_t n, std::int64_t k,
                    bool accumulate) {
  tile::product(c, ldc, a, lda, 1, b, ldb, m, n, k, accumulate);
}

/// c (m, n) = a^T b, or +=; a (k, m), b (k, n).
template <class T>
void tile_matmul_tn(T* c, std::int64_t ldc, const T* a, std::int64_t lda, const T* b,
                    std::int64_t ldb, std::int64_t m, std::int64_t n, std::int64_t k,
                    bool accumulate) {
  tile::product(c, ldc, a, 1, lda, b, ldb, m, n, k, accumulate);
}

/// c (m, n) = a b^T, or +=; a (m, k), b (n, k). b is transposed on the way (a few percent of the
/// work from m = 64 on), so where one b meets many a, transpose it once and call tile_matmul_nn.
template <class T>
void tile_matmul_nt(T* c, std::int64_t ldc, const T* a, std::int64_t lda, const T* b,
                    std::int64_t ldb, std::int64_t m, std::int64_t n, std::int64_t k,
                    bool accumulate) {
  constexpr std::int64_t kColumns = tile::kBlockVectors * tile::kLanes<T>;
  alignas(tile::kVectorBytes) T turned[tile::kChunk * kColumns];
  for (std::int64_t j = 0; j < n; j += kColumns) {
    const std::int64_t columns = std::min(kColumns, n - j);
    for (std::int64_t l = 0; l == 0 || l < k; l += tile::kChunk) {
      const std::int64_t chunk = std::min(tile::kChunk, k - l);
      tile::transpose(turned, kColumns, b + j * ldb + l, ldb, columns, chunk);
      tile::product(c + j, ldc, a + l, lda, 1, turned, kColumns, m, columns, chunk,
                    accumulate || l > 0);
    }
  }
}

}  // namespace t2r
