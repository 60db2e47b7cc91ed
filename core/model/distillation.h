// What a model can learn from beside the data: another model's distribution of the next token, and
// its own softmax attention.
#pragma once

#include <cstdint>
#include <vector>

#include "core/base/arena.h"
#include "core/model/transformer.h"

namespace t2r {

/// A frozen model with the same vocabulary, spread over the ranks as the one that learns from it:
/// share KL(teacher || model) + (1 - share) cross-entropy is minimised.
class Teacher {
 public:
  Teacher(std::unique_ptr<Transformer> model, double share);

  Transformer& model() const { return *model_; }
  double share() const { return share_; }
  /// A step in arenas of the teacher's own, which a new pass of the teacher makes anew.
  Step step(Queue queue) {
    return {.activations = activations_, .scratch = scratch_, .queue = queue};
  }

 private:
  std::unique_ptr<Transformer> model_;
  double share_;
  Arena activations_, scratch_;
};

/// Attention transfer (Zhang et al. 2024): what a pass goes on with is softmax attention's output,
/// and each swapped layer learns to give it by itself, from the same queries, keys and values: the
/// squared difference is minimised. Gradients do not leave the layer: they reach its feature map
/// and decay only.
struct Transfer {
  struct Layer {
    double error = 0, target = 0;  // sums of squares: of the difference, of softmax's output
  };
  double scale = 1;           // of the squared differences in the loss
  std::vector<Layer> layers;  // of swapped attentions in the order of a pass; added to
  std::size_t next = 0;       // in a pass
};

}  // namespace t2r
