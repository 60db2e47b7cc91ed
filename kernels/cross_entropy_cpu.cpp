// Cross-entropy on the CPU: three sweeps over a row while it is in the cache; a thread a row.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/cross_entropy.h"
#include "kernels/pointwise.h"
#include "kernels/row_sums.h"
#include "kernels/vector_math.h"

namespace t2r {
namespace {

struct RowLoss {
  double loss = 0, nll = 0;
};

/// dx = scale * (softmax(x) - (1 - smoothing) [j = target] - smoothing / columns); dx may be x.
template <class G, class T, class A>
void write_gradient(G* dx, const T* x, std::int64_t columns, std::int32_t target,
                    const RowSums<A>& sums, double smoothing, double scale) {
  const A factor = static_cast<A>(scale / sums.exponentials);
  const A offset = static_cast<A>(scale * smoothing / static_cast<double>(columns));
  const A max = sums.max;
  const A at_target = x[target];
#pragma omp simd
  for (std::int64_t j = 0; j < columns; ++j)
    store(dx[j], static_cast<accumulate_t<G>>(fast_exp(A(x[j]) - max) * factor - offset));
  const A value =
      fast_exp(at_target - max) * factor - offset - static_cast<A>(scale * (1 - smoothing));
  store(dx[target], static_cast<accumulate_t<G>>(value));
}

template <class T, class G>
std::vector<RowLoss> all_rows(const Tensor& logits, const std::int32_t* targets, double smoothing,
                              double scale, const Tensor& dlogits) {
  using A = accumulate_t<T>;
  const T* x = logits.as<T>();
  G* dx = dlogits ? dlogits.as<G>() : nullptr;
  const std::int64_t rows = logits.rows(), columns = logits.columns_count();
  std::vector<RowLoss> losses(static_cast<std::size_t>(rows));
#pragma omp parallel for schedule(static) if (rows * columns > kParallelElements)
  for (std::int64_t row = 0; row < rows; ++row) {
    const T* x_row = x + row * logits.row_stride;
    G* dx_row = dx ? dx + row * dlogits.row_stride : nullptr;
    const std::int32_t target = targets[row];
    if (target == kIgnoredTarget) {
      if (dx_row) std::fill_n(dx_row, columns, G(0));
      continue;
    }
    const RowSums<A> sums = sum_row<T, A>(x_row, columns);
    const double log_sum = std::log(sums.exponentials);
    RowLoss& out = losses[static_cast<std::size_t>(row)];
    out.nll = log_sum - static_cast<double>(A(x_row[target]) - sums.max);
    out.loss = out.nll;
    // Not 0 * (-infinity): columns that pad the vocabulary may hold -infinity.
    if (smoothing > 0)
      out.loss = (1 - smoothing) * out.nll +
                 smoothing * (log_sum - sums.differences / static_cast<double>(columns));
    if (dx_row) write_gradient(dx_row, x_row, columns, target, sums, smoothing, scale);
  }
  return losses;
}

}  // namespace

CrossEntropySums cross_entropy(Queue queue, Tensor logits, const std::int32_t* targets,
                               double smoothing, double grad_scale, Tensor dlogits) {
  check_cpu("cross_entropy", queue, logits, dlogits);
  check(logits.shape.rank() == 2, "cross_entropy needs a matrix of logits, not the shape {}",
        logits.shape.text());
  check(smoothing >= 0 && smoothing < 1, "label smoothing {}: choose a value in [0, 1)", smoothing);
  if (dlogits) check_shape(dlogits, logits.shape, "the gradient of the logits");
  const std::int64_t rows = logits.rows(), columns = logits.columns_count();
  CrossEntropySums sums;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int32_t target = targets[row];
    check(target == kIgnoredTarget || (0 <= target && target < columns),
          "the target {} of row {} is outside the vocabulary of {} entries; is this the dataset "
          "that the model's tokenizer made?",
          target, row, columns);
    sums.rows += target != kIgnoredTarget;
  }
  const std::vector<RowLoss> losses = dispatch(logits.dtype, [&]<class T>() {
    return dispatch(dlogits ? dlogits.dtype : logits.dtype, [&]<class G>() {
      return all_rows<T, G>(logits, targets, smoothing, grad_scale, dlogits);
    });
  });
  for (const RowLoss& row : losses) {
    sums.loss += row.loss;
    sums.nll += row.nll;
  }
  return sums;
}

}  // namespace t2r
