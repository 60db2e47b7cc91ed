#include "core/train/optimizer.h"

#include <cmath>

#include "kernels/adamw.h"
#include "kernels/elementwise.h"

namespace t2r {

Optimizer::Optimizer(ParamStore& params, const AdamWOptions& options)
    : params_(params),
      options_(options),
      arena_(3 * (params.span_size() + 64) * size_of(accumulate_dtype(params.dtype()))) {
  check(params.has_gradients(), "an optimizer needs a model with gradients");
  const DType dtype = accumulate_dtype(params.dtype());
  const Shape span{params.span_size()};
  m_ = arena_.allocate(span, dtype);
  v_ = arena_.allocate(span, dtype);
  fill(Queue{}, m_, 0);
  fill(Queue{}, v_, 0);
  if (params.dtype() == DType::bf16) {
    master_ = arena_.allocate(span, dtype);
    copy(Queue{}, master_, params.all_values());
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

double Optimizer::global_norm(Queue queue, const TensorParallel& parallel) const {
  if (!parallel.active()) return std::sqrt(sum_of_squares(queue, params_.all_grads()));
  double sum = 0;  // what every rank has is counted by one
  for (int i = 0; i < params_.count(); ++i)
    if (params_.spec(ParamId{i}).split() || parallel.rank() == 0)
      sum += sum_of_squares(queue, params_.grad(ParamId{i}));
  return std::sqrt(parallel.sum(sum));
}

std::string Optimizer::first_bad_gradient() const {
  const std::int64_t at = first_non_finite(Queue{}, params_.all_grads());
  if (at < 0) return "";
  int index = params_.count() - 1;  // the last parameter that begins at or before it
  while (index > 0 && params_.offset(ParamId{index}) > at) --index;
  return params_.spec(ParamId{index}).name;
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
    const auto part = [&](const Tensor& span) { return span.row_range(run.begin, run.end); };
    adamw(queue, part(params_.all_values()), part(master_), part(params_.all_grads()), part(m_),
          part(v_), step);
  }
  params_.touch();
}

std::vector<OwnedRange> Optimizer::owned() const {
  return {{0, params_.span_size(), master_, m_, v_}};
}

void Optimizer::values_from_master() {
  if (params_.dtype() == DType::bf16) copy(Queue{}, params_.all_values(), master_);
  params_.touch();
}

double clip_factor(double norm, double limit) {
  return limit > 0 && norm > limit ? limit / norm : 1.0;
}

}  // namespace t2r
