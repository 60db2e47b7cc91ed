// How the CPU kernels of this folder share rows among threads: pieces small enough for the first
// cache, always the same pieces whatever the number of threads.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/base/tensor.h"

namespace t2r {

/// Work on fewer elements than this stays on the calling thread: waking the others costs more.
constexpr std::int64_t kParallelElements = 16384;

/// Elements in one piece of a row.
constexpr std::int64_t kPieceElements = 2048;

/// to = value, rounded to T. In `#pragma omp simd` loops a plain `to = bf16(value)` copies a
/// temporary struct, which g++ 12 does not vectorise; the bits alone it does.
template <class T>
inline void store(T& to, accumulate_t<T> value) {
  if constexpr (std::is_same_v<T, bf16>)
    to.bits = bf16(value).bits;
  else
    to = value;
}

/// Calls f(row, begin, end) on pieces [begin, end) of at most kPieceElements columns that together
/// cover rows x columns once, over the threads. `f` must not throw.
template <class F>
void for_each_piece(std::int64_t rows, std::int64_t columns, F&& f) {
  const std::int64_t row_pieces = (columns + kPieceElements - 1) / kPieceElements;
  const std::int64_t pieces = rows * row_pieces;
#pragma omp parallel for schedule(static) if (rows * columns >= kParallelElements)
  for (std::int64_t piece = 0; piece < pieces; ++piece) {
    const std::int64_t row = piece / row_pieces;
    const std::int64_t begin = piece % row_pieces * kPieceElements;
    f(row, begin, std::min(begin + kPieceElements, columns));
  }
}

/// As for_each_piece over the rows of `like`; where all tensors in question are contiguous it is
/// one long row instead, so that many short rows cost no more than few long ones.
template <class F>
void for_each_piece_of(const Tensor& like, bool contiguous, F&& f) {
  if (contiguous)
    for_each_piece(1, like.size(), f);
  else
    for_each_piece(like.rows(), like.columns_count(), f);
}

}  // namespace t2r
