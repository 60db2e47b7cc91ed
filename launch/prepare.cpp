// t2r prepare: text, or sentence pairs, to a dataset folder.
#include "data/prepare.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <thread>

#include "core/base/log.h"
#include "data/prepare_pairs.h"
#include "launch/commands.h"

namespace t2r {
namespace {

struct Options {
  PrepareOptions prepare;
  PreparePairsOptions pairs;
  std::string document_split = "blank-line";
  bool json = false;
};

nlohmann::json to_json(const DatasetInfo& info, const std::string& folder) {
  nlohmann::json splits;
  for (const auto& [name, split] : info.splits) {
    splits[name] = {{"shards", split.shards},
                    {"documents", split.documents},
                    {"tokens", split.tokens},
                    {"words", split.words},
                    {"bytes", split.bytes}};
    if (!info.translation()) continue;
    splits[name]["source_tokens"] = split.source_tokens;
    splits[name]["dropped"] = {{"empty", split.dropped_empty},
                               {"long", split.dropped_long},
                               {"ratio", split.dropped_ratio}};
  }
  nlohmann::json out = {{"dataset", folder}, {"vocab_size", info.vocab_size}, {"splits", splits}};
  if (info.translation()) out["source_vocab_size"] = info.source_vocab_size;
  return out;
}

/// What both kinds of preparation share, from the options of the first.
PreparePairsOptions pair_options(const Options& options) {
  PreparePairsOptions pairs = options.pairs;
  const PrepareOptions& from = options.prepare;
  pairs.out = from.out;
  pairs.tokenizer = from.tokenizer;
  pairs.vocab_size = from.vocab_size;
  pairs.model_type = from.model_type;
  pairs.shards = from.shards;
  pairs.workers = from.workers;
  pairs.seed = from.seed;
  pairs.valid_fraction = from.valid_fraction;
  pairs.test_fraction = from.test_fraction;
  pairs.overwrite = from.overwrite;
  return pairs;
}

int run_pairs(const Options& options) {
  const PrepareOptions& text = options.prepare;
  check_usage(
      text.train.empty() && text.valid.empty() && text.test.empty(),
      "a dataset holds text or sentence pairs: give either --text or --source and --target");
  info("preparing {} from sentence pairs with {} thread{}", text.out, text.workers,
       text.workers == 1 ? "" : "s");
  const DatasetInfo made = prepare_pairs(pair_options(options));
  if (options.json) {
    fmt::print("{}\n", to_json(made, text.out).dump());
    return kExitDone;
  }
  fmt::print("dataset {}: {}\n", text.out,
             made.joint_vocabulary() ? fmt::format("one vocabulary of {}", made.vocab_size)
                                     : fmt::format("vocabularies of {} and {}",
                                                   made.source_vocab_size, made.vocab_size));
  for (const auto& [name, split] : made.splits)
    fmt::print(
        "{}: {} pairs, {} source and {} target tokens, {} target words, {} shard{}; left out: {} "
        "with an empty side, {} too long, {} of unlike length\n",
        name, split.documents, split.source_tokens, split.tokens, split.words, split.shards,
        split.shards == 1 ? "" : "s", split.dropped_empty, split.dropped_long, split.dropped_ratio);
  return kExitDone;
}

int run(Session& session, Options options) {
  session.require_single("prepare");
  PrepareOptions& prepare = options.prepare;
  prepare.document_split = parse_document_split(options.document_split);
  if (prepare.workers == 0)
    prepare.workers = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  const PreparePairsOptions& pairs = options.pairs;
  if (!pairs.train.empty() || !pairs.valid.empty() || !pairs.test.empty())
    return run_pairs(options);
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

void add_pair_options(CLI::App& app, PreparePairsOptions& pairs) {
  const char* group = "Sentence pairs";
  const auto files = [&](const char* name, std::vector<std::string>& to, const char* help) {
    app.add_option(name, to, help)->type_name("FILE")->default_str("")->group(group);
  };
  files("--source", pairs.train.source, "Sentences to translate from, one a line; plain or gzip");
  files("--target", pairs.train.target, "Their translations, line by line");
  files("--tsv", pairs.train.tsv, "Instead: source, tab, target a line");
  files("--valid-source", pairs.valid.source, "Sources of the split valid");
  files("--valid-target", pairs.valid.target, "Targets of the split valid");
  files("--valid-tsv", pairs.valid.tsv, "Pairs of the split valid");
  files("--test-source", pairs.test.source, "Sources of the split test");
  files("--test-target", pairs.test.target, "Targets of the split test");
  files("--test-tsv", pairs.test.tsv, "Pairs of the split test");
  app.add_option("--joint-vocabulary", pairs.joint_vocabulary,
                 "One tokenizer for both sides; false: one each, of --vocab-size entries")
      ->group(group);
  app.add_option("--source-tokenizer", pairs.source_tokenizer,
                 "Tokenizer of the sources, with --joint-vocabulary false")
      ->group(group);
  app.add_option("--source-vocab-size", pairs.source_vocab_size,
                 "Entries of a trained source tokenizer (0: as --vocab-size)")
      ->group(group);
  app.add_option("--source-eos", pairs.source_eos,
                 "Sources end with an end mark; false for models that were trained without it")
      ->group(group);
  app.add_option("--max-length", pairs.max_length,
                 "Most tokens a side; longer training pairs are left out and counted")
      ->group(group);
  app.add_option("--max-ratio", pairs.max_ratio,
                 "Training pairs with one side more than this times the other are left out and "
                 "counted (0: none)")
      ->group(group);
}

}  // namespace

Run add_prepare(CLI::App& app) {
  auto options = std::make_shared<Options>();
  PrepareOptions& prepare = options->prepare;
  app.add_option("--text", prepare.train, "Text files to train on (UTF-8); plain or gzip")
      ->type_name("FILE")
      ->default_str("");
  app.add_option("--valid", prepare.valid, "Text files of the split valid")
      ->type_name("FILE")
      ->default_str("");
  app.add_option("--test", prepare.test, "Text files of the split test")
      ->type_name("FILE")
      ->default_str("");
  add_pair_options(app, options->pairs);
  app.add_option("--out", prepare.out, "Dataset folder to make")->required()->type_name("FOLDER");
  app.add_option("--tokenizer", prepare.tokenizer,
                 "Tokenizer to use: a SentencePiece model, a tokenizer.json of byte-level BPE, a "
                 "folder that holds one, or \"bytes\"; without it one is trained on the text");
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
