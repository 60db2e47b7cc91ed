// Text to a dataset folder: plan, tokenizer, forked workers, dataset.json last.
#include "data/prepare.h"

#include <xxhash.h>

#include <array>
#include <cmath>
#include <filesystem>
#include <memory>

#include "core/base/error.h"
#include "core/base/log.h"
#include "data/atomic_file.h"
#include "data/prepare_folder.h"
#include "data/prepare_workers.h"
#include "data/shard.h"
#include "data/tokenizer_sample.h"

namespace t2r {
namespace {

namespace fs = std::filesystem;

constexpr std::array<const char*, 3> kSplits{"train", "valid", "test"};

/// Calls `visit(split, document)` for every document of the options' text, in an order and with
/// splits that never depend on anything but the text and the options.
template <class F>
void for_each_split_document(const PrepareOptions& options, F&& visit) {
  for (std::size_t split = 0; split < kSplits.size(); ++split) {
    const auto& paths = split == 0 ? options.train : split == 1 ? options.valid : options.test;
    for (const std::string& path : paths)
      for_each_document(path, options.document_split, [&](const Document& document) {
        std::size_t target = split;
        if (split == 0 && options.valid_fraction + options.test_fraction > 0) {
          const std::string name = fs::path(path).filename().string();
          const std::string_view key =
              options.document_split == DocumentSplit::file ? name : document.text;
          const double u = static_cast<double>(XXH3_64bits(key.data(), key.size()) >> 11) * 0x1p-53;
          if (u < options.test_fraction)
            target = 2;
          else if (u < options.test_fraction + options.valid_fraction)
            target = 1;
        }
        visit(target, document);
      });
  }
}

/// What a first pass over the text finds.
struct TextPlan {
  std::array<SplitInfo, 3> splits;  // tokens are not known yet

  std::int64_t bytes() const { return splits[0].bytes + splits[1].bytes + splits[2].bytes; }
};

TextPlan scan(const PrepareOptions& options) {
  TextPlan plan;
  std::int64_t bytes = 0;
  for_each_split_document(options, [&](std::size_t split, const Document& document) {
    SplitInfo& info = plan.splits[split];
    ++info.documents;
    info.bytes += std::ssize(document.text);
    info.words += count_words(document.text) + (options.count_line_ends ? document.line_ends : 0);
    bytes += std::ssize(document.text);
    if (info.documents % 4096 == 0)
      progress(fmt::format("reading text: {:.1f} MB", static_cast<double>(bytes) * 1e-6));
  });
  for (std::size_t split = 0; split < kSplits.size(); ++split)
    plan.splits[split].shards = split == 0 ? options.shards : 1;
  return plan;
}

/// Deals the documents of a split to its shards in order: shard s takes those that begin in its
/// equal part of the text, so shards are of similar size and the stream keeps the text's order.
class Dealer {
 public:
  explicit Dealer(const SplitInfo& info) : info_(info) {}

  std::int64_t shard_of_next(const Document& document) {
    const std::int64_t shard = begin_ * info_.shards / std::max<std::int64_t>(info_.bytes, 1);
    begin_ += std::ssize(document.text);
    return std::min(shard, info_.shards - 1);
  }

 private:
  const SplitInfo& info_;
  std::int64_t begin_ = 0;
};

/// Writes the shards whose number is `worker` modulo `workers`, one at a time.
void write_shards(const PrepareOptions& options, const TextPlan& plan, const Tokenizer& tokenizer,
                  int worker, int workers, const std::function<void(std::int64_t)>& bytes_done) {
  const ShardIdentity identity{tokenizer.vocab_size(), tokenizer.sha256()};
  std::vector<std::int32_t> ids;
  std::vector<Dealer> dealers(plan.splits.begin(), plan.splits.end());
  std::array<std::int64_t, 3> next_shard{worker, worker, worker};  // not finished yet, ours
  std::array<std::unique_ptr<ShardWriter>, 3> writers;
  const auto open = [&](std::size_t split) {
    const SplitInfo& info = plan.splits[split];
    if (info.documents == 0 || next_shard[split] >= info.shards) return;
    const std::string name = shard_file_name(kSplits[split], next_shard[split], info.shards);
    writers[split] =
        std::make_unique<ShardWriter>((fs::path(options.out) / name).string(), identity);
  };
  const auto finish = [&](std::size_t split) {
    writers[split]->finish();
    writers[split].reset();
    next_shard[split] += workers;
    open(split);
  };
  for (std::size_t split = 0; split < kSplits.size(); ++split) open(split);
  for_each_split_document(options, [&](std::size_t split, const Document& document) {
    const std::int64_t shard = dealers[split].shard_of_next(document);
    while (writers[split] && next_shard[split] < shard) finish(split);
    if (!writers[split] || next_shard[split] != shard) return;
    ids.clear();
    if (options.add_bos) ids.push_back(tokenizer.bos());
    tokenizer.encode_to(document.text, ids);
    if (options.add_eos) ids.push_back(tokenizer.eos());
    writers[split]->add_document(ids);
    bytes_done(std::ssize(document.text));
  });
  for (std::size_t split = 0; split < kSplits.size(); ++split)
    while (writers[split]) finish(split);
}

Tokenizer make_tokenizer(const PrepareOptions& options, const TextPlan& plan) {
  if (options.tokenizer == "bytes") return Tokenizer::bytes();
  if (!options.tokenizer.empty()) return Tokenizer::load(options.tokenizer);
  TokenizerSample sample(plan.splits[0].bytes, options.seed);
  for_each_split_document(options, [&](std::size_t split, const Document& document) {
    if (split == 0) sample.add(document.text);
  });
  return sample.train({.vocab_size = options.vocab_size, .model_type = options.model_type},
                      (fs::path(options.out) / "tokenizer.model").string());
}

void check_options(const PrepareOptions& options) {
  check_usage(!options.train.empty() || !options.valid.empty() || !options.test.empty(),
              "there is no text to prepare: give at least one text file");
  check_usage(!options.out.empty(), "there is no folder to write the dataset to");
  check_usage(options.shards > 0 && options.shards <= kMaxShards,
              "{} shards: from 1 to {} are possible", options.shards, kMaxShards);
  check_usage(options.workers > 0 && options.workers <= 1024,
              "{} worker processes: from 1 to 1024 are possible", options.workers);
  check_usage(!options.tokenizer.empty() || !options.train.empty(),
              "a tokenizer is trained on the training text, but there is none: give some, or a "
              "tokenizer");
  const double valid = options.valid_fraction, test = options.test_fraction;
  check_usage(valid >= 0 && test >= 0 && valid + test < 1,
              "shares of {} for validation and {} for test: they must not be negative and leave "
              "something to train on",
              valid, test);
  check_usage((valid == 0 || options.valid.empty()) && (test == 0 || options.test.empty()),
              "a split is given as text and as a share of the training text: choose one");
  check_usage(options.overwrite || !fs::exists(fs::path(options.out) / kDatasetFile),
              "{} already holds a dataset: choose another folder, or allow it to be overwritten",
              options.out);
}

void check_plan(const PrepareOptions& options, const TextPlan& plan) {
  const std::array<bool, 3> wanted{!options.train.empty(),
                                   !options.valid.empty() || options.valid_fraction > 0,
                                   !options.test.empty() || options.test_fraction > 0};
  for (std::size_t split = 0; split < kSplits.size(); ++split)
    check(!wanted[split] || plan.splits[split].documents > 0,
          "the {} split is empty: its share of {} documents holds none; raise the share, or give "
          "a text of its own",
          kSplits[split],
          plan.splits[0].documents + plan.splits[1].documents + plan.splits[2].documents);
  check_usage(!wanted[0] || options.shards <= plan.splits[0].documents,
              "{} shards but only {} training documents: choose fewer shards or another document "
              "split",
              options.shards, plan.splits[0].documents);
}

}  // namespace

DatasetInfo prepare_dataset(const PrepareOptions& options) {
  check_options(options);
  const TextPlan plan = scan(options);
  check_plan(options, plan);
  make_folders(options.out);
  // A tokenizer may come from the very folder that is overwritten: it is in memory from here on.
  std::unique_ptr<Tokenizer> given;
  if (!options.tokenizer.empty())
    given = std::make_unique<Tokenizer>(make_tokenizer(options, plan));
  remove_dataset_files(options.out);
  const Tokenizer tokenizer = given ? *given : make_tokenizer(options, plan);
  check_usage(
      (!options.add_bos || tokenizer.bos() >= 0) && (!options.add_eos || tokenizer.eos() >= 0),
      "the tokenizer {} has no token for the beginning or the end of a text: prepare "
      "without them",
      options.tokenizer);
  tokenizer.save(options.out);

  const int workers = static_cast<int>(
      std::min<std::int64_t>(options.workers, std::max<std::int64_t>(options.shards, 1)));
  run_workers(workers, plan.bytes(),
              [&](int worker, const std::function<void(std::int64_t)>& bytes_done) {
                write_shards(options, plan, tokenizer, worker, workers, bytes_done);
              });

  DatasetInfo info;
  info.vocab_size = tokenizer.vocab_size();
  info.tokenizer_file = tokenizer.file_name();
  info.tokenizer_sha256 = tokenizer.sha256();
  info.document_split = name_of(options.document_split);
  info.add_bos = options.add_bos;
  info.add_eos = options.add_eos;
  info.count_line_ends = options.count_line_ends;
  for (std::size_t split = 0; split < kSplits.size(); ++split) {
    SplitInfo figures = plan.splits[split];
    if (figures.documents == 0) continue;
    std::int64_t documents = 0;
    for (std::int64_t i = 0; i < figures.shards; ++i) {
      const std::string name = shard_file_name(kSplits[split], i, figures.shards);
      const Shard shard = Shard::open((fs::path(options.out) / name).string(),
                                      {info.vocab_size, info.tokenizer_sha256});
      figures.tokens += shard.tokens();
      documents += shard.documents();
    }
    check(documents == figures.documents,
          "the {} text changed while it was prepared: {} documents at first, {} now; repeat it",
          kSplits[split], figures.documents, documents);
    info.splits[kSplits[split]] = figures;
  }
  write_dataset_info(options.out, info);
  return info;
}

}  // namespace t2r
