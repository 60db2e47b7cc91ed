#include "data/prepare_pairs.h"

#include <xxhash.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <optional>
#include <thread>

#include "core/base/error.h"
#include "core/base/log.h"
#include "data/atomic_file.h"
#include "data/prepare_folder.h"
#include "data/sentence_file.h"
#include "data/shard.h"
#include "data/text_reader.h"
#include "data/tokenizer_sample.h"

namespace t2r {
namespace {

namespace fs = std::filesystem;

constexpr std::int64_t kRatioFrom = 10;  // tokens of the longer side from which the ratio counts
constexpr std::array<const char*, 3> kSplits{"train", "valid", "test"};
constexpr const char* kSourceTokenizerFile = "source.tokenizer.model";

struct Pairs {
  std::vector<std::string> sources, targets;
  std::size_t size() const { return sources.size(); }
};

void read_line_by_line(const std::string& source, const std::string& target, Pairs& pairs) {
  std::vector<std::string> left = read_lines(source), right = read_lines(target);
  check_usage(left.size() == right.size(),
              "{} has {} lines and {} has {}: line {} of the longer one has no partner", source,
              left.size(), target, right.size(), std::min(left.size(), right.size()) + 1);
  std::move(left.begin(), left.end(), std::back_inserter(pairs.sources));
  std::move(right.begin(), right.end(), std::back_inserter(pairs.targets));
}

Pairs read_pairs(const PairFiles& files, const char* split) {
  check_usage(files.source.size() == files.target.size(),
              "the split {} has {} source and {} target files: each source needs its target", split,
              files.source.size(), files.target.size());
  Pairs pairs;
  for (std::size_t i = 0; i < files.source.size(); ++i)
    read_line_by_line(files.source[i], files.target[i], pairs);
  for (const std::string& path : files.tsv) read_tab_separated(path, pairs.sources, pairs.targets);
  return pairs;
}

/// Moves the pairs of `train` whose hash says so to the other splits.
void split_off(const PreparePairsOptions& options, std::array<Pairs, 3>& splits) {
  if (options.valid_fraction + options.test_fraction == 0) return;
  Pairs rest;
  for (std::size_t i = 0; i < splits[0].size(); ++i) {
    const std::string key = splits[0].sources[i] + '\t' + splits[0].targets[i];
    const double u = static_cast<double>(XXH3_64bits(key.data(), key.size()) >> 11) * 0x1p-53;
    Pairs& to = u < options.test_fraction                            ? splits[2]
                : u < options.test_fraction + options.valid_fraction ? splits[1]
                                                                     : rest;
    to.sources.push_back(std::move(splits[0].sources[i]));
    to.targets.push_back(std::move(splits[0].targets[i]));
  }
  splits[0] = std::move(rest);
  const std::array<double, 3> shares{1, options.valid_fraction, options.test_fraction};
  for (std::size_t s = 0; s < splits.size(); ++s)
    check_usage(shares[s] == 0 || splits[s].size() > 0,
                "the split {} got none of the pairs: change the share, or give files of its own",
                kSplits[s]);
}

bool blank(const std::string& text) {
  return text.find_first_not_of(" \t\r\f\v") == std::string::npos;
}

Tokenizer train_tokenizer(const PreparePairsOptions& options, std::int64_t vocab_size,
                          const std::vector<const std::vector<std::string>*>& sides,
                          const std::string& file) {
  std::int64_t bytes = 0;
  for (const auto* side : sides)
    for (const std::string& line : *side) bytes += std::ssize(line);
  TokenizerSample sample(bytes, options.seed);
  for (const auto* side : sides)
    for (const std::string& line : *side) sample.add(line);
  return sample.train(
      {.vocab_size = vocab_size, .model_type = options.model_type, .normalization = "nmt_nfkc"},
      (fs::path(options.out) / file).string());
}

using TokenLists = std::vector<std::vector<std::int32_t>>;

/// Tokens of all lines, by several threads.
TokenLists encode_all(const Tokenizer& tokenizer, const std::vector<std::string>& lines,
                      int threads) {
  TokenLists tokens(lines.size());
  std::atomic<std::size_t> next{0};
  const auto work = [&] {
    constexpr std::size_t kStretch = 256;
    for (std::size_t begin; (begin = next.fetch_add(kStretch)) < lines.size();)
      for (std::size_t i = begin; i < std::min(begin + kStretch, lines.size()); ++i)
        if (!blank(lines[i])) tokenizer.encode_to(lines[i], tokens[i]);
  };
  std::vector<std::thread> helpers;
  for (int t = 1; t < threads; ++t) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  return tokens;
}

/// Whether the pair stays; where not, its reason is counted.
bool keep_pair(std::int64_t source, std::int64_t target, const PreparePairsOptions& options,
               bool train, SplitInfo& info) {
  const std::int64_t longer = std::max(source, target), shorter = std::min(source, target);
  if (shorter == 0) {
    ++info.dropped_empty;
  } else if (train && longer > options.max_length) {
    ++info.dropped_long;
  } else if (train && options.max_ratio > 0 && longer > kRatioFrom &&
             static_cast<double>(longer) > options.max_ratio * static_cast<double>(shorter)) {
    ++info.dropped_ratio;
  } else {
    return true;
  }
  return false;
}

SplitInfo write_split(const PreparePairsOptions& options, const std::string& split,
                      const Pairs& pairs, const Tokenizer& source_tokenizer,
                      const Tokenizer& tokenizer) {
  const bool train = split == "train";
  TokenLists sources = encode_all(source_tokenizer, pairs.sources, options.workers);
  TokenLists targets = encode_all(tokenizer, pairs.targets, options.workers);
  SplitInfo figures;
  std::vector<std::size_t> kept;
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    if (!keep_pair(std::ssize(sources[i]), std::ssize(targets[i]), options, train, figures))
      continue;
    kept.push_back(i);
    if (options.source_eos) sources[i].push_back(source_tokenizer.eos());
    targets[i].insert(targets[i].begin(), tokenizer.bos());
    targets[i].push_back(tokenizer.eos());
    figures.words += count_words(pairs.targets[i]);
    figures.bytes += std::ssize(pairs.targets[i]) + std::ssize(pairs.sources[i]);
    figures.tokens += std::ssize(targets[i]);
    figures.source_tokens += std::ssize(sources[i]);
  }
  check_usage(
      !kept.empty(),
      "the split {} has no pairs: of {}, {} had an empty side, {} were longer than {} tokens "
      "and {} had a ratio above {}",
      split, pairs.size(), figures.dropped_empty, figures.dropped_long, options.max_length,
      figures.dropped_ratio, options.max_ratio);
  figures.documents = std::ssize(kept);
  figures.shards = train ? std::min(options.shards, figures.documents) : 1;
  for (std::int64_t shard = 0; shard < figures.shards; ++shard) {
    const std::string path =
        (fs::path(options.out) / shard_file_name(split, shard, figures.shards)).string();
    ShardWriter source(path, {source_tokenizer.vocab_size(), source_tokenizer.sha256()});
    ShardWriter target(path, {tokenizer.vocab_size(), tokenizer.sha256()});
    const std::int64_t begin = figures.documents * shard / figures.shards;
    const std::int64_t end = figures.documents * (shard + 1) / figures.shards;
    for (std::int64_t i = begin; i < end; ++i) {
      source.add_document(sources[kept[static_cast<std::size_t>(i)]]);
      target.add_document(targets[kept[static_cast<std::size_t>(i)]]);
    }
    ShardWriter::finish_pairs(source, target);
    progress(fmt::format("{}: shard {} of {}", split, shard + 1, figures.shards),
             shard + 1 == figures.shards);
  }
  return figures;
}

void check_options(const PreparePairsOptions& options) {
  check_usage(!options.train.empty(), "there are no pairs to train on: give --source and --target");
  check_usage(!options.out.empty(), "there is no folder to write the dataset to");
  check_usage(options.shards > 0 && options.shards <= kMaxShards,
              "{} shards: from 1 to {} are possible", options.shards, kMaxShards);
  check_usage(options.workers > 0 && options.workers <= 1024,
              "{} workers: from 1 to 1024 are possible", options.workers);
  check_usage(options.max_length >= 1 && options.max_ratio >= 0,
              "pairs of at most {} tokens and a ratio of at most {}: the first is at least 1, the "
              "second at least 0",
              options.max_length, options.max_ratio);
  const double valid = options.valid_fraction, test = options.test_fraction;
  check_usage(valid >= 0 && test >= 0 && valid + test < 1,
              "shares of {} for validation and {} for test: they must not be negative and leave "
              "something to train on",
              valid, test);
  check_usage((valid == 0 || options.valid.empty()) && (test == 0 || options.test.empty()),
              "a split is given as files and as a share of the training pairs: choose one");
  check_usage(!options.joint_vocabulary ||
                  (options.source_tokenizer.empty() && options.source_vocab_size == 0),
              "a source tokenizer or vocabulary goes with --joint-vocabulary false");
  check_usage(options.tokenizer != "bytes" && options.source_tokenizer != "bytes",
              "sentence pairs need SentencePiece tokenizers: leave \"bytes\" out, or load a model");
  check_usage(options.overwrite || !fs::exists(fs::path(options.out) / kDatasetFile),
              "{} already holds a dataset: choose another folder, or allow it to be overwritten",
              options.out);
}

}  // namespace

DatasetInfo prepare_pairs(const PreparePairsOptions& options) {
  check_options(options);
  std::array<Pairs, 3> splits{read_pairs(options.train, "train"),
                              read_pairs(options.valid, "valid"), read_pairs(options.test, "test")};
  split_off(options, splits);
  std::optional<Tokenizer> given, given_source;
  if (!options.tokenizer.empty()) given = Tokenizer::load(options.tokenizer);
  if (!options.source_tokenizer.empty()) given_source = Tokenizer::load(options.source_tokenizer);
  make_folders(options.out);
  remove_dataset_files(options.out);

  const Pairs& train = splits[0];
  std::vector<const std::vector<std::string>*> sides{&train.targets};
  if (options.joint_vocabulary) sides.push_back(&train.sources);
  const Tokenizer tokenizer =
      given ? *given : train_tokenizer(options, options.vocab_size, sides, "tokenizer.model");
  const Tokenizer source_tokenizer =
      options.joint_vocabulary ? tokenizer
      : given_source
          ? *given_source
          : train_tokenizer(
                options, options.source_vocab_size ? options.source_vocab_size : options.vocab_size,
                {&train.sources}, kSourceTokenizerFile);
  check_usage(tokenizer.bos() >= 0 && tokenizer.eos() >= 0 && source_tokenizer.eos() >= 0,
              "the tokenizer {} has no token for the beginning or the end of a sentence",
              options.tokenizer);
  tokenizer.save(options.out);

  DatasetInfo info;
  info.task = "translation";
  info.document_split = "line";
  info.vocab_size = tokenizer.vocab_size();
  info.tokenizer_file = tokenizer.file_name();
  info.tokenizer_sha256 = tokenizer.sha256();
  info.source_vocab_size = source_tokenizer.vocab_size();
  info.source_tokenizer_sha256 = source_tokenizer.sha256();
  info.source_tokenizer_file = info.tokenizer_file;
  info.source_eos = options.source_eos;
  if (!info.joint_vocabulary()) {
    info.source_tokenizer_file = kSourceTokenizerFile;
    source_tokenizer.save_as((fs::path(options.out) / kSourceTokenizerFile).string());
  }
  for (std::size_t s = 0; s < splits.size(); ++s)
    if (splits[s].size() > 0)
      info.splits[kSplits[s]] =
          write_split(options, kSplits[s], splits[s], source_tokenizer, tokenizer);
  write_dataset_info(options.out, info);
  return info;
}

}  // namespace t2r
