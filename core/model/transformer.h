// A transformer, decoder-only or encoder-decoder: embeddings, blocks, output layer; forward and
// backward by hand.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "core/model/batch.h"
#include "core/model/block.h"
#include "core/model/config.h"
#include "core/model/context_parallel.h"
#include "core/model/params.h"
#include "dist/gradient_reducer.h"
#include "kernels/cross_entropy.h"

namespace t2r {

class Transformer {
 public:
  /// Adds the parameters and allocates them (uninitialised: call params().initialize() or load).
  /// What is `trained` has gradients. With `parallel` this rank holds its part of the model, and
  /// every pass is collective. With `context` (decoder-only) train_step and evaluate are given a
  /// whole batch, the same on all of its ranks; each works on its tokens, and gives the losses of
  /// these.
  Transformer(const ModelConfig& config, DType dtype, const TrainedPart& trained,
              const TensorParallel& parallel = {}, const ContextParallel& context = {});
  Transformer(const Transformer&) = delete;
  Transformer& operator=(const Transformer&) = delete;

  const ModelConfig& config() const { return config_; }            // of the whole model
  const ModelConfig& part_config() const { return part_config_; }  // with the heads that are here
  const TensorParallel& parallel() const { return parallel_; }
  const ContextParallel& context() const { return context_; }
  ParamStore& params() { return params_; }
  const ParamStore& params() const { return params_; }

  /// Forward, loss and backward of one micro-step: adds to the gradients the gradient of
  /// loss_scale * (sum of row losses). After each layer `reducer`, where given (the last
  /// micro-step), is told how far gradients are final; finish() is the caller's. Logits exist only
  /// for a slice of rows at a time. A batch of zero rows is allowed.
  CrossEntropySums train_step(Step& step, const Batch& whole, double loss_scale,
                              double label_smoothing, GradientReducer* reducer);

  /// One micro-step of attention transfer: a forward pass as if no layer were swapped, in which the
  /// swapped ones learn to do what softmax does (Transfer). Adds to the gradients of feature maps
  /// and decays alone, and to the sums of `transfer`, which has an entry a swapped attention
  /// (transfer_layers); those of all tensor-parallel ranks together. A batch of zero rows is
  /// allowed.
  void transfer_step(Step& step, const Batch& whole, Transfer& transfer);
  /// Swapped attentions in a pass: of translation decoders two a layer.
  std::size_t transfer_layers() const {
    return config_.linear_layers.size() * (config_.encoder_decoder() ? 2 : 1);
  }

  /// Of the parameters that begin in `range` of the arena, the gradients of which tensor-parallel
  /// ranks have a term each become sums: of adapters, and with sequence parallelism (`shared_rows`)
  /// of norms. train_step does this where it has a reducer. Collective over the ranks.
  void sum_shared_gradients(Queue queue, Range range, bool shared_rows) const;

  /// Sums of the losses without gradients.
  CrossEntropySums evaluate(Step& step, const Batch& whole);

  /// logits (rows, vocab_size) in accumulate_dtype, for every row of the batch.
  void logits(Step& step, const Batch& batch, Tensor logits);

  /// What train_step tells its reducer: where layers begin, in the order of backward.
  std::vector<std::int64_t> ready_offsets() const;

  /// Encoder-decoder: the encoder's output (source rows, hidden), in step.activations.
  Memory encode(Step& step, const TokenRows& source);

  /// Block `layer` of the decoder (or only) stack.
  const Block& block(std::int64_t layer) const {
    return decoder_.blocks[static_cast<std::size_t>(layer)];
  }
  const Embedding& embedding() const { return embedding_; }
  /// y = the norm after the last pre-norm block; post-norm models have none, and it copies.
  void apply_final_norm(Step& step, Tensor y, Tensor x) const;
  /// logits (rows, vocab_size) of rows behind the final norm.
  void output_logits(Step& step, Tensor logits, Tensor x) const;

 private:
  class TeacherPass;

  /// A stack of blocks between an embedding and a norm, and what backward needs of a pass through
  /// it.
  struct Stack {
    std::vector<Block> blocks;
    NormLayer norm;  // pre-norm only
  };
  struct StackActivations {
    std::vector<BlockActivations> blocks;
    std::vector<Tensor> inputs;  // of the blocks, where backward recomputes (Chen et al. 2016)
    Tensor x;                    // before the norm
    NormStats stats;
  };

  /// y = the embeddings of the rows that are here.
  void embed(Step& step, Tensor y, const Embedding& embedding, const TokenRows& rows) const;
  Tensor forward_stack(Step& step, const Stack& stack, const Embedding& embedding,
                       std::uint64_t dropout_site, const TokenRows& rows, const Memory& memory,
                       StackActivations* kept) const;
  /// Parameters' gradients += those through the stack; dout, of its output, is used up.
  void backward_stack(Step& step, const Stack& stack, const Embedding& embedding,
                      std::uint64_t dropout_site, Tensor dout, const TokenRows& rows,
                      const Memory& memory, Tensor dmemory, const StackActivations& kept,
                      GradientReducer* reducer) const;
  /// The last layer's input (rows, hidden), without backward.
  Tensor forward_only(Step& step, const Batch& batch);
  const Embedding& source_embedding() const {
    return config_.source_vocab_size ? source_embedding_ : embedding_;
  }
  /// The loss of a slice of rows; logits become their own gradient, or dlogits theirs.
  CrossEntropySums loss_of_slice(Step& step, Tensor logits, const std::int32_t* targets,
                                 double label_smoothing, double loss_scale, Tensor dlogits) const;
  CrossEntropySums loss_over_slices(Step& step, const Batch& batch, Tensor x, Tensor dx,
                                    double loss_scale, double label_smoothing);
  /// The largest logit of each row, and sums relative to it, over the whole vocabulary.
  CrossEntropyStatistics statistics_of(Step& step, Tensor logits,
                                       const std::int32_t* targets) const;
  VocabularyPart vocabulary_part() const {
    return {parallel_.begin_of(config_.vocab_size), config_.vocab_size};
  }

  ModelConfig config_;
  TensorParallel parallel_;
  ContextParallel context_;
  ModelConfig part_config_;
  ParamStore params_;
  Embedding embedding_, source_embedding_;
  Stack encoder_, decoder_;
  Linear output_;
};

}  // namespace t2r
