#include "core/train/optimizer.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "kernels/elementwise.h"

namespace t2r {
namespace {

/// f(begin, end) for what lies in both ranges, if anything.
template <class F>
void where_both(std::int64_t begin, std::int64_t end, std::int64_t other_begin,
                std::int64_t other_end, F&& f) {
  begin = std::max(begin, other_begin);
  end = std::min(end, other_end);
  if (begin < end) f(begin, end);
}

/// Elements of the span that this rank keeps the state of.
std::int64_t owned_elements(std::int64_t span, const OptimizerSharding& sharding) {
  if (!sharding.active()) return span;
  const int ranks = sharding.replicas->size();
  std::int64_t elements = 0;
  for (const Range& bucket : sharding.buckets)
    elements += bucket.size() / ranks + rest_of_bucket(bucket, ranks).size();
  return elements;
}

}  // namespace

Optimizer::Optimizer(ParamStore& params, const AdamWOptions& options, OptimizerSharding sharding)
    : params_(params),
      options_(options),
      sharding_(std::move(sharding)),
      arena_(3 * (owned_elements(params.gradient_span(), sharding_) + 64) *
             size_of(accumulate_dtype(params.dtype()))) {
  check(params.has_gradients(), "an optimizer needs a model with gradients");
  const DType dtype = accumulate_dtype(params.dtype());
  const Shape state{owned_elements(params.gradient_span(), sharding_)};
  m_ = arena_.allocate(state, dtype);
  v_ = arena_.allocate(state, dtype);
  fill(Queue{}, m_, 0);
  fill(Queue{}, v_, 0);
  if (params.dtype() == DType::bf16) master_ = arena_.allocate(state, dtype);
  if (!sharded()) {
    own({0, params.gradient_span()}, false);
  } else {
    const int rank = sharding_.replicas->rank(), ranks = sharding_.replicas->size();
    for (auto bucket = sharding_.buckets.rbegin(); bucket != sharding_.buckets.rend(); ++bucket) {
      own(part_of_bucket(*bucket, rank, ranks), false);
      own(rest_of_bucket(*bucket, ranks), true);
    }
  }
  for (int i = 0; i < params.count(); ++i) {
    if (!params.trained(ParamId{i})) continue;
    const bool decay = params.spec(ParamId{i}).weight_decay;
    const bool fresh = is_new(params.spec(ParamId{i}).group);
    if (runs_.empty() || runs_.back().decay != decay || runs_.back().is_new != fresh) {
      const std::int64_t begin = params.offset(ParamId{i});
      if (!runs_.empty()) runs_.back().end = begin;
      runs_.push_back({begin, begin, decay, fresh});
    }
  }
  if (!runs_.empty()) runs_.back().end = params.gradient_span();
}

void Optimizer::own(const Range& range, bool by_all) {
  if (range.size() == 0 && sharded()) return;
  const std::int64_t at = owned_state_;
  owned_state_ += range.size();
  const auto state = [&](const Tensor& span) { return span.row_range(at, owned_state_); };
  const Tensor values = params_.all_values().row_range(range.begin, range.end);
  OwnedRange owned{range.begin, range.end, values, state(m_), state(v_), by_all};
  if (master_) {
    owned.master = state(master_);
    copy(Queue{}, owned.master, values);
  }
  owned_.push_back(owned);
}

const Tensor& Optimizer::whole(const Tensor& state) const {
  check(!sharded(), "the state of a sharded optimizer is on several ranks");
  return state;
}

Tensor Optimizer::master() const {
  return master_ ? whole(master_) : params_.trained_values();
}

std::int64_t Optimizer::state_bytes() const {
  return m_.bytes() + v_.bytes() + (master_ ? master_.bytes() : 0);
}

double Optimizer::global_norm(Queue queue, const TensorParallel& parallel) const {
  double sum = 0;
  const auto add = [&](std::int64_t begin, std::int64_t end) {
    sum += sum_of_squares(queue, params_.all_grads().row_range(begin, end));
  };
  for (const OwnedRange& range : owned_) {
    // What every rank has is counted by one.
    if (range.by_all && sharding_.replicas->rank() > 0) continue;
    if (!parallel.active()) {
      add(range.begin, range.end);
      continue;
    }
    for (int i = 0; i < params_.count(); ++i) {
      if (!params_.trained(ParamId{i})) continue;
      const ParamSpec& spec = params_.spec(ParamId{i});
      const std::int64_t begin = params_.offset(ParamId{i});
      if (spec.split() || parallel.rank() == 0)
        where_both(range.begin, range.end, begin, begin + spec.shape.size(), add);
    }
  }
  if (sharded()) sum = sharding_.replicas->all_reduce_value(sum, ReduceOp::sum);
  return std::sqrt(parallel.sum(sum));
}

std::string Optimizer::first_bad_gradient() const {
  const std::int64_t none = params_.gradient_span();
  std::int64_t at = none;
  for (const OwnedRange& range : owned_) {
    const std::int64_t found =
        first_non_finite(Queue{}, params_.all_grads().row_range(range.begin, range.end));
    if (found >= 0) at = std::min(at, range.begin + found);
  }
  if (sharded()) at = sharding_.replicas->all_reduce_value(at, ReduceOp::min);
  if (at == none) return "";
  int index = params_.count() - 1;  // the last trained parameter that begins at or before it
  while (index > 0 && (!params_.trained(ParamId{index}) || params_.offset(ParamId{index}) > at))
    --index;
  return params_.spec(ParamId{index}).name;
}

void Optimizer::update_range(Queue queue, const OwnedRange& range, AdamWStep step) {
  const double learning_rate = step.learning_rate;
  for (const Run& run : runs_) {
    step.learning_rate = learning_rate * (run.is_new ? options_.new_parameter_rate : 1);
    step.weight_decay = run.decay ? options_.weight_decay : 0;
    where_both(range.begin, range.end, run.begin, run.end,
               [&](std::int64_t begin, std::int64_t end) {
                 const auto of_range = [&](const Tensor& part) {
                   return part.row_range(begin - range.begin, end - range.begin);
                 };
                 adamw(queue, params_.all_values().row_range(begin, end), of_range(range.master),
                       params_.all_grads().row_range(begin, end), of_range(range.first_moment),
                       of_range(range.second_moment), step);
               });
  }
}

void Optimizer::update(Queue queue, double learning_rate, double grad_scale, std::int64_t update) {
  AdamWStep step;
  step.learning_rate = learning_rate;
  step.beta1 = options_.beta1;
  step.beta2 = options_.beta2;
  step.eps = options_.eps;
  step.grad_scale = grad_scale;
  step.step = update;
  auto bucket = sharding_.buckets.rbegin();
  for (const OwnedRange& range : owned_) {
    // The values of a bucket travel while the next one is updated.
    while (sharded() && range.begin >= bucket->end) start_gather(queue, *bucket++);
    update_range(queue, range, step);
  }
  while (sharded() && bucket != sharding_.buckets.rend()) start_gather(queue, *bucket++);
  finish_gather();
  params_.touch();
}

void Optimizer::start_gather(Queue queue, const Range& bucket) {
  Comm& replicas = *sharding_.replicas;
  const auto values = [&](const Range& range) {
    return params_.all_values().row_range(range.begin, range.end);
  };
  const Range parts{bucket.begin, rest_of_bucket(bucket, replicas.size()).begin};
  if (parts.size() == 0) return;
  gathering_.push_back(replicas.start_all_gather(
      values(part_of_bucket(bucket, replicas.rank(), replicas.size())), values(parts), queue));
  while (!gathering_.empty() && gathering_.front()->test()) gathering_.pop_front();
}

void Optimizer::finish_gather() {
  const auto begin = std::chrono::steady_clock::now();
  for (; !gathering_.empty(); gathering_.pop_front()) gathering_.front()->wait();
  exposed_seconds_ +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

double clip_factor(double norm, double limit) {
  return limit > 0 && norm > limit ? limit / norm : 1.0;
}

}  // namespace t2r
