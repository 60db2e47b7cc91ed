#include "core/model/lora.h"

#include <cmath>
#include <string_view>

#include "kernels/elementwise.h"

namespace t2r {
namespace {

constexpr std::string_view kWeight = ".weight";

std::string name_of_a(const std::string& projection) {
  return projection + ".lora_a";
}
std::string name_of_b(const std::string& projection) {
  return projection + ".lora_b";
}

}  // namespace

void LowRankAdapters::add(ParamStore& params, const std::vector<Part>& parts, Side in,
                          int split_dim, const TensorParallel& parallel) {
  const TrainedPart& trained = params.trained_part();
  rank_ = trained.lora_options.rank;
  scale_ = trained.lora_options.alpha / static_cast<double>(rank_);
  const bool out_split = parallel.active() && split_dim == 0;
  const bool in_split = parallel.active() && split_dim == 1;
  for (const Part& part : parts) {
    if (!trained.adapts(part.name)) continue;
    const ParamId a = params.add({.name = name_of_a(part.name),
                                  .shape = Shape{rank_, in.here},
                                  .init = Init::normal,
                                  .scale = 1 / std::sqrt(static_cast<double>(in.whole)),
                                  .weight_decay = true,
                                  .glued = !factors_.empty(),
                                  .summed = out_split,
                                  .part = in_split ? parallel.part(1, in.whole) : ParamPart{},
                                  .group = ParamGroup::adapter});
    factors_.push_back({part.begin, part.begin + part.out.here, a, {}, {}});
  }
  auto factor = factors_.begin();
  for (const Part& part : parts) {
    if (!trained.adapts(part.name)) continue;
    factor++->b = params.add({.name = name_of_b(part.name),
                              .shape = Shape{rank_, part.out.here},
                              .weight_decay = true,
                              .summed = in_split,
                              .part = out_split ? parallel.part(1, part.out.whole) : ParamPart{},
                              .group = ParamGroup::adapter});
  }
}

void LowRankAdapters::bind(const ParamStore& params) {
  if (factors_.empty()) return;
  packed_a_ = LinearWeight(params.value(factors_.front().a, factors_.back().a), params.version());
  for (Factor& factor : factors_)
    factor.packed_b = LinearWeight(params.value(factor.b), params.version());
}

Tensor LowRankAdapters::hidden(Step& step, Tensor x) const {
  const Tensor hidden = step.scratch.allocate(Shape{x.rows(), packed_a_.out()}, x.dtype);
  linear_forward(step.queue, hidden, x, packed_a_);
  scale_by(step.queue, hidden, scale_);
  return hidden;
}

void LowRankAdapters::forward(Step& step, Tensor y, Tensor x) const {
  const ArenaScope scope(step.scratch);
  const Tensor h = hidden(step, x);
  std::int64_t at = 0;
  for (const Factor& factor : factors_) {
    linear_backward_input(step.queue, y.column_range(factor.begin, factor.end),
                          h.column_range(at, at + rank_), factor.packed_b, true);
    at += rank_;
  }
}

Tensor LowRankAdapters::backward(Step& step, const ParamStore& params, Tensor dy, Tensor x) const {
  const Tensor dhidden = step.scratch.allocate(Shape{x.rows(), packed_a_.out()}, x.dtype);
  const ArenaScope scope(step.scratch);
  const Tensor h = hidden(step, x);
  std::int64_t at = 0;
  for (const Factor& factor : factors_) {
    const Tensor dpart = dy.column_range(factor.begin, factor.end);
    linear_backward_weight(step.queue, params.grad(factor.b), {}, h.column_range(at, at + rank_),
                           dpart);
    linear_forward(step.queue, dhidden.column_range(at, at + rank_), dpart, factor.packed_b);
    at += rank_;
  }
  scale_by(step.queue, dhidden, scale_);
  linear_backward_weight(step.queue, params.grad(factors_.front().a, factors_.back().a), {},
                         dhidden, x);
  return dhidden;
}

void LowRankAdapters::backward_input(Step& step, Tensor dx, Tensor dhidden) const {
  linear_backward_input(step.queue, dx, dhidden, packed_a_, true);
}

void merge_adapter(const TensorParallel& parallel, const ParamStore& params, ParamId id,
                   void* weight) {
  const std::string& name = params.spec(id).name;
  if (!name.ends_with(kWeight)) return;
  const std::string projection = name.substr(0, name.size() - kWeight.size());
  const ParamId a = params.find(name_of_a(projection)), b = params.find(name_of_b(projection));
  if (!a) return;
  dispatch(params.dtype(), [&]<class T>() {
    using A = accumulate_t<T>;
    const std::int64_t rank = params.spec(a).shape[0];
    const Shape whole = params.spec(id).whole_shape();
    std::vector<T> left, right;
    if (weight) {
      left.resize(static_cast<std::size_t>(rank * whole[0]));
      right.resize(static_cast<std::size_t>(rank * whole[1]));
    }
    gather_parameter(parallel, params, params.all_values(), b, weight ? left.data() : nullptr);
    gather_parameter(parallel, params, params.all_values(), a, weight ? right.data() : nullptr);
    if (!weight) return;
    const auto scale =
        static_cast<A>(params.trained_part().lora_options.alpha / static_cast<double>(rank));
#pragma omp parallel for schedule(static)
    for (std::int64_t row = 0; row < whole[0]; ++row) {
      T* const out = static_cast<T*>(weight) + row * whole[1];
      for (std::int64_t column = 0; column < whole[1]; ++column) {
        A sum = 0;
        for (std::int64_t r = 0; r < rank; ++r)
          sum += static_cast<A>(left[static_cast<std::size_t>(r * whole[0] + row)]) *
                 static_cast<A>(right[static_cast<std::size_t>(r * whole[1] + column)]);
        out[column] = T(static_cast<A>(out[column]) + scale * sum);
      }
    }
  });
}

}  // namespace t2r
