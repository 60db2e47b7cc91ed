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

/// dx = scale * (softmax(x) - (1 - smoothing) [j = target] - smoothing / whole) where
/// `exponentials` is the sum of exp(x - max) over all `whole` columns; dx may be x. target < 0: not
/// among these columns.
template <class G, class T, class A>
void write_gradient(G* dx, const T* x, std::int64_t columns, std::int64_t target, A max,
                    double exponentials, std::int64_t whole, double smoothing, double scale) {
  const A factor = static_cast<A>(scale / exponentials);
  const A offset = static_cast<A>(scale * smoothing / static_cast<double>(whole));
  const A at_target = target < 0 ? max : A(x[target]);
#pragma omp simd
  for (std::int64_t j = 0; j < columns; ++j)
    store(dx[j], static_cast<accumulate_t<G>>(fast_exp(A(x[j]) - max) * factor - offset));
  if (target < 0) return;
  const A value =
      fast_exp(at_target - max) * factor - offset - static_cast<A>(scale * (1 - smoothing));
  store(dx[target], static_cast<accumulate_t<G>>(value));
}

/// The loss of a row from the sum of exp(x - max), the sum of x - max and the target's x - max over
/// `columns` columns.
RowLoss loss_of(double exponentials, double differences, double target, std::int64_t columns,
                double smoothing) {
  const double log_sum = std::log(exponentials);
  RowLoss out;
  out.nll = out.loss = log_sum - target;
  // Not 0 * (-infinity): columns that pad the vocabulary may hold -infinity.
  if (smoothing > 0)
    out.loss = (1 - smoothing) * out.nll +
               smoothing * (log_sum - differences / static_cast<double>(columns));
  return out;
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
    losses[static_cast<std::size_t>(row)] =
        loss_of(sums.exponentials, sums.differences,
                static_cast<double>(A(x_row[target]) - sums.max), columns, smoothing);
    if (dx_row)
      write_gradient(dx_row, x_row, columns, target, sums.max, sums.exponentials, columns,
                     smoothing, scale);
  }
  return losses;
}

/// Counts the targets that count; throws when one is outside the vocabulary.
std::int64_t count_targets(const std::int32_t* targets, std::int64_t rows, std::int64_t entries) {
  std::int64_t count = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int32_t target = targets[row];
    check(target == kIgnoredTarget || (0 <= target && target < entries),
          "the target {} of row {} is outside the vocabulary of {} entries; is this the dataset "
          "that the model's tokenizer made?",
          target, row, entries);
    count += target != kIgnoredTarget;
  }
  return count;
}

void check_logits(const Tensor& logits, double smoothing, const Tensor& dlogits) {
  check(logits.shape.rank() == 2, "cross_entropy needs a matrix of logits, not the shape {}",
        logits.shape.text());
  check(smoothing >= 0 && smoothing < 1, "label smoothing {}: choose a value in [0, 1)", smoothing);
  if (dlogits) check_shape(dlogits, logits.shape, "the gradient of the logits");
}

void add_rows(CrossEntropySums& sums, const std::vector<RowLoss>& losses) {
  for (const RowLoss& row : losses) {
    sums.loss += row.loss;
    sums.nll += row.nll;
  }
}

void check_statistics(const CrossEntropyStatistics& statistics, std::int64_t rows) {
  check_shape(statistics.maxima, Shape{rows}, "the maxima");
  check_shape(statistics.sums, Shape{rows, 3}, "the sums");
}

}  // namespace

CrossEntropySums cross_entropy(Queue queue, Tensor logits, const std::int32_t* targets,
                               double smoothing, double grad_scale, Tensor dlogits) {
  check_cpu("cross_entropy", queue, logits, dlogits);
  check_logits(logits, smoothing, dlogits);
  CrossEntropySums sums;
  sums.rows = count_targets(targets, logits.rows(), logits.columns_count());
  add_rows(sums, dispatch(logits.dtype, [&]<class T>() {
             return dispatch(dlogits ? dlogits.dtype : logits.dtype, [&]<class G>() {
               return all_rows<T, G>(logits, targets, smoothing, grad_scale, dlogits);
             });
           }));
  return sums;
}

void cross_entropy_statistics(Queue queue, const CrossEntropyStatistics& statistics, Tensor logits,
                              const std::int32_t* targets, VocabularyPart part) {
  check_cpu("cross_entropy_statistics", queue, logits);
  check_logits(logits, 0, {});
  const std::int64_t rows = logits.rows(), columns = logits.columns_count();
  check_statistics(statistics, rows);
  (void)count_targets(targets, rows, part.whole);
  auto* const maxima = statistics.maxima.as<double>();
  auto* const sums = statistics.sums.as<double>();
  dispatch(logits.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
#pragma omp parallel for schedule(static) if (rows * columns > kParallelElements)
    for (std::int64_t row = 0; row < rows; ++row) {
      const T* const x = logits.as<T>() + row * logits.row_stride;
      const RowSums<A> here = sum_row<T, A>(x, columns);
      const std::int64_t target = part.column_of(targets[row], columns);
      maxima[row] = static_cast<double>(here.max);
      sums[3 * row] = here.exponentials;
      sums[3 * row + 1] = here.differences;
      sums[3 * row + 2] = target < 0 ? 0 : static_cast<double>(A(x[target]) - here.max);
    }
  });
}

void cross_entropy_rescale(Queue queue, const CrossEntropyStatistics& statistics, Tensor maxima,
                           const std::int32_t* targets, std::int64_t columns, VocabularyPart part) {
  check_cpu("cross_entropy_rescale", queue, maxima);
  const std::int64_t rows = maxima.rows();
  check_statistics(statistics, rows);
  auto* const here = statistics.maxima.as<double>();
  auto* const sums = statistics.sums.as<double>();
  const auto* const all = maxima.as<double>();
  for (std::int64_t row = 0; row < rows; ++row) {
    const double down = here[row] - all[row];
    sums[3 * row] *= std::exp(down);
    sums[3 * row + 1] += static_cast<double>(columns) * down;
    if (part.column_of(targets[row], columns) >= 0) sums[3 * row + 2] += down;
    here[row] = all[row];
  }
}

CrossEntropySums cross_entropy_finish(Queue queue, const CrossEntropyStatistics& statistics,
                                      Tensor logits, const std::int32_t* targets, double smoothing,
                                      double grad_scale, Tensor dlogits, VocabularyPart part) {
  check_cpu("cross_entropy_finish", queue, logits, dlogits);
  check_logits(logits, smoothing, dlogits);
  const std::int64_t rows = logits.rows(), columns = logits.columns_count();
  check_statistics(statistics, rows);
  CrossEntropySums result;
  result.rows = count_targets(targets, rows, part.whole);
  const auto* const maxima = statistics.maxima.as<double>();
  const auto* const sums = statistics.sums.as<double>();
  std::vector<RowLoss> losses(static_cast<std::size_t>(rows));
  for (std::int64_t row = 0; row < rows; ++row)
    if (targets[row] != kIgnoredTarget)
      losses[static_cast<std::size_t>(row)] =
          loss_of(sums[3 * row], sums[3 * row + 1], sums[3 * row + 2], part.whole, smoothing);
  add_rows(result, losses);
  if (!dlogits) return result;
  dispatch(logits.dtype, [&]<class T>() {
    dispatch(dlogits.dtype, [&]<class G>() {
      using A = accumulate_t<T>;
#pragma omp parallel for schedule(static) if (rows * columns > kParallelElements)
      for (std::int64_t row = 0; row < rows; ++row) {
        G* const dx = dlogits.as<G>() + row * dlogits.row_stride;
        if (targets[row] == kIgnoredTarget)
          std::fill_n(dx, columns, G(0));
        else
          write_gradient(dx, logits.as<T>() + row * logits.row_stride, columns,
                         part.column_of(targets[row], columns), static_cast<A>(maxima[row]),
                         sums[3 * row], part.whole, smoothing, grad_scale);
      }
    });
  });
  return result;
}

}  // namespace t2r
