#include "core/train/optimizer.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/adamw.h"

namespace t2r {
namespace {

constexpr std::int64_t kChunk = 1 << 16;

Tensor part_of(const Tensor& span, std::int64_t begin, std::int64_t end) {
  return span.row_range(begin, end);
}

/// Sum of squares in double; chunks of fixed size are summed in order, so that the result does not
/// depend on the number of threads.
template <class T>
double sum_of_squares(const T* x, std::int64_t n) {
  const std::int64_t chunks = (n + kChunk - 1) / kChunk;
  std::vector<double> sums(static_cast<std::size_t>(chunks));
#pragma omp parallel for schedule(static)
  for (std::int64_t c = 0; c < chunks; ++c) {
    constexpr int kLanes = 8;  // independent sums, which the compiler can keep in one register
    double lane[kLanes] = {};
    const std::int64_t begin = c * kChunk, end = std::min(n, begin + kChunk);
    std::int64_t i = begin;
    for (; i + kLanes <= end; i += kLanes)
      for (int l = 0; l < kLanes; ++l) {
        const double value = static_cast<double>(x[i + l]);
        lane[l] += value * value;
      }
    for (; i < end; ++i) lane[0] += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    double sum = 0;
    for (double value : lane) sum += value;
    sums[static_cast<std::size_t>(c)] = sum;
  }
  double total = 0;
  for (double sum : sums) total += sum;
  return total;
}

template <class T>
bool all_finite(const T* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i)
    if (!std::isfinite(static_cast<double>(x[i]))) return false;
  return true;
}

}  // namespace

Optimizer::Optimizer(ParamStore& params, const AdamWOptions& options)
    : params_(params),
      options_(options),
      arena_(3 * (params.span_size() + 64) * size_of(accumulate_dtype(params.dtype()))) {
  check(params.has_gradients(), "an optimizer needs a model with gradients");
  const DType dtype = accumulate_dtype(params.dtype());
  const Shape span{params.span_size()};
  m_ = arena_.allocate(span, dtype);
  v_ = arena_.allocate(span, dtype);
  std::memset(m_.data, 0, static_cast<std::size_t>(m_.bytes()));
  std::memset(v_.data, 0, static_cast<std::size_t>(v_.bytes()));
  if (params.dtype() == DType::bf16) {
    master_ = arena_.allocate(span, dtype);
    const bf16* values = params.all_values().as<bf16>();
    std::copy(values, values + params.span_size(), master_.as<float>());
  } else {
    master_ = params.all_values();
  }

  for (int i = 0; i < params.count(); ++i) {
    const bool decay = params.spec(ParamId{i}).weight_decay;
    if (runs_.empty() || runs_.back().decay != decay) {
      const std::int64_t begin = params.offset(ParamId{i});
      if (!runs_.empty()) runs_.back().end = begin;
      runs_.push_back({begin, begin, decay});
    }
  }
  if (!runs_.empty()) runs_.back().end = params.span_size();
}

double Optimizer::global_norm(Queue) const {
  const Tensor grads = params_.all_grads();
  const double sum = grads.dtype == DType::f64 ? sum_of_squares(grads.as<double>(), grads.size())
                                               : sum_of_squares(grads.as<float>(), grads.size());
  return std::sqrt(sum);
}

std::string Optimizer::first_bad_gradient() const {
  for (int i = 0; i < params_.count(); ++i) {
    const Tensor grad = params_.grad(ParamId{i});
    const bool finite = grad.dtype == DType::f64 ? all_finite(grad.as<double>(), grad.size())
                                                 : all_finite(grad.as<float>(), grad.size());
    if (!finite) return params_.spec(ParamId{i}).name;
  }
  return "";
}

void Optimizer::update(Queue queue, double learning_rate, double grad_scale, std::int64_t update) {
  AdamWStep step;
  step.learning_rate = learning_rate;
  step.beta1 = options_.beta1;
  step.beta2 = options_.beta2;
  step.eps = options_.eps;
  step.grad_scale = grad_scale;
  step.step = update;
  for (const Run& run : runs_) {
    step.weight_decay = run.decay ? options_.weight_decay : 0;
    const auto part = [&](const Tensor& span) { return part_of(span, run.begin, run.end); };
    adamw(queue, part(params_.all_values()), part(master_), part(params_.all_grads()), part(m_),
          part(v_), step);
  }
  params_.touch();
}

void Optimizer::values_from_master() {
  const Tensor values = params_.all_values();
  if (values.dtype == DType::bf16) {
    const float* master = master_.as<float>();
    bf16* out = values.as<bf16>();
    for (std::int64_t i = 0; i < values.size(); ++i) out[i] = bf16(master[i]);
  }
  params_.touch();
}

double clip_factor(double norm, double limit) {
  return limit > 0 && norm > limit ? limit / norm : 1.0;
}

}  // namespace t2r
