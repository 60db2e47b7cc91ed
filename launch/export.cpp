// t2r export: a model as a folder for Hugging Face's transformers.
#include <fmt/format.h>

#include <cmath>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/train/export_hugging_face.h"
#include "core/train/model_folder.h"
#include "launch/commands.h"
#include "launch/model_options.h"
#include "launch/modeling_code.h"

namespace t2r {
namespace {

struct Options {
  std::string model, out, precision;
  double shard_gib = 5;
  bool json = false;
};

int run(Session& session, const Options& options) {
  session.require_single("export");
  check_usage(options.shard_gib > 0 && options.shard_gib <= 1 << 20,
              "--shard-gib is {}: it must lie above 0 and at most at {}", options.shard_gib,
              1 << 20);
  const std::string folder = model_folder(options.model);
  check_usage(!read_model_config(folder).encoder_decoder(),
              "{} is a translation model: only language models can be exported", folder);
  const DType dtype =
      options.precision.empty() ? stored_dtype(folder) : parse_dtype(options.precision);
  const auto model = load_model(folder, dtype, TrainedPart::nothing);
  const auto shard_bytes = static_cast<std::int64_t>(std::ldexp(options.shard_gib, 30));
  const ExportResult result =
      export_hugging_face(*model, folder, options.out, shard_bytes, modeling_code());
  if (options.json)
    fmt::print("{}\n", nlohmann::ordered_json{{"model", options.out},
                                              {"model_type", result.model_type},
                                              {"precision", torch_name(dtype)},
                                              {"auto_tokenizer", result.fast_tokenizer}}
                           .dump());
  else
    fmt::print("{}: model_type {}, {}{}{}\n", options.out, result.model_type, torch_name(dtype),
               result.model_type == "t2r" ? ", to be loaded with trust_remote_code=True" : "",
               result.fast_tokenizer ? "" : "; AutoTokenizer cannot load its tokenizer");
  return kExitDone;
}

}  // namespace

Run add_export(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("--model", options->model, "Model (or run) folder to export")
      ->required()
      ->type_name("FOLDER");
  app.add_option("--out", options->out, "Folder of the export, new or empty")
      ->required()
      ->type_name("FOLDER");
  app.add_option("--precision", options->precision,
                 "Precision of the written weights, fp32 or bf16 (not given: the model's)");
  app.add_option("--shard-gib", options->shard_gib, "Most GiB a file of weights");
  app.add_flag("--json", options->json, "Print the result as JSON");
  return [options](Session& session) { return run(session, *options); };
}

}  // namespace t2r
