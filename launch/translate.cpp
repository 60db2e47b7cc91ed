// t2r translate: reads sentences, writes their translations, in order.
#include <fstream>
#include <iostream>
#include <sstream>

#include "data/text_file.h"
#include "launch/commands.h"
#include "launch/model_options.h"
#include "launch/translate_stream.h"

namespace t2r {
namespace {

struct Options {
  std::string model, input, output, precision = "fp32";
  TranslationOptions translation;
  int tp = 1, threads = 0;
  RankOptions ranks;
};

/// A plain file is read as a stream; one that is named .gz is unpacked first.
std::unique_ptr<std::istream> open_input(const std::string& path) {
  if (path.ends_with(".gz"))
    return std::make_unique<std::istringstream>(std::string(TextFile(path).text()));
  auto file = std::make_unique<std::ifstream>(path);
  check_usage(file->is_open(), "cannot open {}", path);
  return file;
}

int run(Session& session, const Options& options) {
  check_options(options.translation);
  session.set_ranks(options.ranks);
  session.set_threads(options.threads);
  Comm& world = session.world();
  Mesh mesh = session.mesh(options.tp);
  const Translator translator = Translator::load(
      model_folder(options.model), parse_dtype(options.precision), TensorParallel(*mesh.tp));
  const std::unique_ptr<std::istream> in_file =
      options.input.empty() ? nullptr : open_input(options.input);
  check_usage(!options.input.empty() || world.size() == 1,
              "with {} ranks the sentences must come from a file: give --input", world.size());
  std::ofstream out_file;
  if (!options.output.empty() && world.rank() == 0) {
    out_file.open(options.output);
    check_usage(out_file.is_open(), "cannot write {}", options.output);
  }
  translate_stream(in_file ? *in_file : std::cin, options.output.empty() ? std::cout : out_file,
                   translator, options.translation, mesh);
  return kExitDone;
}

}  // namespace

Run add_translate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  TranslationOptions& translation = options->translation;
  BeamSearchOptions& search = translation.search;
  app.add_option("--model", options->model, "Model (or run) folder")
      ->required()
      ->type_name("FOLDER");
  app.add_option("--input", options->input,
                 "File of sentences, one a line, plain or .gz (not given: stdin)")
      ->type_name("FILE");
  app.add_option("--output", options->output, "File for the translations (not given: stdout)")
      ->type_name("FILE");
  add_search_options(app, translation);
  app.add_option("--n-best", search.n_best, "Translations to write a sentence, best first");
  app.add_option("--temperature", search.sampling.temperature,
                 "Above 0: draw a translation instead of searching");
  app.add_option("--top-k", search.sampling.top_k, "Draw from the k likeliest tokens (0: all)");
  app.add_option("--top-p", search.sampling.top_p,
                 "Draw from the likeliest tokens that together have this probability");
  app.add_option("--seed", search.sampling.seed, "Seed of the draws");
  app.add_option("--buffer-lines", translation.buffer_lines,
                 "Lines that are read, sorted by length and translated before any is written; 1 "
                 "answers each line at once");
  app.add_flag("--scores", translation.scores, "Write the score and a tab before each translation");
  app.add_option("--precision", options->precision, "fp32, bf16 or fp64");
  app.add_option("--tp", options->tp, "Ranks that hold the model together, a part each");
  app.add_option("--threads", options->threads, "Threads a rank (0: its share of the cores)");
  add_rank_options(app, options->ranks);
  app.add_flag("--json", translation.json, "Write a JSON object a sentence");
  return [options](Session& session) { return run(session, *options); };
}

}  // namespace t2r
