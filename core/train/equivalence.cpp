#include "core/train/equivalence.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <mutex>

#include "core/base/random.h"
#include "core/model/swap.h"
#include "core/train/model_folder.h"
#include "core/train/trainer.h"
#include "dist/self_comm.h"
#include "dist/thread_comm.h"
#include "kernels/elementwise.h"

namespace t2r {
namespace {

constexpr std::int64_t kVocabulary = 37, kDocuments = 40, kLength = 12, kHeads = 4;
constexpr int kThreadRanks = 4;

/// Documents of `shortest` to `longest` random tokens.
TokenStream random_documents(std::uint64_t shortest, std::uint64_t longest, std::uint64_t seed) {
  std::vector<std::vector<std::int32_t>> documents;
  for (std::int64_t d = 0; d < kDocuments; ++d) {
    const auto stream = static_cast<std::uint64_t>(d);
    documents.emplace_back(shortest + random_bits(seed, stream, 0)[0] % (longest - shortest + 1));
    for (std::size_t i = 0; i < documents.back().size(); ++i)
      documents.back()[i] =
          static_cast<std::int32_t>(random_bits(seed, stream, i + 1)[1] % kVocabulary);
  }
  return TokenStream::from_documents(documents);
}

TrainData random_data(bool pairs) {
  TrainData data{random_documents(1, 30, 1), {}, 0, kVocabulary, 0, "random", ""};
  if (!pairs) return data;
  data.train = PairStream{random_documents(1, kLength, 1), random_documents(2, kLength, 2)};
  data.source_vocab_size = kVocabulary;
  return data;
}

std::vector<ModelConfig> tiny_models() {
  const auto with_dropout = [](ModelConfig config) {
    config.dropout = config.attention_dropout = 0.1f;
    config.activation_dropout = 0.05f;
    config.layer_drop = 0.1f;
    return config;
  };
  const auto swapped = [](const ModelConfig& config, const LinearAttentionConfig& linear) {
    return swapped_config(config, linear, {});
  };
  const ModelConfig softmax = with_dropout(gpt2_config(kVocabulary, 2, 16, kHeads, kLength));
  const ModelConfig translator =
      with_dropout(translation_config(kVocabulary, 2, 2, 16, kHeads, kLength));
  return {softmax, swapped(softmax, {.feature_size = 8}),
          swapped(softmax, {.feature_size = 8, .decay = Decay::learned}),
          swapped(softmax, {.feature_map = FeatureMap::elu, .feature_size = 0}),
          // With few random features the denominators come near zero.
          swapped(softmax, {.feature_map = FeatureMap::rfa, .feature_size = 64}),
          swapped(translator, {.feature_size = 16, .causal_feature_size = 8})};
}

struct Trained {
  std::vector<double> losses, parameters;
};

struct Shares {
  int cp = 1, tp = 1;
  bool thrifty = false;
};

/// Every way to share out a model of this kind among `ranks`, plain and thrifty; what is left is
/// dp.
std::vector<Shares> meshes_of(const ModelConfig& config, int ranks) {
  std::vector<Shares> meshes;
  for (int tp = 1; tp <= ranks; ++tp)
    for (int cp = 1; cp * tp <= ranks; ++cp)
      if (ranks % (cp * tp) == 0 && kHeads % tp == 0 && (cp == 1 || !config.encoder_decoder()))
        for (const bool thrifty : {false, true}) meshes.push_back({cp, tp, thrifty});
  return meshes;
}

Trained train_tiny(Comm& world, const Shares& shares, const ModelConfig& config,
                   std::int64_t steps) {
  Mesh mesh = make_mesh(world, world.size() / (shares.cp * shares.tp), shares.tp, shares.cp);
  Transformer model(config, DType::f64, TrainedPart::all, TensorParallel(*mesh.tp),
                    ContextParallel(*mesh.cp));
  model.params().initialize(5);
  TrainOptions options;
  options.sequence_length = kLength;
  options.global_batch = 7;
  options.micro_batch = 3;
  options.batch_tokens = 70;
  options.micro_batch_tokens = 50;
  options.steps = steps;
  options.schedule.peak = 3e-3;
  options.label_smoothing = 0.1;
  options.bucket_bytes = 4096;
  options.optimizer_sharding = options.sequence_parallel = options.recompute = shares.thrifty;
  options.measure_peak = false;
  Trainer trainer(model, mesh, random_data(config.encoder_decoder()), options);
  Trained result;
  trainer.on_step = [&](const StepFigures& figures) { result.losses.push_back(figures.loss); };
  trainer.run();
  Transformer whole(config, DType::f64, model.params().trained_part());
  const Tensor values = whole.params().all_values();
  if (model.parallel().active())
    gather_parts(model.parallel(), model.params(), model.params().all_values(), &whole.params(),
                 values);
  else
    copy(Queue{}, values, model.params().all_values());
  result.parameters.assign(values.as<double>(), values.as<double>() + values.size());
  return result;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = a.size() == b.size() ? 0 : NAN;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    const double difference = std::abs(a[i] - b[i]) / std::max(1.0, std::abs(b[i]));
    if (!(difference <= worst)) worst = difference;  // keeps what is no number
  }
  return worst;
}

Equivalence compare(Comm& world, const Shares& shares, const ModelConfig& config,
                    std::int64_t steps, const Trained& expected) {
  const Trained got = train_tiny(world, shares, config, steps);
  Equivalence row{describe_attention(config),
                  world.size() / (shares.cp * shares.tp),
                  shares.cp,
                  shares.tp,
                  shares.thrifty,
                  largest_difference(got.losses, expected.losses),
                  largest_difference(got.parameters, expected.parameters)};
  if (config.encoder_decoder()) row.model = "translation, " + row.model;
  // The worst of all ranks.
  row.loss = world.all_reduce_value(row.loss, ReduceOp::max);
  row.parameters = world.all_reduce_value(row.parameters, ReduceOp::max);
  return row;
}

}  // namespace

std::vector<Equivalence> measure_equivalence(Comm& world, std::int64_t steps) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);
  const int ranks = world.size() == 1 ? kThreadRanks : world.size();
  std::vector<Equivalence> rows;
  for (const ModelConfig& config : tiny_models()) {
    SelfComm alone;
    const Trained expected = train_tiny(alone, {}, config, steps);
    for (const Shares& shares : meshes_of(config, ranks)) {
      if (world.size() > 1) {
        rows.push_back(compare(world, shares, config, steps, expected));
        continue;
      }
      std::mutex mutex;
      run_ranks(ranks, [&](Comm& comm) {
        omp_set_num_threads(1);
        const Equivalence row = compare(comm, shares, config, steps, expected);
        const std::scoped_lock lock(mutex);
        if (comm.rank() == 0) rows.push_back(row);
      });
    }
  }
  omp_set_num_threads(threads);
  return rows;
}

}  // namespace t2r
