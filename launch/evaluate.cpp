// t2r evaluate: loss and perplexity on a split of a dataset, or on token ids given by hand; or
// scores of translations, by a model or in a file.
#include "core/train/evaluate.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/base/log.h"
#include "core/train/model_folder.h"
#include "core/train/sentence_pairs.h"
#include "data/atomic_file.h"
#include "launch/commands.h"
#include "launch/model_options.h"
#include "launch/score_files.h"
#include "launch/translate_stream.h"

namespace t2r {
namespace {

struct Options {
  std::string model, data, split = "valid", token_ids, save_logits, output;
  std::string precision = "fp32", packing = "documents";
  EvaluationOptions evaluation;
  ScoreFiles scores;
  TranslationOptions translation;
  int tp = 1, cp = 1, threads = 0;
  RankOptions ranks;
  bool json = false;
};

EvaluationResult evaluate_split(Mesh& mesh, Transformer& model, Options& options) {
  options.evaluation.packing = parse_packing(options.packing);
  const Dataset dataset = Dataset::open(options.data);
  info("evaluating {} on the split {} of {}", options.model, options.split, options.data);
  return evaluate(model, *mesh.dp, dataset, options.split, options.evaluation);
}

EvaluationResult evaluate_ids(Session& session, Transformer& model, const Options& options) {
  session.require_single("evaluate --token-ids");
  const auto sequences = read_token_ids(options.token_ids, model.config().vocab_size);
  info("evaluating {} on {} sequences of {}", options.model, sequences.size(), options.token_ids);
  return evaluate_token_ids(model, sequences, options.save_logits);
}

void print_result(const EvaluationResult& result, bool json) {
  const bool words = result.words > 0;
  if (json) {
    nlohmann::ordered_json out = {{"loss", result.loss}, {"tokens", result.tokens}};
    out["words"] = words ? nlohmann::ordered_json(result.words) : nlohmann::ordered_json();
    out["perplexity_per_token"] = result.perplexity_per_token;
    out["perplexity_per_word"] =
        words ? nlohmann::ordered_json(result.perplexity_per_word) : nlohmann::ordered_json();
    fmt::print("{}\n", out.dump());
    return;
  }
  fmt::print("loss {:.6f} nats a token, {} tokens, perplexity {:.4f} per token", result.loss,
             result.tokens, result.perplexity_per_token);
  if (words) fmt::print(", {:.4g} per word ({} words)", result.perplexity_per_word, result.words);
  fmt::print("\n");
}

int run_scores(Session& session, const Options& options) {
  session.require_single("evaluate --hypotheses");
  check_usage(!options.scores.hypotheses.empty() && !options.scores.references.empty(),
              "scoring translations needs both --hypotheses and --references");
  check_usage(options.model.empty() && options.data.empty() && options.token_ids.empty(),
              "--hypotheses is scored without a model: leave out --model, --data and --token-ids");
  score_files(options.scores, options.json);
  return kExitDone;
}

/// Translates and scores.
int run_translation(Session& session, const Options& options) {
  check_usage(!options.model.empty() && !options.scores.references.empty(),
              "scoring the translations of --source needs --model and --references");
  check_usage(options.data.empty() && options.token_ids.empty(),
              "--source is translated without a dataset: leave out --data and --token-ids");
  check_options(options.translation);
  session.set_ranks(options.ranks);
  session.set_threads(options.threads);
  Mesh mesh = session.mesh(options.tp);
  const Translator translator = Translator::load(
      model_folder(options.model), parse_dtype(options.precision), TensorParallel(*mesh.tp));
  std::string lines;
  for (const std::string& line : read_sentences(options.scores.source)) lines += line + "\n";
  std::istringstream in(std::move(lines));
  std::ostringstream out;
  translate_stream(in, out, translator, options.translation, mesh);
  if (mesh.world.rank() != 0) return kExitDone;
  if (!options.output.empty()) write_file_atomically(options.output, out.str());
  score(split_lines(out.str()), options.scores, options.json);
  return kExitDone;
}

int run(Session& session, Options options) {
  if (!options.scores.source.empty()) return run_translation(session, options);
  check_usage(options.output.empty(), "--output goes with --source");
  if (!options.scores.hypotheses.empty() || !options.scores.references.empty())
    return run_scores(session, options);
  check_usage(!options.scores.lowercase && !options.scores.compound_split,
              "--lowercase and --compound-split go with --hypotheses");
  check_usage(!options.model.empty(), "evaluate needs --model, or --hypotheses with --references");
  check_usage(options.data.empty() != options.token_ids.empty(),
              "evaluate needs either --data with --split, or --token-ids");
  check_usage(options.cp == 1 || !options.data.empty(), "--cp {} goes with --data", options.cp);
  check_usage(options.save_logits.empty() || !options.token_ids.empty(),
              "--save-logits goes with --token-ids");
  session.set_ranks(options.ranks);
  session.set_threads(options.threads);
  options.model = model_folder(options.model);
  Mesh mesh = session.mesh(options.tp, options.cp);
  const auto model = load_model(options.model, parse_dtype(options.precision), TrainedPart::nothing,
                                TensorParallel(*mesh.tp), ContextParallel(*mesh.cp));
  const EvaluationResult result = options.token_ids.empty()
                                      ? evaluate_split(mesh, *model, options)
                                      : evaluate_ids(session, *model, options);
  if (session.world().rank() == 0) print_result(result, options.json);
  return kExitDone;
}

}  // namespace

Run add_evaluate(CLI::App& app) {
  auto options = std::make_shared<Options>();
  EvaluationOptions& evaluation = options->evaluation;
  app.add_option("--model", options->model, "Model (or run) folder")->type_name("FOLDER");
  app.add_option("--data", options->data, "Dataset folder")->type_name("FOLDER");
  app.add_option("--split", options->split, "Split of the dataset: train, valid or test");
  app.add_option("--token-ids", options->token_ids,
                 "Instead of a dataset: a file of token ids, one sequence a line")
      ->type_name("FILE");
  app.add_option("--save-logits", options->save_logits,
                 "With --token-ids: HDF5 file for the logits, /logits/N for sequence N")
      ->type_name("FILE");
  app.add_option("--sequence-length", evaluation.sequence_length,
                 "Tokens a window (0: the model's longest)");
  app.add_option("--packing", options->packing,
                 "documents: windows are cut at document ends; contiguous: documents run into each "
                 "other");
  app.add_option("--micro-batch", evaluation.micro_batch, "Sequences a forward pass");
  app.add_option("--precision", options->precision, "fp32, bf16 or fp64");
  app.add_option("--tp", options->tp, "Ranks that hold the model together, a part each");
  app.add_option("--cp", options->cp,
                 "With --data: ranks that share out the tokens of each sequence, a stretch each");
  app.add_option("--threads", options->threads, "Threads a rank (0: its share of the cores)");
  add_rank_options(app, options->ranks);
  app.add_flag("--json", options->json, "Print the result as JSON");
  add_score_options(app, options->scores);
  app.add_option("--output", options->output, "With --source: file for the translations")
      ->type_name("FILE");
  add_search_options(app, options->translation);
  return [options](Session& session) { return run(session, *options); };
}

}  // namespace t2r
