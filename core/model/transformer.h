// A decoder-only transformer: embeddings, blocks, output layer; forward and backward by hand.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/model/batch.h"
#include "core/model/block.h"
#include "core/model/config.h"
#include "core/model/params.h"
#include "dist/gradient_reducer.h"
#include "kernels/cross_entropy.h"

namespace t2r {

class Transformer {
 public:
  /// Adds the parameters and allocates them (uninitialised: call params().initialize() or load).
  Transformer(const ModelConfig& config, DType dtype, bool with_gradients);
  Transformer(const Transformer&) = delete;
  Transformer& operator=(const Transformer&) = delete;

  const ModelConfig& config() const { return config_; }
  ParamStore& params() { return params_; }
  const ParamStore& params() const { return params_; }

  /// Forward, loss and backward of one micro-step: adds to the gradients the gradient of
  /// loss_scale * (sum of row losses). After each block `reducer`, where given (the last
  /// micro-step), is told how far gradients are final; finish() is the caller's. Logits exist only
  /// for a slice of rows at a time. A batch of zero rows is allowed.
  CrossEntropySums train_step(Step& step, const Batch& batch, double loss_scale,
                              double label_smoothing, GradientReducer* reducer);

  /// Sums of the losses without gradients.
  CrossEntropySums evaluate(Step& step, const Batch& batch);

  /// logits (rows, vocab_size) in accumulate_dtype, for every row of the batch.
  void logits(Step& step, const Batch& batch, Tensor logits);

  /// Where block `layer` begins in the arena: gradients from there on are final once the block's
  /// backward is done (with tied embeddings the head of the arena is final only at the end).
  const Block& block(std::int64_t layer) const { return blocks_[static_cast<std::size_t>(layer)]; }
  const Embedding& embedding() const { return embedding_; }
  const NormLayer& final_norm() const { return final_norm_; }
  const Linear& output() const { return output_; }

 private:
  Tensor forward_blocks(Step& step, const Batch& batch, std::vector<BlockActivations>* kept,
                        Tensor* normed, NormStats* final_stats);
  CrossEntropySums loss_over_slices(Step& step, const Batch& batch, Tensor x, Tensor dx,
                                    double loss_scale, double label_smoothing);

  ModelConfig config_;
  ParamStore params_;
  Embedding embedding_;
  std::vector<Block> blocks_;
  NormLayer final_norm_;
  Linear output_;
};

}  // namespace t2r
