// t2r average: the mean of a run's last checkpoints as a model.
#include "core/train/average.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/train/model_folder.h"
#include "launch/commands.h"
#include "launch/model_options.h"
#include "launch/version.h"

namespace t2r {
namespace {

struct Options {
  std::string run, out, precision = "fp32";
  std::int64_t last = 5;
  bool json = false;
};

int run(Session& session, const Options& options) {
  session.require_single("average");
  const auto steps = newest_checkpoints(options.run, options.last);
  const std::string base = model_folder(options.run);
  const auto model = average_checkpoints(options.run, steps, parse_dtype(options.precision));
  auto provenance = read_provenance(base);
  provenance["averaged_from"] = fmt::format("{}, updates {}", options.run, fmt::join(steps, ", "));
  provenance["averaged_by"] = fmt::format("t2r {}", version());
  save_model(*model, options.out, provenance, base);
  if (options.json)
    fmt::print("{}\n", nlohmann::json{{"model", options.out}, {"updates", steps}}.dump());
  else
    fmt::print("{}: the mean of the checkpoints of updates {}\n", options.out,
               fmt::join(steps, ", "));
  return kExitDone;
}

}  // namespace

Run add_average(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("--run", options->run, "Run folder")->required()->type_name("FOLDER");
  app.add_option("--last", options->last, "Checkpoints to average, the newest ones");
  app.add_option("--out", options->out, "Folder of the model")->required()->type_name("FOLDER");
  app.add_option("--precision", options->precision, "Precision of the written model: fp32 or bf16");
  app.add_flag("--json", options->json, "Print the result as JSON");
  return [options](Session& session) { return run(session, *options); };
}

}  // namespace t2r
