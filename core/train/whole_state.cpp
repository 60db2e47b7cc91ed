#include "core/train/whole_state.h"

#include <utility>

namespace t2r {

std::unique_ptr<Transformer> gather_model(const Transformer& part) {
  const ParamStore& params = part.params();
  std::unique_ptr<Transformer> whole;
  if (part.parallel().rank() == 0)
    whole = std::make_unique<Transformer>(part.config(), params.dtype(), false);
  gather_parts(part.parallel(), params, params.all_values(), whole ? &whole->params() : nullptr,
               whole ? whole->params().all_values() : Tensor{});
  if (whole) whole->params().touch();
  return whole;
}

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

void WholeState::spread(Comm& world) {
  const bool parts = model_.parallel().active();
  for (const auto& [part, whole] :
       {std::pair{part_spans_.values, whole_spans_.values},
        std::pair{part_spans_.first_moment, whole_spans_.first_moment},
        std::pair{part_spans_.second_moment, whole_spans_.second_moment}}) {
    if (parts)
      spread_parts(world, model_.params(), part, whole_ ? &whole_->params() : nullptr, whole);
    else
      world.broadcast(part, 0, Queue{});
  }
}

}  // namespace t2r
