// What tensor-parallel ranks hold in parts, put together: for comparisons of small models.
// Checkpoints and model folders do without.
#pragma once

#include <memory>

#include "core/base/arena.h"
#include "core/model/transformer.h"
#include "core/train/optimizer.h"

namespace t2r {

/// Spans that lie as the arena of a whole model's parameters does.
struct WholeSpans {
  Tensor values, first_moment, second_moment;  // values in master precision
};

/// Room for a whole model's parameters and moments. Where one rank holds everything it is that
/// rank's own memory.
class WholeState {
 public:
  /// `keeper`: this rank has the room; the others take part in what is collective.
  WholeState(const Transformer& model, const Optimizer& optimizer, bool keeper);

  /// The parts of all tensor-parallel ranks to the keepers. Collective over them.
  void gather();

  /// The keeper's.
  const WholeSpans& spans() const { return whole_spans_; }

 private:
  const Transformer& model_;
  WholeSpans part_spans_, whole_spans_;
  std::unique_ptr<Transformer> whole_;  // for the places of its parameters, and its values' memory
  Arena moments_{0};
};

}  // namespace t2r
