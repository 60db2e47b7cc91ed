#include "core/model/transformer.h"

#include <algorithm>

#include "core/model/distillation.h"
#include "kernels/distillation.h"
#include "kernels/dropout.h"
#include "kernels/elementwise.h"

namespace t2r {
namespace {

// Places of dropout; those of blocks count from 0 (block.cpp).
constexpr std::uint64_t kEmbeddingSite = 65535, kSourceEmbeddingSite = 65533;

// Logits of this many elements exist at once: 16 MiB in fp32, which the caches hold in part.
constexpr std::int64_t kLogitsElements = std::int64_t{4} << 20;

std::int64_t rows_per_slice(std::int64_t vocab_size) {
  return std::max<std::int64_t>(16, kLogitsElements / vocab_size);
}

void check_source(const ModelConfig& config, const Batch& batch) {
  const std::int64_t sources = batch.source.segments.count;
  if (config.encoder_decoder())
    check_usage(sources == batch.segments.count,
                "a translation model was given {} sources for {} targets: it needs one each, from "
                "a dataset of sentence pairs",
                sources, batch.segments.count);
  else
    check_usage(sources == 0, "a language model was given {} source sentences: it takes plain text",
                sources);
}

const ModelConfig& validated(const ModelConfig& config) {
  config.validate();
  return config;
}

}  // namespace

Transformer::Transformer(const ModelConfig& config, DType dtype, const TrainedPart& trained,
                         const TensorParallel& parallel, const ContextParallel& context)
    : config_(validated(config)),
      parallel_(parallel),
      context_(context),
      part_config_(part_of_model(config, parallel)),
      params_(trained),
      embedding_(params_, config_, config.encoder_decoder() ? "model.shared" : "model",
                 config.vocab_size, parallel) {
  const bool translates = config_.encoder_decoder();
  check_usage(!translates || !context.active(),
              "{} ranks cannot share out the tokens of a translation model's sentences, which are "
              "short: use --cp 1",
              context.size());
  check_usage(config_.linear_layers.empty() || config_.linear.window == 0 || !context.active(),
              "{} ranks cannot share out the tokens of a model with a softmax window: use --cp 1",
              context.size());
  if (config_.source_vocab_size)
    source_embedding_ =
        Embedding(params_, config_, "model.encoder", config_.source_vocab_size, parallel);
  for (std::int64_t layer = 0; layer < config_.encoder_layers; ++layer)
    encoder_.blocks.emplace_back(params_, config_, Block::Role::encoder, layer, parallel);
  if (translates && config_.pre_norm)
    encoder_.norm = NormLayer(params_, "model.encoder.norm", config_);
  for (std::int64_t layer = 0; layer < config_.layers; ++layer)
    decoder_.blocks.emplace_back(params_, config_,
                                 translates ? Block::Role::decoder : Block::Role::language_model,
                                 layer, parallel);
  if (config_.pre_norm)
    decoder_.norm = NormLayer(params_, translates ? "model.decoder.norm" : "model.norm", config_);
  if (config_.tied_output) {
    ParamId bias;
    if (config_.output_bias)
      bias = params_.add({.name = "lm_head.bias",
                          .shape = Shape{parallel.share_of(config_.vocab_size)},
                          .part = parallel.part(0, config_.vocab_size)});
    output_ = Linear::tied(embedding_.tokens(), bias);
  } else {
    output_ = Linear(params_, {{"lm_head", config_.vocab_size}}, config_.hidden_size,
                     config_.output_bias, 0.02, Linear::Split::outputs, parallel);
  }
  params_.allocate(dtype);
  embedding_.bind(config_, dtype);
  if (config_.source_vocab_size) source_embedding_.bind(config_, dtype);
  for (Stack* stack : {&encoder_, &decoder_})
    for (Block& block : stack->blocks) block.bind(params_);
  output_.bind(params_);
}

void Transformer::apply_final_norm(Step& step, Tensor y, Tensor x) const {
  NormStats stats;
  if (config_.pre_norm)
    decoder_.norm.forward(step, params_, y, x, &stats);
  else
    copy(step.queue, y, x);
}

void Transformer::embed(Step& step, Tensor y, const Embedding& embedding,
                        const TokenRows& rows) const {
  if (!parallel_.shares_rows(step)) {
    embedding.forward(step, params_, y, rows);
    return;
  }
  const ArenaScope scope(step.scratch);
  const Tensor part = step.scratch.allocate(y.shape.with(0, rows.rows), y.dtype);
  embedding.forward(step, params_, part, rows);
  parallel_.sum_rows(step, y, part);
}

Tensor Transformer::forward_stack(Step& step, const Stack& stack, const Embedding& embedding,
                                  std::uint64_t dropout_site, const TokenRows& rows,
                                  const Memory& memory, StackActivations* kept) const {
  check(rows.segments.rows() == rows.rows, "a batch of {} rows with segments of {}", rows.rows,
        rows.segments.rows());
  const Shape shape{parallel_.rows_here(step, rows.rows).size(), config_.hidden_size};
  const Tensor embedded = step.activations.allocate(shape, params_.dtype());
  embed(step, embedded, embedding, rows);
  const Dropout dropout = step.dropout(config_.dropout, dropout_site,
                                       parallel_.row_ids_here(step, rows.rows, rows.row_ids));
  if (dropout.active()) dropout_add_forward(step.queue, embedded, embedded, {}, dropout);

  const bool keep_all = kept && !step.recompute;
  if (kept) kept->blocks.resize(keep_all ? stack.blocks.size() : 0);
  // Where blocks keep nothing, what goes from one to the next has a place of its own: one a block
  // to recompute from, or without backward two that take turns.
  std::vector<Tensor> places(keep_all ? 0 : kept ? stack.blocks.size() : 2);
  for (Tensor& place : places) place = step.activations.allocate(shape, params_.dtype());
  const std::int64_t mark = step.activations.used();
  Tensor x = embedded;
  for (std::size_t i = 0; i < stack.blocks.size(); ++i) {
    if (kept && !keep_all) kept->inputs.push_back(x);
    BlockActivations passing;
    const Tensor y = stack.blocks[i].forward(step, params_, x, rows, memory,
                                             keep_all ? &kept->blocks[i] : &passing);
    x = y;
    if (!keep_all) {
      x = places[i % places.size()];
      copy(step.queue, x, y);
      step.activations.release(mark);
    }
  }
  if (!config_.pre_norm) return x;
  const Tensor normed = step.activations.allocate(shape, params_.dtype());
  NormStats stats;
  stack.norm.forward(step, params_, normed, x, kept ? &kept->stats : &stats);
  if (kept) kept->x = x;
  return normed;
}

void Transformer::backward_stack(Step& step, const Stack& stack, const Embedding& embedding,
                                 std::uint64_t dropout_site, Tensor dout, const TokenRows& rows,
                                 const Memory& memory, Tensor dmemory, const StackActivations& kept,
                                 GradientReducer* reducer) const {
  const ArenaScope scope(step.scratch);
  Tensor dx = dout;
  if (config_.pre_norm) {
    dx = step.scratch.allocate(dout.shape, dout.dtype);
    stack.norm.backward(step, params_, dx, dout, kept.x, kept.stats, false);
  }
  std::int64_t end =
      &stack == &encoder_ ? decoder_.blocks.front().first_offset(params_) : params_.gradient_span();
  for (std::size_t i = stack.blocks.size(); i-- > 0;) {
    const Block& block = stack.blocks[i];
    if (!block.wants_gradients(params_)) return;  // nor do those below
    if (kept.inputs.empty()) {
      block.backward(step, params_, dx, rows, memory, dmemory, kept.blocks[i]);
    } else {
      // Dropout is a function of its place, so the second pass is the first, bit for bit.
      const std::int64_t mark = step.activations.used();
      Step again = step;
      again.health = nullptr;
      BlockActivations passing;
      block.forward(again, params_, kept.inputs[i], rows, memory, &passing);
      block.backward(step, params_, dx, rows, memory, dmemory, passing);
      step.activations.release(mark);
    }
    if (!reducer) continue;
    const Range finished{block.first_offset(params_), end};
    if (parallel_.shares_rows(step) || params_.sums_gradients())
      sum_shared_gradients(step.queue, finished, parallel_.shares_rows(step));
    reducer->ready(end = finished.begin);
  }
  if (!embedding.trained(params_)) return;
  const Dropout dropout = step.dropout(config_.dropout, dropout_site,
                                       parallel_.row_ids_here(step, rows.rows, rows.row_ids));
  if (dropout.active()) dropout_backward(step.queue, dx, dx, dropout);
  embedding.backward(step, params_, parallel_.gather_rows(step, dx, rows.rows), rows);
}

std::vector<std::int64_t> Transformer::ready_offsets() const {
  std::vector<std::int64_t> offsets;
  for (const Stack* stack : {&decoder_, &encoder_})
    for (std::size_t i = stack->blocks.size(); i-- > 0;)
      stack->blocks[i].add_ready_offsets(params_, offsets);
  return offsets;
}

Memory Transformer::encode(Step& step, const TokenRows& source) {
  check(config_.encoder_decoder(), "a decoder-only model was asked to encode a source");
  return {
      forward_stack(step, encoder_, source_embedding(), kSourceEmbeddingSite, source, {}, nullptr),
      source};
}

Tensor Transformer::forward_only(Step& step, const Batch& batch) {
  step.activations.reset();
  step.scratch.reset();
  check_source(config_, batch);
  Memory memory;
  if (config_.encoder_decoder()) memory = encode(step, batch.source);
  return forward_stack(step, decoder_, embedding_, kEmbeddingSite, batch, memory, nullptr);
}

CrossEntropyStatistics Transformer::statistics_of(Step& step, Tensor logits,
                                                  const std::int32_t* targets) const {
  const std::int64_t rows = logits.rows();
  const auto column = [&](Shape shape) { return step.scratch.allocate(shape, DType::f64); };
  const CrossEntropyStatistics statistics{column(Shape{rows}), column(Shape{rows, 3})};
  cross_entropy_statistics(step.queue, statistics, logits, targets, vocabulary_part());
  if (!parallel_.active()) return statistics;
  const Tensor maxima = column(Shape{rows});
  copy(step.queue, maxima, statistics.maxima);
  parallel_.max(step, maxima);
  cross_entropy_rescale(step.queue, statistics, maxima, targets, logits.columns_count(),
                        vocabulary_part());
  parallel_.sum(step, statistics.sums);
  return statistics;
}

CrossEntropySums Transformer::loss_of_slice(Step& step, Tensor logits, const std::int32_t* targets,
                                            double label_smoothing, double loss_scale,
                                            Tensor dlogits) const {
  if (!parallel_.active())
    return cross_entropy(step.queue, logits, targets, label_smoothing, loss_scale, dlogits);
  const ArenaScope scope(step.scratch);
  const CrossEntropyStatistics statistics = statistics_of(step, logits, targets);
  return cross_entropy_finish(step.queue, statistics, logits, targets, label_smoothing, loss_scale,
                              dlogits, vocabulary_part());
}

/// The teacher's part in one micro-step: its pass over the batch, then slice by slice its
/// distribution.
class Transformer::TeacherPass {
 public:
  /// `slice`: the shape of the largest slice of logits.
  TeacherPass(const Transformer& student, Step& step, const Batch& batch, Shape slice)
      : student_(student),
        teacher_(*step.teacher),
        step_(step.teacher->step(step.queue)),
        hidden_(teacher_.model().forward_only(step_, batch)),
        buffer_(step.scratch.allocate(slice, accumulate_dtype(student.params_.dtype()))) {}

  /// Rows [begin, end) of the batch, before the student's logits become their gradient.
  void look(Step& step, Tensor logits, const std::int32_t* targets, std::int64_t begin,
            std::int64_t end) {
    const Transformer& model = teacher_.model();
    probabilities_ = buffer_.row_range(0, end - begin);
    model.output_.forward(step_, model.params_, probabilities_, hidden_.row_range(begin, end));
    const ArenaScope scope(step.scratch);
    const CrossEntropyStatistics statistics = student_.statistics_of(step, probabilities_, targets);
    divergence_ += teacher_probabilities(step.queue, probabilities_, statistics, logits, targets,
                                         student_.vocabulary_part());
  }
  void blend(Step& step, Tensor dlogits, const std::int32_t* targets, double label_smoothing,
             double loss_scale) const {
    blend_teacher(step.queue, dlogits, probabilities_, targets, teacher_.share(), label_smoothing,
                  loss_scale, student_.vocabulary_part());
  }
  /// Of all slices. Collective over the tensor-parallel ranks.
  double mixed_loss(Step& step, const CrossEntropySums& sums) const {
    double divergence = divergence_;
    student_.parallel_.sum(step, Tensor(&divergence, Shape{1}, DType::f64));
    return (1 - teacher_.share()) * sums.loss + teacher_.share() * (sums.nll + divergence);
  }

 private:
  const Transformer& student_;
  Teacher& teacher_;
  Step step_;
  Tensor hidden_, buffer_, probabilities_;
  double divergence_ = 0;
};

CrossEntropySums Transformer::loss_over_slices(Step& step, const Batch& batch, Tensor x, Tensor dx,
                                               double loss_scale, double label_smoothing) {
  const ArenaScope scope(step.scratch);
  const std::int64_t slice = std::min(rows_per_slice(config_.vocab_size), batch.rows);
  const DType wide = accumulate_dtype(x.dtype);
  const Tensor logits_buffer = step.scratch.allocate(Shape{slice, output_.out()}, wide);
  const bool narrow = dx && x.dtype != wide;  // bf16: products want the gradient in bf16 too
  const Tensor dlogits_buffer =
      narrow ? step.scratch.allocate(logits_buffer.shape, x.dtype) : logits_buffer;
  CrossEntropySums sums;
  const std::unique_ptr<TeacherPass> teacher =
      dx && step.teacher ? std::make_unique<TeacherPass>(*this, step, batch, logits_buffer.shape)
                         : nullptr;
  for (std::int64_t begin = 0; begin < batch.rows; begin += slice) {
    const std::int64_t end = std::min(begin + slice, batch.rows);
    const Tensor logits = logits_buffer.row_range(0, end - begin);
    const Tensor dlogits = dx ? dlogits_buffer.row_range(0, end - begin) : Tensor{};
    const Tensor rows = x.row_range(begin, end);
    output_.forward(step, params_, logits, rows);
    if (teacher) teacher->look(step, logits, batch.targets + begin, begin, end);
    const CrossEntropySums part =
        loss_of_slice(step, logits, batch.targets + begin, label_smoothing, loss_scale, dlogits);
    if (teacher) teacher->blend(step, dlogits, batch.targets + begin, label_smoothing, loss_scale);
    if (dx) output_.backward(step, params_, dx.row_range(begin, end), dlogits, rows);
    sums.loss += part.loss;
    sums.nll += part.nll;
    sums.rows += part.rows;
  }
  if (teacher) sums.loss = teacher->mixed_loss(step, sums);
  return sums;
}

CrossEntropySums Transformer::train_step(Step& step, const Batch& whole, double loss_scale,
                                         double label_smoothing, GradientReducer* reducer) {
  if (whole.rows == 0) return {};  // the reducer's finish() sends everything
  check_source(config_, whole);
  const BatchPart part(whole, context_);
  const Batch& batch = part.batch();
  step.activations.reset();
  step.scratch.reset();
  step.reducer = nullptr;  // the output layer may own no parameters, and has its own in slices
  StackActivations encoder, decoder;
  Memory memory;
  Tensor dmemory;
  if (config_.encoder_decoder()) {
    memory.source = batch.source;
    const Tensor encoded = forward_stack(step, encoder_, source_embedding(), kSourceEmbeddingSite,
                                         batch.source, {}, &encoder);
    memory.values = parallel_.gather_rows(step, encoded, batch.source.rows);
    if (decoder_.blocks.front().trained_before(params_)) {
      dmemory = step.scratch.allocate(memory.values.shape, memory.values.dtype);
      fill(step.queue, dmemory, 0);
    }
  }
  const Tensor here =
      forward_stack(step, decoder_, embedding_, kEmbeddingSite, batch, memory, &decoder);

  // This rank's part of the gradient becomes its stretch of the sum.
  const Tensor dhere = step.scratch.allocate(here.shape, here.dtype);
  CrossEntropySums sums;
  {
    const ArenaScope scope(step.scratch);
    const Tensor normed = parallel_.gather_rows(step, here, batch.rows);
    const Tensor dnormed = step.scratch.allocate(normed.shape, normed.dtype);
    sums = loss_over_slices(step, batch, normed, dnormed, loss_scale, label_smoothing);
    parallel_.sum_rows(step, dhere, dnormed);
  }
  step.reducer = reducer;
  backward_stack(step, decoder_, embedding_, kEmbeddingSite, dhere, batch, memory, dmemory, decoder,
                 reducer);
  if (dmemory) {
    const Tensor dencoded = step.scratch.allocate(
        dmemory.shape.with(0, parallel_.rows_here(step, batch.source.rows).size()), dmemory.dtype);
    parallel_.sum_rows(step, dencoded, dmemory);
    backward_stack(step, encoder_, source_embedding(), kSourceEmbeddingSite, dencoded, batch.source,
                   {}, {}, encoder, reducer);
  }
  return sums;
}

void Transformer::transfer_step(Step& step, const Batch& whole, Transfer& transfer) {
  check(transfer.layers.size() == transfer_layers(),
        "attention transfer: sums for {} swapped attentions of {}", transfer.layers.size(),
        transfer_layers());
  if (whole.rows == 0) return;
  const BatchPart part(whole, context_);
  Transfer sums{transfer.scale, std::vector<Transfer::Layer>(transfer_layers()), 0};
  Step pass = step;
  pass.train = false;              // no dropout: the target is softmax attention as it is used
  pass.sequence_parallel = false;  // nothing is kept for backward
  pass.transfer = &sums;
  forward_only(pass, part.batch());
  parallel_.sum(step, Tensor(&sums.layers.front().error,
                             Shape{2 * static_cast<std::int64_t>(sums.layers.size())}, DType::f64));
  for (std::size_t i = 0; i < sums.layers.size(); ++i) {
    transfer.layers[i].error += sums.layers[i].error;
    transfer.layers[i].target += sums.layers[i].target;
  }
}

void Transformer::sum_shared_gradients(Queue queue, Range range, bool shared_rows) const {
  if (!parallel_.active()) return;
  std::vector<Range> shared;
  for (int i = 0; i < params_.count(); ++i) {
    const ParamSpec& spec = params_.spec(ParamId{i});
    const std::int64_t begin = params_.offset(ParamId{i});
    const bool term = spec.summed || (spec.rows_shared && shared_rows);
    if (term && params_.trained(ParamId{i}) && begin >= range.begin && begin < range.end)
      shared.push_back({begin, begin + spec.shape.size()});
  }
  if (shared.empty()) return;
  all_reduce_stretches(*parallel_.comm(), params_.all_grads(), shared, queue);
}

CrossEntropySums Transformer::evaluate(Step& step, const Batch& whole) {
  if (whole.rows == 0) return {};
  const BatchPart part(whole, context_);
  return loss_over_slices(step, part.batch(), forward_only(step, part.batch()), {}, 0, 0);
}

void Transformer::logits(Step& step, const Batch& batch, Tensor logits) {
  check(!context_.active(), "logits of a model whose tokens are shared out among {} ranks",
        context_.size());
  check_shape(logits, Shape{batch.rows, config_.vocab_size}, "logits");
  if (batch.rows == 0) return;
  output_logits(step, logits, forward_only(step, batch));
}

void Transformer::output_logits(Step& step, Tensor logits, Tensor x) const {
  if (!parallel_.active()) {
    output_.forward(step, params_, logits, x);
    return;
  }
  // Each rank fills its columns; the others' are zero until the sum.
  fill(step.queue, logits, 0);
  const std::int64_t first = parallel_.begin_of(config_.vocab_size);
  output_.forward(step, params_, logits.column_range(first, first + output_.out()), x);
  parallel_.sum(step, logits);
}

}  // namespace t2r
