// t2r prepare: text to a dataset folder.
#include "data/prepare.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "core/base/log.h"
#include "launch/commands.h"

namespace t2r {
namespace {

struct Options {
  PrepareOptions prepare;
  std::string document_split = "blank-line";
  bool json = false;
};

nlohmann::json to_json(const DatasetInfo& info, const std::string& folder) {
  nlohmann::json splits;
  for (const auto& [name, split] : info.splits)
    splits[name] = {{"shards", split.shards},
                    {"documents", split.documents},
                    {"tokens", split.tokens},
                    {"words", split.words},
                    {"bytes", split.bytes}};
  return {{"dataset", folder}, {"vocab_size", info.vocab_size}, {"splits", splits}};
}

int run(Session& session, Options options) {
  session.require_single("prepare");
  PrepareOptions& prepare = options.prepare;
  prepare.document_split = parse_document_split(options.document_split);
  if (prepare.workers == 0)
    prepare.workers = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  info("preparing {} from {} text file{} with {} process{}", prepare.out, prepare.train.size(),
       prepare.train.size() == 1 ? "" : "s", prepare.workers, prepare.workers == 1 ? "" : "es");
  const DatasetInfo made = prepare_dataset(prepare);
  if (options.json) {
    fmt::print("{}\n", to_json(made, prepare.out).dump());
    return kExitDone;
  }
  fmt::print("dataset {}: vocabulary of {}\n", prepare.out, made.vocab_size);
  for (const auto& [name, split] : made.splits)
    fmt::print("{}: {} documents, {} tokens, {} words, {} bytes, {} shard{}\n", name,
               split.documents, split.tokens, split.words, split.bytes, split.shards,
               split.shards == 1 ? "" : "s");
  return kExitDone;
}

}  // namespace

Run add_prepare(CLI::App& app) {
  auto options = std::make_shared<Options>();
  PrepareOptions& prepare = options->prepare;
  app.add_option("--text", prepare.train, "Text files to train on (UTF-8)")
      ->type_name("FILE")
      ->default_str("");
  app.add_option("--valid", prepare.valid, "Text files of the split valid")
      ->type_name("FILE")
      ->default_str("");
  app.add_option("--test", prepare.test, "Text files of the split test")
      ->type_name("FILE")
      ->default_str("");
  app.add_option("--out", prepare.out, "Dataset folder to make")->required()->type_name("FOLDER");
  app.add_option("--tokenizer", prepare.tokenizer,
                 "Tokenizer to use: a SentencePiece model, a folder that holds one, or \"bytes\"; "
                 "without it one is trained on the text");
  app.add_option("--vocab-size", prepare.vocab_size, "Entries of a trained tokenizer");
  app.add_option("--tokenizer-type", prepare.model_type,
                 "Kind of a trained tokenizer: bpe, unigram or char");
  app.add_option("--document-split", options->document_split,
                 "What separates documents: blank-line, line or file");
  app.add_option("--shards", prepare.shards, "Files of the split train");
  app.add_option("--workers", prepare.workers,
                 "Processes that write; the result does not depend on it (0: one a core)");
  app.add_option("--seed", prepare.seed, "Seed of the tokenizer's sample of the text");
  app.add_option("--valid-fraction", prepare.valid_fraction,
                 "Share of the training documents that become valid, by a hash of each");
  app.add_option("--test-fraction", prepare.test_fraction,
                 "Share of the training documents that become test, by a hash of each");
  app.add_option("--add-bos", prepare.add_bos, "Put <s> before each document");
  app.add_option("--add-eos", prepare.add_eos, "Put </s> after each document");
  app.add_option("--count-line-ends", prepare.count_line_ends,
                 "Count each line end as a word, as WikiText does");
  app.add_flag("--overwrite", prepare.overwrite, "Replace a dataset that is there");
  app.add_flag("--json", options->json, "Print the result as JSON");
  return [options](Session& session) { return run(session, *options); };
}

}  // namespace t2r
