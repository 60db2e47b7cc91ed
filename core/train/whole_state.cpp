#include "core/train/whole_state.h"

namespace t2r {

WholeState::WholeState(const Transformer& model, const Optimizer& optimizer, bool keeper)
    : model_(model),
      part_spans_{optimizer.master(), optimizer.first_moment(), optimizer.second_moment()} {
  if (!model.parallel().active()) {
    whole_spans_ = part_spans_;
    return;
  }
  if (!keeper) return;
  const DType dtype = part_spans_.values.dtype;
  whole_ = std::make_unique<Transformer>(model.config(), dtype, false);
  const Shape span{whole_->params().span_size()};
  moments_ = Arena(2 * (span.size() * size_of(dtype) + 64));
  whole_spans_ = {whole_->params().all_values(), moments_.allocate(span, dtype),
                  moments_.allocate(span, dtype)};
}

void WholeState::gather() {
  if (!model_.parallel().active()) return;
  const auto gather = [&](const Tensor& part, const Tensor& whole) {
    gather_parts(model_.parallel(), model_.params(), part, whole_ ? &whole_->params() : nullptr,
                 whole);
  };
  gather(part_spans_.values, whole_spans_.values);
  gather(part_spans_.first_moment, whole_spans_.first_moment);
  gather(part_spans_.second_moment, whole_spans_.second_moment);
}

}  // namespace t2r
