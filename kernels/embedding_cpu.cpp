// Token and position embeddings on the CPU: gather forward, ordered scatter-add backward.
#include <algorithm>
#include <cmath>

#include "kernels/cpu.h"
#include "kernels/embedding.h"
#include "kernels/pointwise.h"

namespace t2r {
namespace {

/// Throws unless all ids are rows of the table.
void check_ids(const std::int32_t* ids, std::int64_t count, std::int64_t entries,
               const char* what) {
  for (std::int64_t row = 0; row < count; ++row)
    check(ids[row] >= 0 && ids[row] < entries,
          "{} {} in row {}: the table has {} entries; use the data set, tokenizer and sequence "
          "length of this model",
          what, ids[row], row, entries);
}

void check_table(const Tensor& table, std::int64_t columns, DType dtype, const char* what) {
  check(table.shape.rank() == 2 && table.shape[1] == columns,
        "{} has the shape {}: expected {} "
        "columns",
        what, table.shape.text(), columns);
  check(table.dtype == dtype, "{} is {}, expected {}", what, name_of(table.dtype), name_of(dtype));
}

}  // namespace

void embedding_forward(Queue queue, Tensor y, const std::int32_t* ids, Tensor table, double scale,
                       const std::int32_t* position_ids, Tensor positions, VocabularyPart part) {
  check_cpu("embedding_forward", queue, y, table, positions);
  check(y.shape.rank() == 2, "embeddings of the shape {}: expected (rows, columns)",
        y.shape.text());
  const std::int64_t rows = y.shape[0], n = y.shape[1];
  check_table(table, n, y.dtype, "the embedding table");
  const std::int64_t entries = table.shape[0];
  check_ids(ids, rows, part.whole < 0 ? entries : part.whole, "token id");
  if (positions) {
    check_table(positions, n, y.dtype, "the position table");
    check_ids(position_ids, rows, positions.shape[0], "position");
  }
  dispatch(y.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    const A factor = static_cast<A>(scale);
    const T* const table0 = table.as<T>();
    const T* const positions0 = positions ? positions.as<T>() : nullptr;
    T* const y0 = y.as<T>();
#pragma omp parallel for schedule(static) if (rows * n >= kParallelElements)
    for (std::int64_t row = 0; row < rows; ++row) {
      T* const to = y0 + row * y.row_stride;
      const std::int64_t entry = ids[row] - part.first;
      const T* const token = table0 + entry * table.row_stride;
      const T* const position =
          positions0 ? positions0 + position_ids[row] * positions.row_stride : nullptr;
      if (entry < 0 || entry >= entries) {  // held elsewhere
        for (std::int64_t i = 0; i < n; ++i) to[i] = position ? position[i] : T(0);
      } else if (position) {
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i)
          store(to[i], factor * static_cast<A>(token[i]) + static_cast<A>(position[i]));
      } else {
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) store(to[i], factor * static_cast<A>(token[i]));
      }
    }
  });
}

void embedding_backward(Queue queue, Tensor dtable, Tensor dpositions, const std::int32_t* ids,
                        const std::int32_t* position_ids, Tensor dy, double scale,
                        VocabularyPart part) {
  check_cpu("embedding_backward", queue, dtable, dpositions, dy);
  check(dy.shape.rank() == 2, "embedding gradients of the shape {}: expected (rows, columns)",
        dy.shape.text());
  const std::int64_t rows = dy.shape[0], n = dy.shape[1];
  const DType gradient = accumulate_dtype(dy.dtype);
  const std::int64_t entries = dtable ? dtable.shape[0] : 0;
  if (dtable) {
    check_table(dtable, n, gradient, "the embedding table's gradient");
    check_ids(ids, rows, part.whole < 0 ? dtable.shape[0] : part.whole, "token id");
  }
  if (dpositions) {
    check_table(dpositions, n, gradient, "the position table's gradient");
    check_ids(position_ids, rows, dpositions.shape[0], "position");
  }
  // Each thread owns stripes of columns and adds all rows to them in order: no two threads meet,
  // and the sums do not depend on how many there are. A stripe is a few cache lines.
  constexpr std::int64_t kStripe = 64;
  const std::int64_t stripes = (n + kStripe - 1) / kStripe;
  dispatch(dy.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    const A factor = static_cast<A>(scale);
    const T* const dy0 = dy.as<T>();
    A* const table0 = dtable ? dtable.as<A>() : nullptr;
    A* const positions0 = dpositions ? dpositions.as<A>() : nullptr;
#pragma omp parallel if (rows * n >= kParallelElements)
    {
      std::int64_t begin = n, end = 0;  // the columns of this thread's stripes, which adjoin
#pragma omp for schedule(static)
      for (std::int64_t stripe = 0; stripe < stripes; ++stripe) {
        begin = std::min(begin, stripe * kStripe);
        end = std::min((stripe + 1) * kStripe, n);
      }
      for (std::int64_t row = 0; row < rows; ++row) {
        const T* const from = dy0 + row * dy.row_stride;
        const std::int64_t entry = ids[row] - part.first;
        if (table0 && 0 <= entry && entry < entries) {
          A* const to = table0 + entry * dtable.row_stride;
#pragma omp simd
          for (std::int64_t i = begin; i < end; ++i) to[i] += factor * static_cast<A>(from[i]);
        }
        if (positions0) {
          A* const to = positions0 + position_ids[row] * dpositions.row_stride;
#pragma omp simd
          for (std::int64_t i = begin; i < end; ++i) to[i] += static_cast<A>(from[i]);
        }
      }
    }
  });
}

void sinusoidal_positions(Tensor table, std::int64_t first, Sinusoids kind) {
  check(table.shape.rank() == 2, "a position table of the shape {}: expected (positions, columns)",
        table.shape.text());
  const std::int64_t rows = table.shape[0], n = table.shape[1], half = n / 2;
  // One frequency alone is 1; an odd last column is 0, as in tensor2tensor.
  const std::int64_t steps = kind == Sinusoids::marian ? half : half - 1;
  const double exponent = half > 1 ? -std::log(10000.0) / static_cast<double>(steps) : 0;
  dispatch(table.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    T* const table0 = table.as<T>();
#pragma omp parallel for schedule(static) if (rows * n >= kParallelElements)
    for (std::int64_t p = 0; p < rows; ++p) {
      T* const to = table0 + p * table.row_stride;
      for (std::int64_t i = 0; i < half; ++i) {
        const double angle =
            static_cast<double>(first + p) * std::exp(exponent * static_cast<double>(i));
        to[i] = static_cast<T>(static_cast<A>(std::sin(angle)));
        to[half + i] = static_cast<T>(static_cast<A>(std::cos(angle)));
      }
      if (n % 2 == 1) to[n - 1] = static_cast<T>(A{0});
    }
  });
}

}  // namespace t2r
