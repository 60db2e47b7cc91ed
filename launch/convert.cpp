// t2r convert: a model with the softmax attention of the chosen layers swapped.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/base/log.h"
#include "core/model/cost.h"
#include "core/model/swap.h"
#include "core/train/model_folder.h"
#include "launch/commands.h"
#include "launch/model_options.h"
#include "launch/version.h"

namespace t2r {
namespace {

struct Options {
  std::string model, out, precision = "fp32";
  AttentionOptions attention;
  std::uint64_t seed = 1;
  int threads = 0;
  bool json = false;
};

int run(Session& session, const Options& options) {
  session.require_single("convert");
  session.set_threads(options.threads);
  const std::string folder = model_folder(options.model);
  const ModelConfig before = read_model_config(folder);
  const ModelConfig after = with_linear_attention(before, options.attention);
  const DType dtype = parse_dtype(options.precision);
  const auto from = load_model(folder, dtype, TrainedPart::nothing);
  Transformer to(after, dtype, TrainedPart::nothing);
  const int fresh = transfer_weights(*from, to, options.seed);

  std::map<std::string, std::string> provenance = read_provenance(folder);
  provenance["start"] = "converted";
  provenance["converted_from"] = folder;
  provenance["conversion_seed"] = std::to_string(options.seed);
  provenance["converted_by"] = fmt::format("t2r {}", version());
  save_model(to, options.out, provenance, folder);

  const std::int64_t added = parameter_count(after) - parameter_count(before);
  if (options.json)
    fmt::print("{}\n", nlohmann::json{{"model", options.out},
                                      {"attention_before", describe_attention(before)},
                                      {"attention", describe_attention(after)},
                                      {"fresh_tensors", fresh},
                                      {"fresh_parameters", added}}
                           .dump());
  else
    fmt::print("{}: {} in {} of {} layers (was {}), {} fresh tensors with {} parameters\n",
               options.out, describe_attention(after), after.linear_layers.size(), after.layers,
               describe_attention(before), fresh, added);
  return kExitDone;
}

}  // namespace

Run add_convert(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("--model", options->model, "Model (or run) folder to convert")
      ->required()
      ->type_name("FOLDER");
  app.add_option("--out", options->out, "Folder of the converted model")
      ->required()
      ->type_name("FOLDER");
  add_attention_options(app, options->attention, "t2r");
  app.add_option("--seed", options->seed, "Seed of the fresh feature maps");
  app.add_option("--precision", options->precision, "Precision of the written model: fp32 or bf16");
  app.add_option("--threads", options->threads, "Threads (0: one a core)");
  app.add_flag("--json", options->json, "Print the result as JSON");
  return [options](Session& session) { return run(session, *options); };
}

}  // namespace t2r
