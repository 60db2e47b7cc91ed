// What tensor-parallel ranks hold in parts, put together on one rank: for checkpoints, model
// folders and fingerprints, which do not depend on the mesh.
#pragma once

#include <memory>

#include "core/base/arena.h"
#include "core/model/transformer.h"
#include "core/train/checkpoint.h"
#include "core/train/optimizer.h"

namespace t2r {

/// The whole model on tensor-parallel rank 0; null on the others. Collective over them.
std::unique_ptr<Transformer> gather_model(const Transformer& part);

/// Room for a whole model's parameters and moments, beside the parts that this rank trains. Where
/// one rank holds everything it is that rank's own memory.
class WholeState {
 public:
  /// `keeper`: this rank has the room; the others take part in what is collective.
  WholeState(const Transformer& model, const Optimizer& optimizer, bool keeper);

  /// The parts of all tensor-parallel ranks to the keeper. Collective over them.
  void gather();
  /// The keeper, rank 0 of `world`, to every rank's part. Collective.
  void spread(Comm& world);

  /// The keeper's.
  const ParamStore& params() const { return whole_ ? whole_->params() : model_.params(); }
  const CheckpointSpans& spans() const { return whole_spans_; }

 private:
  const Transformer& model_;
  CheckpointSpans part_spans_, whole_spans_;
  std::unique_ptr<Transformer> whole_;  // for the places of its parameters, and its values' memory
  Arena moments_{0};
};

}  // namespace t2r
