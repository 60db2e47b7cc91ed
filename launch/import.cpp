// t2r import: a model of another program as a model folder.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/model/cost.h"
#include "core/train/import_ctranslate2.h"
#include "core/train/model_folder.h"
#include "launch/commands.h"
#include "launch/version.h"

namespace t2r {
namespace {

struct Options {
  std::string from, out;
  bool json = false;
};

int run(Session& session, const Options& options) {
  session.require_single("import");
  check_usage(is_ctranslate2_folder(options.from),
              "{} is no model that can be imported: a CTranslate2 folder, with model.bin and its "
              "vocabularies, is needed (Hugging Face folders of gpt2 and llama need no import)",
              options.from);
  const ModelConfig config =
      import_ctranslate2(options.from, options.out, fmt::format("t2r {}", version()));
  const std::int64_t parameters = parameter_count(config);
  if (options.json)
    fmt::print("{}\n", nlohmann::ordered_json{{"model", options.out},
                                              {"parameters", parameters},
                                              {"attention", describe_attention(config)}}
                           .dump());
  else
    fmt::print("{}: {} parameters, {} encoder and {} decoder layers, attention {}\n", options.out,
               parameters, config.encoder_layers, config.layers, describe_attention(config));
  return kExitDone;
}

}  // namespace

Run add_import(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("--from", options->from, "Folder of the foreign model: CTranslate2")
      ->required()
      ->type_name("FOLDER");
  app.add_option("--out", options->out, "Folder of the model")->required()->type_name("FOLDER");
  app.add_flag("--json", options->json, "Print the result as JSON");
  return [options](Session& session) { return run(session, *options); };
}

}  // namespace t2r
