#include "core/model/transformer.h"

#include <algorithm>

#include "kernels/dropout.h"
#include "kernels/elementwise.h"

namespace t2r {
namespace {

constexpr std::uint64_t kEmbeddingSite = 65535;

// Logits of this many elements exist at once: 16 MiB in fp32, which the caches hold in part.
constexpr std::int64_t kLogitsElements = std::int64_t{4} << 20;

std::int64_t rows_per_slice(std::int64_t vocab_size) {
  return std::max<std::int64_t>(16, kLogitsElements / vocab_size);
}

const ModelConfig& validated(const ModelConfig& config) {
  config.validate();
  return config;
}

}  // namespace

Transformer::Transformer(const ModelConfig& config, DType dtype, bool with_gradients)
    : config_(validated(config)), embedding_(params_, config_) {
  for (std::int64_t layer = 0; layer < config_.layers; ++layer)
    blocks_.emplace_back(params_, config_, layer);
  final_norm_ = NormLayer(params_, "model.norm", config_);
  output_ = config_.tied_output ? Linear::tied(embedding_.tokens())
                                : Linear(params_, {{"lm_head", config_.vocab_size}},
                                         config_.hidden_size, false, 0.02);
  params_.allocate(dtype, with_gradients);
  embedding_.bind(config_, dtype);
  for (Block& block : blocks_) block.bind(params_);
  output_.bind(params_);
}

Tensor Transformer::forward_blocks(Step& step, const Batch& batch,
                                   std::vector<BlockActivations>* kept, Tensor* normed,
                                   NormStats* final_stats) {
  check(batch.segments.rows() == batch.rows, "a batch of {} rows with segments of {}", batch.rows,
        batch.segments.rows());
  const Shape shape{batch.rows, config_.hidden_size};
  Tensor x = step.activations.allocate(shape, params_.dtype());
  embedding_.forward(step, params_, x, batch);
  const Dropout dropout = step.dropout(config_.dropout, kEmbeddingSite, batch.row_ids);
  if (dropout.active()) dropout_add_forward(step.queue, x, x, {}, dropout);

  if (kept) kept->resize(blocks_.size());
  // Without backward, two buffers take turns for what goes from block to block.
  Tensor turns[2];
  if (!kept)
    for (Tensor& turn : turns) turn = step.activations.allocate(shape, params_.dtype());
  const std::int64_t mark = step.activations.used();
  for (std::size_t i = 0; i < blocks_.size(); ++i) {
    BlockActivations passing;
    const Tensor y = blocks_[i].forward(step, params_, x, batch, kept ? &(*kept)[i] : &passing);
    x = y;
    if (!kept) {
      x = turns[i % 2];
      copy(step.queue, x, y);
      step.activations.release(mark);
    }
  }
  *normed = step.activations.allocate(shape, params_.dtype());
  final_norm_.forward(step, params_, *normed, x, final_stats);
  return x;
}

CrossEntropySums Transformer::loss_over_slices(Step& step, const Batch& batch, Tensor x, Tensor dx,
                                               double loss_scale, double label_smoothing) {
  const ArenaScope scope(step.scratch);
  const std::int64_t slice = std::min(rows_per_slice(config_.vocab_size), batch.rows);
  const DType wide = accumulate_dtype(x.dtype);
  const Tensor logits_buffer = step.scratch.allocate(Shape{slice, config_.vocab_size}, wide);
  const bool narrow = dx && x.dtype != wide;  // bf16: products want the gradient in bf16 too
  const Tensor dlogits_buffer =
      narrow ? step.scratch.allocate(logits_buffer.shape, x.dtype) : logits_buffer;
  CrossEntropySums sums;
  for (std::int64_t begin = 0; begin < batch.rows; begin += slice) {
    const std::int64_t end = std::min(begin + slice, batch.rows);
    const Tensor logits = logits_buffer.row_range(0, end - begin);
    const Tensor dlogits = dx ? dlogits_buffer.row_range(0, end - begin) : Tensor{};
    const Tensor rows = x.row_range(begin, end);
    output_.forward(step, params_, logits, rows);
    const CrossEntropySums part = cross_entropy(step.queue, logits, batch.targets + begin,
                                                label_smoothing, loss_scale, dlogits);
    if (dx) output_.backward(step, params_, dx.row_range(begin, end), dlogits, rows);
    sums.loss += part.loss;
    sums.nll += part.nll;
    sums.rows += part.rows;
  }
  return sums;
}

CrossEntropySums Transformer::train_step(Step& step, const Batch& batch, double loss_scale,
                                         double label_smoothing, GradientReducer* reducer) {
  if (batch.rows == 0) return {};  // the reducer's finish() sends everything
  step.activations.reset();
  step.scratch.reset();
  std::vector<BlockActivations> kept;
  Tensor normed;
  NormStats final_stats;
  const Tensor x = forward_blocks(step, batch, &kept, &normed, &final_stats);

  const Tensor dx = step.scratch.allocate(x.shape, x.dtype);
  const Tensor dnormed = step.scratch.allocate(x.shape, x.dtype);
  const CrossEntropySums sums =
      loss_over_slices(step, batch, normed, dnormed, loss_scale, label_smoothing);
  final_norm_.backward(step, params_, dx, dnormed, x, final_stats, false);
  for (std::size_t i = blocks_.size(); i-- > 0;) {
    blocks_[i].backward(step, params_, dx, batch, kept[i]);
    if (reducer) reducer->ready(blocks_[i].first_offset(params_));
  }
  const Dropout dropout = step.dropout(config_.dropout, kEmbeddingSite, batch.row_ids);
  if (dropout.active()) dropout_backward(step.queue, dx, dx, dropout);
  embedding_.backward(step, params_, dx, batch);
  return sums;
}

CrossEntropySums Transformer::evaluate(Step& step, const Batch& batch) {
  if (batch.rows == 0) return {};
  step.activations.reset();
  step.scratch.reset();
  Tensor normed;
  NormStats stats;
  forward_blocks(step, batch, nullptr, &normed, &stats);
  return loss_over_slices(step, batch, normed, {}, 0, 0);
}

void Transformer::logits(Step& step, const Batch& batch, Tensor logits) {
  check_shape(logits, Shape{batch.rows, config_.vocab_size}, "logits");
  if (batch.rows == 0) return;
  step.activations.reset();
  step.scratch.reset();
  Tensor normed;
  NormStats stats;
  forward_blocks(step, batch, nullptr, &normed, &stats);
  output_.forward(step, params_, logits, normed);
}

}  // namespace t2r
