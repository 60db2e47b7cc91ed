// t2r import: a model of another program as a model folder.
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/model/cost.h"
#include "core/train/import_ctranslate2.h"
#include "core/train/import_llama.h"
#include "core/train/import_marian.h"
#include "core/train/model_folder.h"
#include "launch/commands.h"
#include "launch/version.h"

namespace t2r {
namespace {

struct Options {
  std::string from, tokenizer, out;
  bool json = false;
};

/// A folder of Hugging Face's layout, which t2r reads as it is, with its provenance.
ModelConfig import_hugging_face(const std::string& folder, const std::string& out,
                                const std::string& program) {
  check_usage(access((folder + "/config.json").c_str(), F_OK) == 0,
              "{} is no model that can be imported: a Hugging Face folder (gpt2, llama, mistral, "
              "qwen2, marian, fsmt), a CTranslate2 folder, a GGUF file or a llama2.c file is "
              "needed",
              folder);
  const auto model = load_model(folder, stored_dtype(folder), TrainedPart::nothing);
  save_model(*model, out,
             {{"start", "pretrained"}, {"imported_from", folder}, {"imported_by", program}},
             folder);
  return model->config();
}

ModelConfig import_from(const Options& options) {
  const std::string program = fmt::format("t2r {}", version());
  const bool file = std::filesystem::is_regular_file(options.from);
  const bool llama2c = file && !is_gguf_file(options.from);
  check_usage(llama2c || options.tokenizer.empty(),
              "--tokenizer is for llama2.c files: {} brings its own", options.from);
  if (is_ctranslate2_folder(options.from))
    return import_ctranslate2(options.from, options.out, program);
  if (is_marian_folder(options.from)) return import_marian(options.from, options.out, program);
  if (!file) return import_hugging_face(options.from, options.out, program);
  if (!llama2c) return import_gguf(options.from, options.out, program);
  check_usage(!options.tokenizer.empty(),
              "{} is no GGUF file; if it is one of llama2.c, give its tokenizer.bin with "
              "--tokenizer",
              options.from);
  return import_llama2c(options.from, options.tokenizer, options.out, program);
}

int run(Session& session, const Options& options) {
  session.require_single("import");
  const ModelConfig config = import_from(options);
  const std::int64_t parameters = parameter_count(config);
  if (options.json)
    fmt::print("{}\n", nlohmann::ordered_json{{"model", options.out},
                                              {"parameters", parameters},
                                              {"attention", describe_attention(config)}}
                           .dump());
  else
    fmt::print("{}: {} parameters, {} layers, attention {}\n", options.out, parameters,
               config.encoder_decoder()
                   ? fmt::format("{} encoder and {} decoder", config.encoder_layers, config.layers)
                   : std::to_string(config.layers),
               describe_attention(config));
  return kExitDone;
}

}  // namespace

Run add_import(CLI::App& app) {
  auto options = std::make_shared<Options>();
  app.add_option("--from", options->from,
                 "The foreign model: a Hugging Face or CTranslate2 folder, a GGUF or llama2.c file")
      ->required()
      ->type_name("PATH");
  app.add_option("--tokenizer", options->tokenizer, "tokenizer.bin of a llama2.c file")
      ->type_name("FILE");
  app.add_option("--out", options->out, "Folder of the model")->required()->type_name("FOLDER");
  app.add_flag("--json", options->json, "Print the result as JSON");
  return [options](Session& session) { return run(session, *options); };
}

}  // namespace t2r
