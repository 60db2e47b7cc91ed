// What the CPU kernels share: the check that data is in host memory, and walking a pair of
// matrices, whose rows may be strided, in pieces of equal cost.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/base/tensor.h"

namespace t2r {

/// Below this many elements a loop runs on the calling thread: waking the others costs more.
constexpr std::int64_t kSerialElements = 1 << 14;

/// Throws unless the queue and all tensors (empty ones aside) are on the CPU.
template <class... Tensors>
void check_cpu(const char* kernel, const Queue& queue, const Tensors&... tensors) {
  const bool on_cpu =
      queue.device == Device::cpu && ((!tensors || tensors.device == Device::cpu) && ...);
  check(on_cpu, "{} was given a tensor or queue of another device; this is its CPU version",
        kernel);
}

/// Calls f(first, count, row, column) in parallel for pieces of at most `length` elements within a
/// row: `first` is the index in row order of the piece's first element, (row, column) its place.
/// Contiguous memory is one long row. The pieces do not depend on the number of threads.
template <class F>
void for_each_piece(const Tensor& shape_of, bool contiguous, std::int64_t length, F&& f) {
  const std::int64_t rows = contiguous ? 1 : shape_of.rows();
  const std::int64_t columns = contiguous ? shape_of.size() : shape_of.columns_count();
  const std::int64_t in_row = (columns + length - 1) / length;
#pragma omp parallel for schedule(static) if (rows * columns > kSerialElements)
  for (std::int64_t piece = 0; piece < rows * in_row; ++piece) {
    const std::int64_t row = piece / in_row, column = piece % in_row * length;
    f(row * columns + column, std::min(length, columns - column), row, column);
  }
}

}  // namespace t2r
