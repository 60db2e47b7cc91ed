// Two sweeps over a row while it is in the cache (sums, then the best by a threshold); a thread a
// row.
#include <algorithm>
#include <atomic>
#include <cmath>

#include "kernels/cpu.h"
#include "kernels/pointwise.h"
#include "kernels/row_sums.h"
#include "kernels/top_log_probabilities.h"

namespace t2r {
namespace {

/// The `count` largest of x, largest first, the lower id first among equals.
template <class T>
std::vector<std::int32_t> largest(const T* x, std::int64_t columns, std::int64_t count) {
  const auto before = [x](std::int32_t a, std::int32_t b) {
    return x[a] != x[b] ? x[a] > x[b] : a < b;
  };
  std::vector<std::int32_t> heap;  // its front is the worst of those kept
  for (std::int64_t j = 0; j < columns; ++j) {
    const auto id = static_cast<std::int32_t>(j);
    if (std::ssize(heap) < count) {
      heap.push_back(id);
      std::push_heap(heap.begin(), heap.end(), before);
    } else if (x[j] > x[heap.front()]) {
      std::pop_heap(heap.begin(), heap.end(), before);
      heap.back() = id;
      std::push_heap(heap.begin(), heap.end(), before);
    }
  }
  std::sort(heap.begin(), heap.end(), before);
  return heap;
}

}  // namespace

std::vector<TopTokens> top_log_probabilities(Queue queue, Tensor logits, std::int64_t count,
                                             std::int32_t wanted) {
  check_cpu("top_log_probabilities", queue, logits);
  const std::int64_t rows = logits.rows(), columns = logits.columns_count();
  check(wanted >= 0 && wanted < columns && count >= 1, "the {} best tokens and token {} of {}",
        count, wanted, columns);
  std::vector<TopTokens> tops(static_cast<std::size_t>(rows));
  std::atomic<std::int64_t> bad{-1};
  dispatch(logits.dtype, [&]<class T>() {
    if constexpr (std::is_same_v<T, bf16>) {
      fail("logits are fp32 or fp64, not bf16");
    } else {
      const T* const data = logits.as<T>();
#pragma omp parallel for schedule(static) if (rows * columns >= kParallelElements)
      for (std::int64_t row = 0; row < rows; ++row) {
        const T* const x = data + row * logits.row_stride;
        TopTokens& top = tops[static_cast<std::size_t>(row)];
        const RowSums<T> sums = sum_row<T, T>(x, columns);
        top.log_normalizer = static_cast<double>(sums.max) + std::log(sums.exponentials);
        if (!std::isfinite(top.log_normalizer)) bad = row;
        top.tokens = largest(x, columns, std::min(count, columns));
        for (const std::int32_t token : top.tokens)
          top.log_probabilities.push_back(static_cast<double>(x[token]) - top.log_normalizer);
        top.wanted_log_probability = static_cast<double>(x[wanted]) - top.log_normalizer;
      }
    }
  });
  check(bad < 0, "the logits of row {} are not finite: the model's weights are broken", bad.load());
  return tops;
}

double log_probability(Tensor logits, std::int64_t row, const TopTokens& row_sums,
                       std::int32_t token) {
  double value = 0;
  dispatch(logits.dtype, [&]<class T>() {
    value = static_cast<double>(
        static_cast<accumulate_t<T>>(logits.as<T>()[row * logits.row_stride + token]));
  });
  return value - row_sums.log_normalizer;
}

}  // namespace t2r
