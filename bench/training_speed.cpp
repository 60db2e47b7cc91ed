// Tokens a second of whole training updates (forward, backward, all-reduce, AdamW) on random
// tokens, and the limit that matrix products set. bench/compare_training.sh runs it beside PyTorch.
#include <fmt/format.h>
#include <omp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <vector>

#include "core/base/random.h"
#include "core/model/cost.h"
#include "core/model/swap.h"
#include "core/model/transformer.h"
#include "core/train/machine.h"
#include "core/train/optimizer.h"
#include "dist/launcher.h"
#include "kernels/elementwise.h"

namespace {

using namespace t2r;

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Times training updates of a GPT-2-like model on random tokens");
  std::int64_t layers = 6, hidden = 512, heads = 8, length = 256, batch = 8, vocab = 8192;
  int steps = 8, threads = 0;
  std::int64_t feature_size = 0;
  std::string precision = "fp32", part = "all";
  app.add_option("--layers", layers);
  app.add_option("--hidden-size", hidden);
  app.add_option("--heads", heads);
  app.add_option("--sequence-length", length);
  app.add_option("--batch-size", batch, "sequences an update, over all ranks");
  app.add_option("--vocab-size", vocab);
  app.add_option("--steps", steps);
  app.add_option("--threads", threads, "a rank; 0: its share of the machine");
  app.add_option("--precision", precision);
  app.add_option("--feature-size", feature_size, "above 0: T2R instead of softmax attention");
  app.add_option("--train", part, "all, or of T2R attention or feature-maps alone, or lora");
  CLI11_PARSE(app, argc, argv);

  const auto world = make_world_comm(false);
  if (threads == 0) threads = default_threads(rank_place(*world));
  omp_set_num_threads(threads);
  ModelConfig config = gpt2_config(vocab, layers, hidden, heads, length);
  if (feature_size > 0) config = swapped_config(config, {.feature_size = feature_size}, {});
  const TrainedPart trained = parse_trained_part(part);
  Transformer model(config, parse_dtype(precision), trained);
  model.params().initialize(1);
  Optimizer optimizer(model.params(), {});
  const Queue queue;
  const ParamStore& params = model.params();
  GradientReducer reducer(*world, params.all_grads(),
                          cut_buckets(params.gradient_span(), model.ready_offsets(),
                                      (2 << 20) / size_of(params.all_grads().dtype)),
                          queue);
  Arena activations(std::int64_t{16} << 30), scratch(std::int64_t{16} << 30);

  const std::int64_t sequences = batch / world->size(), rows = sequences * length;
  std::vector<std::int32_t> inputs(static_cast<std::size_t>(rows)), targets(inputs), places(inputs);
  std::vector<std::int64_t> offsets, row_ids(inputs.size());
  for (std::int64_t s = 0; s <= sequences; ++s) offsets.push_back(s * length);
  Batch data;
  data.rows = rows;
  data.inputs = inputs.data();
  data.targets = targets.data();
  data.positions = places.data();
  data.row_ids = row_ids.data();
  data.segments = {sequences, offsets.data()};

  std::vector<double> times;
  double loss = 0;
  for (int i = 0; i < steps + 2; ++i) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto row = static_cast<std::size_t>(r);
      const auto bits =
          random_bits(7, static_cast<std::uint64_t>(i * world->size() + world->rank()),
                      static_cast<std::uint64_t>(r));
      inputs[row] = static_cast<std::int32_t>(bits[0] % static_cast<std::uint64_t>(vocab));
      targets[row] = static_cast<std::int32_t>(bits[1] % static_cast<std::uint64_t>(vocab));
      places[row] = static_cast<std::int32_t>(r % length);
      row_ids[row] = r + world->rank() * rows;
    }
    world->barrier();
    const auto start = std::chrono::steady_clock::now();
    fill(queue, model.params().all_grads(), 0);
    Step step{.activations = activations, .scratch = scratch, .queue = queue, .train = true};
    const CrossEntropySums sums =
        model.train_step(step, data, 1.0 / static_cast<double>(batch * length), 0, &reducer);
    reducer.finish();
    optimizer.update(queue, 3e-4, clip_factor(optimizer.global_norm(queue), 1.0), i + 1);
    world->barrier();
    if (i >= 2) times.push_back(seconds_since(start));
    loss = sums.loss / static_cast<double>(rows);
  }
  if (world->rank() == 0) {
    const double step = median(times), tokens = static_cast<double>(batch * length);
    const double flops =
        training_flops(config, data.segments, {}, trained) / static_cast<double>(rows);
    const double rate = measure_gemm_rate(parse_dtype(precision)) * world->size();
    fmt::print(
        "t2r {} ranks {} x {} threads, {:.1f}M parameters, loss {:.3f}: step {:.0f} ms (min {:.0f} "
        "max {:.0f}) = {:.0f} tok/s; {:.1f} MFLOP a token, products at {:.0f} GFLOP/s allow {:.0f} "
        "tok/s; peak memory {:.0f} MiB a rank\n",
        precision, world->size(), threads,
        static_cast<double>(model.params().parameter_count()) / 1e6, loss, step * 1e3,
        *std::min_element(times.begin(), times.end()) * 1e3,
        *std::max_element(times.begin(), times.end()) * 1e3, tokens / step, flops / 1e6, rate / 1e9,
        rate / flops, static_cast<double>(peak_memory_bytes()) / (1 << 20));
  }
  return 0;
}
