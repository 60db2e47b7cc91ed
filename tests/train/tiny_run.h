// Training runs of a tiny model on ragged documents, with ranks as threads.
#pragma once

#include <gtest/gtest.h>
#include <omp.h>

#include <functional>
#include <mutex>
#include <vector>

#include "core/base/random.h"
#include "core/model/swap.h"
#include "core/train/trainer.h"
#include "dist/thread_comm.h"
#include "kernels/elementwise.h"

namespace t2r::testing {

constexpr std::int64_t kVocabulary = 37;

/// Documents of 1 to 30 random tokens.
inline TokenStream ragged_stream(std::int64_t documents, std::uint64_t seed) {
  std::vector<std::vector<std::int32_t>> all;
  for (std::int64_t d = 0; d < documents; ++d) {
    const auto stream = static_cast<std::uint64_t>(d);
    all.emplace_back(1 + random_bits(seed, stream, 0)[0] % 30);
    for (std::size_t i = 0; i < all.back().size(); ++i)
      all.back()[i] = static_cast<std::int32_t>(random_bits(seed, stream, i + 1)[1] % kVocabulary);
  }
  return TokenStream::from_documents(all);
}

inline TrainData ragged_data() {
  return {ragged_stream(40, 1), ragged_stream(9, 2), 77, kVocabulary, 0, "ragged", ""};
}

/// Sentence pairs of very different lengths.
inline PairStream ragged_pairs(std::int64_t pairs, std::uint64_t seed) {
  std::vector<std::vector<std::int32_t>> sides[2];
  for (std::int64_t p = 0; p < pairs; ++p)
    for (std::uint64_t side : {0, 1}) {
      const auto stream = static_cast<std::uint64_t>(2 * p) + side;
      sides[side].emplace_back(1 + side + random_bits(seed, stream, 0)[0] % 11);
      auto& tokens = sides[side].back();
      for (std::size_t i = 0; i < tokens.size(); ++i)
        tokens[i] = static_cast<std::int32_t>(random_bits(seed, stream, i + 1)[1] % kVocabulary);
    }
  return {TokenStream::from_documents(sides[0]), TokenStream::from_documents(sides[1])};
}

inline TrainData ragged_pair_data() {
  return {ragged_pairs(40, 1), ragged_pairs(9, 2), 77, kVocabulary, kVocabulary, "pairs", ""};
}

/// A translation model with every dropout; the upper decoder layer swapped, the lower one softmax.
inline ModelConfig tiny_translation_config() {
  ModelConfig config = translation_config(kVocabulary, 2, 2, 16, 2, 12);
  config.dropout = 0.1f;
  config.attention_dropout = 0.1f;
  config.activation_dropout = 0.05f;
  return swapped_config(config, {.feature_size = 16, .causal_feature_size = 8}, {0});
}

/// GPT-2 with tied embeddings and every dropout; the upper layer swapped, the lower one softmax.
inline ModelConfig tiny_config() {
  ModelConfig config = gpt2_config(kVocabulary, 2, 16, 2, 12);
  config.dropout = 0.1f;
  config.attention_dropout = 0.1f;
  config.activation_dropout = 0.05f;
  return swapped_config(config, {.feature_size = 5, .decay = Decay::learned}, {0});
}

inline TrainOptions tiny_options(std::int64_t steps) {
  TrainOptions options;
  options.sequence_length = 12;
  options.global_batch = 7;
  options.micro_batch = 3;
  options.batch_tokens = 70;
  options.micro_batch_tokens = 50;
  options.steps = steps;
  options.seed = 3;
  options.schedule.peak = 3e-3;
  options.schedule.warmup_steps = 2;
  options.clip_norm = 0.5;  // below the norms of this model: clipping happens
  options.label_smoothing = 0.1;
  options.measure_peak = false;
  return options;
}

struct Outcome {
  std::vector<StepFigures> steps;
  std::vector<double> values, first_moment, second_moment;
  TrainSummary summary;
};

inline std::vector<double> to_doubles(const Tensor& span) {
  std::vector<double> out;
  dispatch(span.dtype, [&]<class T>() {
    const T* x = span.as<T>();
    for (std::int64_t i = 0; i < span.size(); ++i) out.push_back(static_cast<double>(x[i]));
  });
  return out;
}

/// One array of the optimizer's state, from all ranks that keep parts of it, as one rank without
/// sharding has it.
inline std::vector<double> whole_span(const Transformer& model, const Mesh& mesh,
                                      const Optimizer& optimizer, Tensor OwnedRange::*array) {
  const ParamStore& params = model.params();
  const DType dtype = accumulate_dtype(params.dtype());
  const auto room = [&](const ParamStore& store) {
    Arena arena(store.span_size() * size_of(dtype) + 64);
    const Tensor span = arena.allocate(Shape{store.span_size()}, dtype);
    fill(Queue{}, span, 0);
    return std::pair{std::move(arena), span};
  };
  const auto [memory, part] = room(params);
  for (const OwnedRange& range : optimizer.owned())
    if (!range.by_all || mesh.replicas->rank() == 0)
      copy(Queue{}, part.row_range(range.begin, range.end), range.*array);
  if (optimizer.sharded()) mesh.replicas->all_reduce(part, ReduceOp::sum, Queue{});
  if (!model.parallel().active()) return to_doubles(part);
  const Transformer whole(model.config(), params.dtype(), params.trained_part());
  const auto [whole_memory, span] = room(whole.params());
  gather_parts(model.parallel(), params, part, &whole.params(), span);
  return to_doubles(span);
}

/// Trains on `ranks` threads and returns rank 0's figures; checks that all ranks have the same.
/// `on_step` is called on rank 0. `tp` of the ranks hold a model together, `cp` share out the
/// tokens of each sequence.
inline Outcome train(Comm& world, const ModelConfig& config, DType dtype,
                     const TrainOptions& options,
                     const std::function<void(const StepFigures&)>& on_step = {},
                     const TrainData& data = ragged_data(), int tp = 1, int cp = 1,
                     double teacher_share = 0, const TrainedPart& trained = TrainedPart::all) {
  omp_set_num_threads(1);
  Mesh mesh = make_mesh(world, world.size() / (tp * cp), tp, cp);
  Transformer model(config, dtype, trained, TensorParallel(*mesh.tp), ContextParallel(*mesh.cp));
  // Another start on every replica: the first one's must win.
  model.params().initialize(5 + static_cast<std::uint64_t>(mesh.replicas->rank()));
  std::unique_ptr<Teacher> teacher;
  if (teacher_share > 0) {
    ModelConfig softmax = config;
    softmax.linear_layers.clear();
    teacher = std::make_unique<Teacher>(
        std::make_unique<Transformer>(softmax, dtype, TrainedPart::nothing,
                                      TensorParallel(*mesh.tp), ContextParallel(*mesh.cp)),
        teacher_share);
    teacher->model().params().initialize(99);
  }
  Trainer trainer(model, mesh, data, options, std::move(teacher));
  Outcome mine;
  trainer.on_step = [&](const StepFigures& figures) {
    mine.steps.push_back(figures);
    if (on_step && world.rank() == 0) on_step(figures);
  };
  mine.summary = trainer.run();
  const auto whole = [&](Tensor OwnedRange::*array) {
    return whole_span(model, mesh, trainer.optimizer(), array);
  };
  mine.values = whole(&OwnedRange::master);
  mine.first_moment = whole(&OwnedRange::first_moment);
  mine.second_moment = whole(&OwnedRange::second_moment);
  return mine;
}

inline Outcome train(int ranks, const ModelConfig& config, DType dtype, const TrainOptions& options,
                     const std::function<void(const StepFigures&)>& on_step = {},
                     const TrainData& data = ragged_data(), int tp = 1, int cp = 1,
                     double teacher_share = 0, const TrainedPart& trained = TrainedPart::all) {
  std::vector<Outcome> outcomes(static_cast<std::size_t>(ranks));
  run_ranks(ranks, [&](Comm& world) {
    outcomes[static_cast<std::size_t>(world.rank())] =
        train(world, config, dtype, options, on_step, data, tp, cp, teacher_share, trained);
  });
  for (const Outcome& other : outcomes) {
    EXPECT_EQ(other.values, outcomes[0].values) << "replicas differ";
    EXPECT_EQ(other.steps.size(), outcomes[0].steps.size());
    for (std::size_t i = 0; i < other.steps.size(); ++i) {
      EXPECT_EQ(other.steps[i].loss, outcomes[0].steps[i].loss);
      EXPECT_EQ(other.steps[i].grad_norm, outcomes[0].steps[i].grad_norm);
    }
  }
  return outcomes[0];
}

/// The largest |a - b| / max(1, |b|).
inline double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  if (a.size() != b.size()) return std::nan("");
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double d = std::abs(a[i] - b[i]) / std::max(1.0, std::abs(b[i]));
    if (!(d <= worst)) worst = d;  // keeps NaN
  }
  return worst;
}

inline void expect_same_training(const Outcome& a, const Outcome& b, double limit) {
  ASSERT_EQ(a.steps.size(), b.steps.size());
  for (std::size_t i = 0; i < a.steps.size(); ++i) {
    EXPECT_EQ(a.steps[i].tokens, b.steps[i].tokens) << "update " << i + 1;
    EXPECT_NEAR(a.steps[i].loss, b.steps[i].loss, limit) << "update " << i + 1;
    EXPECT_NEAR(a.steps[i].objective, b.steps[i].objective, limit) << "update " << i + 1;
    EXPECT_NEAR(a.steps[i].grad_norm, b.steps[i].grad_norm, limit) << "update " << i + 1;
  }
  EXPECT_LE(largest_difference(a.values, b.values), limit);
  EXPECT_LE(largest_difference(a.first_moment, b.first_moment), limit);
  EXPECT_LE(largest_difference(a.second_moment, b.second_moment), limit);
}

}  // namespace t2r::testing
