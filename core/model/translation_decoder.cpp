#include "core/model/translation_decoder.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include "core/model/block_step.h"

namespace t2r {
namespace {

/// Room for encoding the sources, or for one step: reserved, used only as touched.
constexpr std::int64_t kWorkingMemory = std::int64_t{16} << 30;
constexpr std::int64_t kStateMemory = std::int64_t{64} << 30;

void copy_rows_of(const Tensor& x, std::int64_t to, std::int64_t from) {
  if (!x) return;
  const std::int64_t bytes = x.columns_count() * size_of(x.dtype);
  char* const data = static_cast<char*>(x.data);
  std::memcpy(data + to * bytes, data + from * bytes, static_cast<std::size_t>(bytes));
}

}  // namespace

TranslationDecoder::TranslationDecoder(Transformer& model)
    : model_(model), memory_(kStateMemory), activations_(kWorkingMemory), scratch_(kWorkingMemory) {
  check_usage(model.config().encoder_decoder(), "a language model cannot translate");
}

void TranslationDecoder::set_offsets() {
  const auto count = source_lengths_.size();
  query_offsets_.assign(count + 1, 0);
  source_offsets_.assign(count + 1, 0);
  no_keys_.assign(count + 1, 0);
  for (std::size_t s = 0; s < count; ++s) {
    query_offsets_[s + 1] = query_offsets_[s] + beams_;
    source_offsets_[s + 1] = source_offsets_[s] + source_lengths_[s];
  }
}

TranslationDecoder::CrossState TranslationDecoder::make_cross(Step& step,
                                                              const Attention& attention,
                                                              const Memory& memory) {
  const ModelConfig& c = model_.part_config();
  const ParamStore& params = model_.params();
  const DType dtype = params.dtype();
  const std::int64_t heads = c.heads, k = attention.feature_size();
  const std::int64_t nk = c.key_value_heads * c.head_dim, tokens = memory.values.rows();
  CrossState state;
  if (!attention.linear()) {
    state.keys = memory_.allocate(Shape{tokens, nk}, dtype);
    state.values = memory_.allocate(Shape{tokens, nk}, dtype);
  } else {
    const DType wide = accumulate_dtype(dtype);
    state.linear.s = memory_.allocate(Shape{sources(), heads, k, c.head_dim}, wide);
    state.linear.z = memory_.allocate(Shape{sources(), heads, k}, wide);
  }
  const ArenaScope scope(step.scratch);
  Tensor keys, values;
  attention.project_memory(step, params, &keys, &values, memory.values);
  if (!attention.linear()) {
    copy(step.queue, state.keys, keys);
    copy(step.queue, state.values, values);
    return state;
  }
  const auto scratch = [&](std::int64_t rows, std::int64_t columns, DType type) {
    return step.scratch.allocate(Shape{rows, columns}, type);
  };
  const Tensor features = scratch(tokens, heads * k, dtype);
  feature_map_forward(step.queue, features, keys, attention.map_weights(params), heads,
                      c.key_value_heads, 1.0);
  // No queries: what is wanted is the state after all keys.
  const Segments none{sources(), no_keys_.data()};
  linear_attention_forward(step.queue, scratch(0, heads * c.head_dim, dtype),
                           scratch(0, heads, accumulate_dtype(dtype)), scratch(0, heads * k, dtype),
                           features, values, none, memory.source.segments, attention.linear_shape(),
                           {}, {}, state.linear);
  return state;
}

void TranslationDecoder::begin(const TokenRows& sources, std::int64_t beams,
                               std::int64_t capacity) {
  const ModelConfig& c = model_.part_config();
  check_usage(beams >= 1, "{} hypotheses a source: there must be at least 1", beams);
  check_usage(capacity >= 1 && capacity <= c.max_positions,
              "translations of up to {} tokens were asked for, but the model has {} positions",
              capacity, c.max_positions);
  capacity_ = capacity;
  memory_.reset();
  activations_.reset();
  scratch_.reset();
  self_.clear();
  cross_.clear();
  length_ = 0;
  beams_ = beams;
  source_lengths_.clear();
  for (std::int64_t s = 0; s < sources.segments.count; ++s)
    source_lengths_.push_back(sources.segments.length(s));
  set_offsets();

  Step step{.activations = activations_, .scratch = scratch_, .queue = {}};
  const Memory memory = model_.encode(step, sources);
  for (std::int64_t layer = 0; layer < c.layers; ++layer) {
    const Block& block = model_.block(layer);
    cross_.push_back(make_cross(step, block.cross_attention(), memory));
    self_.push_back(SelfAttentionState::make(block.attention(), model_.params(), rows(), capacity_,
                                             true, memory_));
    self_.back().clear();
  }
}

void TranslationDecoder::cross_step(Step& step, const Attention& attention, const CrossState& state,
                                    Tensor y, Tensor x) const {
  const ModelConfig& c = model_.part_config();
  const ParamStore& params = model_.params();
  const std::int64_t rows = x.rows(), heads = c.heads, nq = heads * c.head_dim;
  const auto scratch = [&](std::int64_t count, std::int64_t columns, DType dtype) {
    return step.scratch.allocate(Shape{count, columns}, dtype);
  };
  const Tensor q = scratch(rows, nq, x.dtype), context = scratch(rows, nq, x.dtype);
  const Tensor statistics = scratch(rows, heads, accumulate_dtype(x.dtype));
  const Segments queries{sources(), query_offsets_.data()};
  attention.projection().forward(step, params, q, x);
  if (attention.linear()) {
    const std::int64_t k = attention.feature_size();
    const Tensor features = scratch(rows, heads * k, x.dtype);
    feature_map_forward(step.queue, features, q, attention.map_weights(params), heads, heads,
                        attention.scale());
    // No keys: all of them are in the state.
    linear_attention_forward(
        step.queue, context, statistics, features, scratch(0, heads * k, x.dtype),
        scratch(0, c.key_value_heads * c.head_dim, x.dtype), queries, {sources(), no_keys_.data()},
        attention.linear_shape(), {}, state.linear);
  } else {
    softmax_attention_forward(step.queue, context, statistics, q, state.keys, state.values, queries,
                              {sources(), source_offsets_.data()}, attention.softmax_shape(),
                              attention.scale(), {});
  }
  attention.output().forward(step, params, y, context);
}

Tensor TranslationDecoder::step(std::span<const std::int32_t> tokens) {
  const ModelConfig& c = model_.part_config();
  const ParamStore& params = model_.params();
  const auto count = tokens.size();
  check(std::ssize(tokens) == rows(), "{} tokens for {} rows", count, rows());
  check_usage(length_ < capacity_, "the decoder was made for targets of {} tokens", capacity_);
  const std::vector<std::int32_t> positions(count, static_cast<std::int32_t>(length_));
  const std::vector<std::int64_t> lengths(count, length_);
  std::vector<std::int64_t> offsets(count + 1);
  std::iota(offsets.begin(), offsets.end(), 0);
  TokenRows input;
  input.rows = rows();
  input.inputs = tokens.data();
  input.positions = positions.data();
  input.segments = {rows(), offsets.data()};

  activations_.reset();
  scratch_.reset();
  Step step{.activations = activations_, .scratch = scratch_, .queue = {}};
  const Tensor x = scratch_.allocate(Shape{rows(), c.hidden_size}, params.dtype());
  const Tensor logits =
      scratch_.allocate(Shape{rows(), c.vocab_size}, accumulate_dtype(params.dtype()));
  if (rows() == 0) return logits;
  model_.embedding().forward(step, params, x, input);
  for (std::size_t layer = 0; layer < self_.size(); ++layer) {
    const Block& block = model_.block(static_cast<std::int64_t>(layer));
    residual_step(step, block.attention_norm(), c.pre_norm, params, x, [&](Tensor y, Tensor in) {
      self_attention_step(step, params, block.attention(), self_[layer].first(rows()), y, in,
                          positions.data(), lengths.data());
    });
    residual_step(step, block.cross_norm(), c.pre_norm, params, x, [&](Tensor y, Tensor in) {
      cross_step(step, block.cross_attention(), cross_[layer], y, in);
    });
    residual_step(step, block.ffn_norm(), c.pre_norm, params, x,
                  [&](Tensor y, Tensor in) { ffn_step(step, params, block, y, in); });
  }
  ++length_;
  const Tensor normed = scratch_.allocate(x.shape, x.dtype);
  model_.apply_final_norm(step, normed, x);
  model_.output_logits(step, logits, normed);
  return logits;
}

void TranslationDecoder::copy_row(std::int64_t to, std::int64_t from) const {
  const ModelConfig& c = model_.part_config();
  for (const SelfAttentionState& state : self_) {
    copy_rows_of(state.linear.s, to, from);
    copy_rows_of(state.linear.z, to, from);
    for (const Tensor& cache : {state.keys, state.values}) {
      if (!cache) continue;
      const std::int64_t entry = c.head_dim * size_of(cache.dtype);
      const std::int64_t head = cache.shape[2] * entry;
      const std::int64_t filled = std::min(length_, cache.shape[2]) * entry;
      char* const data = static_cast<char*>(cache.data);
      for (std::int64_t h = 0; h < c.key_value_heads; ++h)
        std::memcpy(data + (to * c.key_value_heads + h) * head,
                    data + (from * c.key_value_heads + h) * head, static_cast<std::size_t>(filled));
    }
  }
}

void TranslationDecoder::take(std::span<const std::int64_t> parents) {
  check(std::ssize(parents) == rows(), "{} parents for {} rows", parents.size(), rows());
  for (const std::int64_t parent : parents)
    check(parent >= 0 && parent < rows() && parents[static_cast<std::size_t>(parent)] == parent,
          "row {} is taken by another, so it must keep itself", parent);
  const std::int64_t count = rows();
#pragma omp parallel for schedule(static)
  for (std::int64_t row = 0; row < count; ++row)
    if (parents[static_cast<std::size_t>(row)] != row)
      copy_row(row, parents[static_cast<std::size_t>(row)]);
}

void TranslationDecoder::keep(std::span<const std::int64_t> sources) {
  std::vector<std::int64_t> lengths;
  std::int64_t row = 0;  // of source tokens
  for (std::size_t i = 0; i < sources.size(); ++i) {
    const std::int64_t from = sources[i], to = static_cast<std::int64_t>(i);
    check(from >= to && from < this->sources() && (i == 0 || sources[i - 1] < from),
          "the sources to keep must ascend from 0 to {}", this->sources() - 1);
    const std::int64_t length = source_lengths_[static_cast<std::size_t>(from)];
    lengths.push_back(length);
    const std::int64_t first = source_offsets_[static_cast<std::size_t>(from)];
    for (const CrossState& state : cross_) {
      if (from != to) {
        copy_rows_of(state.linear.s, to, from);
        copy_rows_of(state.linear.z, to, from);
      }
      for (std::int64_t t = 0; t < length && first != row; ++t) {
        copy_rows_of(state.keys, row + t, first + t);
        copy_rows_of(state.values, row + t, first + t);
      }
    }
    row += length;
    for (std::int64_t beam = 0; beam < beams_ && from != to; ++beam)
      copy_row(to * beams_ + beam, from * beams_ + beam);
  }
  source_lengths_ = std::move(lengths);
  set_offsets();
  for (CrossState& state : cross_)
    for (Tensor* tensor : {&state.linear.s, &state.linear.z, &state.keys, &state.values})
      if (*tensor)
        *tensor = tensor->row_range(0, tensor == &state.linear.s || tensor == &state.linear.z
                                           ? this->sources()
                                           : source_offsets_.back());
}

std::int64_t TranslationDecoder::state_bytes() const {
  std::int64_t bytes = 0;
  for (const SelfAttentionState& state : self_) bytes += rows() * state.held_bytes(length_);
  for (const CrossState& state : cross_)
    for (const Tensor& tensor : {state.linear.s, state.linear.z, state.keys, state.values})
      bytes += tensor ? tensor.bytes() : 0;
  return bytes;
}

}  // namespace t2r
