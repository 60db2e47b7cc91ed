// The sums of a row that a softmax over it needs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "kernels/vector_math.h"

namespace t2r {

/// max, sum of exp(x - max) and sum of (x - max) of a row.
template <class A>
struct RowSums {
  A max;
  double exponentials = 0, differences = 0;
};

template <class T, class A>
inline RowSums<A> sum_row(const T* x, std::int64_t columns) {
  constexpr std::int64_t kBlock = 1024;  // summed in A before the sum goes on in double
  A max = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : max)
  for (std::int64_t j = 0; j < columns; ++j) {
    const A value = x[j];
    max = value > max ? value : max;
  }
  RowSums<A> sums{max};
  for (std::int64_t begin = 0; begin < columns; begin += kBlock) {
    const std::int64_t end = std::min(begin + kBlock, columns);
    A exponentials = 0, differences = 0;
#pragma omp simd reduction(+ : exponentials, differences)
    for (std::int64_t j = begin; j < end; ++j) {
      const A difference = A(x[j]) - max;
      differences += difference;
      exponentials += fast_exp(difference);
    }
    sums.exponentials += exponentials;
    sums.differences += differences;
  }
  return sums;
}

}  // namespace t2r
