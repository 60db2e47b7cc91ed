// Dropout whose mask is a function of (seed, stream, global element): the same on any mesh.
#pragma once

#include <cstdint>

#include "core/base/random.h"
#include "core/base/tensor.h"

namespace t2r {

/// Which elements are dropped. Element (row, column) of a matrix with n columns is number
/// e = row_ids[row] * n + column; it is kept when lane e % 4 of random_bits(seed, stream, e / 4),
/// as a uniform number, is at least `rate`. Of a matrix whose columns lie on several ranks, n and
/// column are those of the whole.
struct Dropout {
  float rate = 0;
  std::uint64_t seed = 0;
  std::uint64_t stream = 0;               // one per step and place in the model
  const std::int64_t* row_ids = nullptr;  // global row of each local row; null: the row itself
  std::int64_t first_column = 0;          // of the whole matrix, here
  std::int64_t whole_columns = 0;         // 0: as many as there are here

  bool active() const { return rate > 0; }
};

/// y = residual + x * mask / (1 - rate); `residual` may be empty; y may be x or residual. Without
/// dropout this is plain addition. Shapes (rows, n).
void dropout_add_forward(Queue queue, Tensor y, Tensor x, Tensor residual, const Dropout& dropout);
/// dx = dy * mask / (1 - rate); dx may be dy. (The residual's gradient is dy itself.)
void dropout_backward(Queue queue, Tensor dx, Tensor dy, const Dropout& dropout);

}  // namespace t2r
