// Distillation on the CPU: one sweep over a row for each step; a thread a row.
#include <cmath>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/distillation.h"
#include "kernels/pointwise.h"
#include "kernels/vector_math.h"

namespace t2r {
double teacher_probabilities(Queue queue, Tensor teacher, const CrossEntropyStatistics& statistics,
                             Tensor logits, const std::int32_t* targets, VocabularyPart part) {
  check_cpu("teacher_probabilities", queue, teacher, statistics.maxima, statistics.sums, logits);
  check(logits.shape.rank() == 2, "teacher_probabilities needs matrices of logits, not {}",
        logits.shape.text());
  check_shape(teacher, logits.shape, "the teacher's logits");
  check(teacher.dtype == logits.dtype, "teacher's logits of {} beside those of {}",
        name_of(teacher.dtype), name_of(logits.dtype));
  const std::int64_t rows = logits.rows(), columns = logits.columns_count();
  check_shape(statistics.maxima, {rows}, "the teacher's maxima");
  check_shape(statistics.sums, {rows, 3}, "the teacher's sums");
  const auto* const maxima = statistics.maxima.as<double>();
  const auto* const sums = statistics.sums.as<double>();
  std::vector<double> of_rows(static_cast<std::size_t>(rows));
  dispatch(logits.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
#pragma omp parallel for schedule(static) if (rows * columns > kParallelElements)
    for (std::int64_t row = 0; row < rows; ++row) {
      if (targets[row] == kIgnoredTarget) continue;
      T* const t = teacher.as<T>() + row * teacher.row_stride;
      const T* const x = logits.as<T>() + row * logits.row_stride;
      const A shift = static_cast<A>(maxima[row] + std::log(sums[3 * row]));
      const std::int64_t target = part.column_of(targets[row], columns);
      // Relative to one logit, so that the sum loses nothing to their common size.
      const A base = x[0];
      double sum = 0, mass = 0;
#pragma omp simd reduction(+ : sum, mass)
      for (std::int64_t j = 0; j < columns; ++j) {
        const A log_p = static_cast<A>(t[j]) - shift, p = fast_exp(log_p);
        sum += p > A(0) ? static_cast<double>(p * (log_p - (static_cast<A>(x[j]) - base))) : 0.0;
        mass += static_cast<double>(p);
        store(t[j], p);
      }
      sum -= mass * static_cast<double>(base);
      if (target >= 0) sum += static_cast<double>(static_cast<A>(x[target]));
      of_rows[static_cast<std::size_t>(row)] = sum;
    }
  });
  double total = 0;
  for (const double row : of_rows) total += row;
  return total;
}

void blend_teacher(Queue queue, Tensor dlogits, Tensor probabilities, const std::int32_t* targets,
                   double share, double smoothing, double grad_scale, VocabularyPart part) {
  check_cpu("blend_teacher", queue, dlogits, probabilities);
  check_shape(probabilities, dlogits.shape, "the teacher's probabilities");
  const std::int64_t rows = dlogits.rows(), columns = dlogits.columns_count();
  const std::int64_t whole = part.whole < 0 ? columns : part.whole;
  dispatch(dlogits.dtype, [&]<class G>() {
    dispatch(probabilities.dtype, [&]<class T>() {
      using A = accumulate_t<G>;
      const A factor = static_cast<A>(share * grad_scale);
      const A everywhere =
          static_cast<A>(share * grad_scale * smoothing / static_cast<double>(whole));
#pragma omp parallel for schedule(static) if (rows * columns > kParallelElements)
      for (std::int64_t row = 0; row < rows; ++row) {
        if (targets[row] == kIgnoredTarget) continue;
        G* const dx = dlogits.as<G>() + row * dlogits.row_stride;
        const T* const p = probabilities.as<T>() + row * probabilities.row_stride;
        const std::int64_t target = part.column_of(targets[row], columns);
        const A at_target = target < 0 ? A(0) : static_cast<A>(dx[target]);
        const A p_target = target < 0 ? A(0) : static_cast<A>(accumulate_t<T>(p[target]));
#pragma omp simd
        for (std::int64_t j = 0; j < columns; ++j)
          store(dx[j], static_cast<A>(dx[j]) + everywhere -
                           factor * static_cast<A>(accumulate_t<T>(p[j])));
        if (target >= 0)
          store(dx[target], at_target + everywhere + factor * static_cast<A>(1 - smoothing) -
                                factor * p_target);
      }
    });
  });
}

}  // namespace t2r
