// Time and memory a token of recurrent decoding against decoding with a key-value cache, by length;
// with --encoder-layers, of translations with 5 hypotheses a sentence.
// bench/compare_decoding.sh runs it beside PyTorch.
#include "core/train/decoding_speed.h"

#include <fmt/format.h>
#include <omp.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <vector>

#include "core/model/cost.h"
#include "core/model/swap.h"
#include "core/model/transformer.h"

int main(int argc, char** argv) {
  using namespace t2r;
  CLI::App app("Times decoding of a GPT-2-like model (or a translator), softmax and swapped");
  std::int64_t encoder_layers = 0, causal_feature_size = 4, layers = 8, hidden = 512, heads = 8,
               vocab = 8192, feature_size = 32, batch = 16;
  int threads = 2;
  double seconds = 2;
  std::string precision = "fp32";
  std::vector<std::int64_t> lengths{64, 128, 256, 512, 1024, 2048, 4096, 8192};
  app.add_option("--layers", layers);
  app.add_option("--encoder-layers", encoder_layers, "above 0: an encoder-decoder");
  app.add_option("--causal-feature-size", causal_feature_size, "of an encoder-decoder");
  app.add_option("--hidden-size", hidden);
  app.add_option("--heads", heads);
  app.add_option("--vocab-size", vocab);
  app.add_option("--feature-size", feature_size);
  app.add_option("--batch-size", batch);
  app.add_option("--threads", threads);
  app.add_option("--precision", precision);
  app.add_option("--lengths", lengths)->delimiter(',');
  app.add_option("--seconds", seconds, "to measure each length");
  CLI11_PARSE(app, argc, argv);
  omp_set_num_threads(threads);

  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const ModelConfig softmax =
      encoder_layers > 0
          ? translation_config(vocab, encoder_layers, layers, hidden, heads, longest + 512)
          : gpt2_config(vocab, layers, hidden, heads, longest + 512);
  const ModelConfig swapped =
      swapped_config(softmax,
                     {.feature_size = feature_size,
                      .causal_feature_size = encoder_layers > 0 ? causal_feature_size : 0},
                     {});
  const DType dtype = parse_dtype(precision);
  const auto measure = [&](const ModelConfig& config) {
    Transformer model(config, dtype, TrainedPart::nothing);
    model.params().initialize(1);
    return measure_decoding(model, batch, lengths, seconds);
  };
  const auto recurrent = measure(swapped), cached = measure(softmax);
  fmt::print("{} layers, hidden {}, {} heads, k {}, batch {}, {} threads, {}\n", layers, hidden,
             heads, feature_size, batch, threads, precision);
  fmt::print("| length | T2R tok/s | softmax tok/s | ratio | T2R state MiB | cache MiB |\n");
  fmt::print("|---|---|---|---|---|---|\n");
  for (std::size_t i = 0; i < recurrent.size(); ++i)
    fmt::print("| {} | {:.0f} | {:.0f} | {:.2f} | {:.1f} | {:.1f} |\n", recurrent[i].length,
               recurrent[i].tokens_per_second, cached[i].tokens_per_second,
               recurrent[i].tokens_per_second / cached[i].tokens_per_second,
               static_cast<double>(recurrent[i].state_bytes) / (1 << 20),
               static_cast<double>(cached[i].state_bytes) / (1 << 20));
  return 0;
}
