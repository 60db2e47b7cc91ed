// A prepared dataset: dataset.json, and the streams over its shards.
#include "data/dataset.h"

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/base/error.h"
#include "data/atomic_file.h"
#include "data/shard.h"
#include "data/shard_layout.h"

namespace t2r {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kFormat = "t2r-dataset";

std::string path_in(const std::string& folder, const std::string& name) {
  return (std::filesystem::path(folder) / name).string();
}

/// A member of dataset.json, with a clear error where it is missing or of another type.
template <class T>
T member(const Json& json, const char* name, const std::string& path) {
  const auto found = json.find(name);
  check(found != json.end(), "{} has no \"{}\": it is damaged or not the dataset.json of t2r", path,
        name);
  try {
    return found->get<T>();
  } catch (const nlohmann::json::exception&) {
    fail("{}: \"{}\" has the wrong type: {}", path, name, found->dump());
  }
}

void parse_tokenizer(const Json& json, const char* name, const std::string& path, std::string* file,
                     std::string* sha256) {
  const auto tokenizer = member<Json>(json, name, path);
  *file = member<std::string>(tokenizer, "file", path);
  check(!file->empty() && std::filesystem::path(*file).filename() == *file,
        "{}: the tokenizer file \"{}\" is not a plain file name", path, *file);
  *sha256 = member<std::string>(tokenizer, "sha256", path);
}

DatasetInfo parse_info(const std::string& path, const std::string& content) {
  const Json json = Json::parse(content, nullptr, false);
  check(json.is_object(), "{} is not valid JSON: it is damaged; prepare the dataset again", path);
  const auto format = member<std::string>(json, "format", path);
  check(format == kFormat, "{} has the format \"{}\", expected \"{}\"", path, format, kFormat);
  const auto version = member<std::int64_t>(json, "version", path);
  check(version == kDatasetVersion,
        "{} has version {}, this t2r reads version {}: prepare the dataset again", path, version,
        kDatasetVersion);
  DatasetInfo info;
  info.task = member<std::string>(json, "task", path);
  check(info.task == "language_modelling" || info.translation(),
        "{}: the task \"{}\" is unknown to this t2r", path, info.task);
  info.vocab_size = member<std::int64_t>(json, "vocab_size", path);
  check(info.vocab_size > 0 && info.vocab_size <= kMaxVocabulary, "{}: vocab_size is {}", path,
        info.vocab_size);
  parse_tokenizer(json, "tokenizer", path, &info.tokenizer_file, &info.tokenizer_sha256);
  if (info.translation()) {
    info.source_vocab_size = member<std::int64_t>(json, "source_vocab_size", path);
    check(info.source_vocab_size > 0 && info.source_vocab_size <= kMaxVocabulary,
          "{}: source_vocab_size is {}", path, info.source_vocab_size);
    parse_tokenizer(json, "source_tokenizer", path, &info.source_tokenizer_file,
                    &info.source_tokenizer_sha256);
    // Datasets of before the key have it.
    info.source_eos = !json.contains("source_eos") || member<bool>(json, "source_eos", path);
  }
  info.document_split = member<std::string>(json, "document_split", path);
  info.add_bos = member<bool>(json, "add_bos", path);
  info.add_eos = member<bool>(json, "add_eos", path);
  info.count_line_ends = member<bool>(json, "count_line_ends", path);
  const auto splits = member<Json>(json, "splits", path);
  check(splits.is_object(), "{}: \"splits\" is not an object", path);
  for (const auto& [name, entry] : splits.items()) {
    check(name == "train" || name == "valid" || name == "test", "{}: unknown split \"{}\"", path,
          name);
    SplitInfo split;
    split.shards = member<std::int64_t>(entry, "shards", path);
    split.documents = member<std::int64_t>(entry, "documents", path);
    split.tokens = member<std::int64_t>(entry, "tokens", path);
    split.words = member<std::int64_t>(entry, "words", path);
    split.bytes = member<std::int64_t>(entry, "bytes", path);
    if (info.translation()) {
      split.source_tokens = member<std::int64_t>(entry, "source_tokens", path);
      split.dropped_empty = member<std::int64_t>(entry, "dropped_empty", path);
      split.dropped_long = member<std::int64_t>(entry, "dropped_long", path);
      split.dropped_ratio = member<std::int64_t>(entry, "dropped_ratio", path);
    }
    check(split.shards > 0 && split.shards <= kMaxShards && split.documents >= 0 &&
              split.tokens >= 0 && split.words >= 0 && split.bytes >= 0 && split.source_tokens >= 0,
          "{}: the figures of the split \"{}\" make no sense: {}", path, name, entry.dump());
    info.splits[name] = split;
  }
  return info;
}

}  // namespace

std::string shard_file_name(const std::string& split, std::int64_t shard, std::int64_t shards) {
  return fmt::format("{}-{:05}-of-{:05}.h5", split, shard, shards);
}

void write_dataset_info(const std::string& folder, const DatasetInfo& info) {
  Json json{{"format", kFormat},
            {"version", kDatasetVersion},
            {"task", info.task},
            {"vocab_size", info.vocab_size},
            {"tokenizer", {{"file", info.tokenizer_file}, {"sha256", info.tokenizer_sha256}}},
            {"document_split", info.document_split},
            {"add_bos", info.add_bos},
            {"add_eos", info.add_eos},
            {"count_line_ends", info.count_line_ends}};
  if (info.translation()) {
    json["source_vocab_size"] = info.source_vocab_size;
    json["source_tokenizer"] = {{"file", info.source_tokenizer_file},
                                {"sha256", info.source_tokenizer_sha256}};
    json["source_eos"] = info.source_eos;
  }
  json["splits"] = Json::object();
  for (const auto& [name, split] : info.splits) {
    Json& entry = json["splits"][name];
    entry = {{"shards", split.shards},
             {"documents", split.documents},
             {"tokens", split.tokens},
             {"words", split.words},
             {"bytes", split.bytes}};
    if (!info.translation()) continue;
    entry["source_tokens"] = split.source_tokens;
    entry["dropped_empty"] = split.dropped_empty;
    entry["dropped_long"] = split.dropped_long;
    entry["dropped_ratio"] = split.dropped_ratio;
  }
  write_file_atomically(path_in(folder, kDatasetFile), json.dump(2) + "\n");
}

/// Shards one after the other, or one part in memory.
struct TokenStream::Implementation {
  std::vector<Shard> shards;
  std::vector<std::int64_t> memory_offsets{0};  // documents + 1, of `memory`
  std::vector<std::int32_t> memory;
  // Tokens and documents before each part; the last entry is the total.
  std::vector<std::int64_t> token_begin{0}, document_begin{0};

  void add(std::int64_t tokens, std::int64_t documents) {
    token_begin.push_back(token_begin.back() + tokens);
    document_begin.push_back(document_begin.back() + documents);
  }
};

namespace {

/// The part that holds item i: begin[part] <= i < begin[part + 1]. Empty parts hold nothing.
std::size_t part_of(const std::vector<std::int64_t>& begin, std::int64_t i) {
  return static_cast<std::size_t>(std::upper_bound(begin.begin(), begin.end(), i) - begin.begin()) -
         1;
}

}  // namespace

TokenStream TokenStream::from_documents(const std::vector<std::vector<std::int32_t>>& documents) {
  auto implementation = std::make_shared<Implementation>();
  for (const auto& document : documents) {
    check(!document.empty(), "a document without tokens");
    implementation->memory.insert(implementation->memory.end(), document.begin(), document.end());
    implementation->memory_offsets.push_back(
        static_cast<std::int64_t>(implementation->memory.size()));
  }
  implementation->add(static_cast<std::int64_t>(implementation->memory.size()),
                      static_cast<std::int64_t>(documents.size()));
  return TokenStream(std::move(implementation));
}

std::int64_t TokenStream::tokens() const {
  return implementation_->token_begin.back();
}
std::int64_t TokenStream::documents() const {
  return implementation_->document_begin.back();
}

void TokenStream::copy_tokens(std::int64_t begin, std::int64_t end, std::int32_t* out) const {
  check(begin >= 0 && begin <= end && end <= tokens(), "tokens [{}, {}) of a stream of {}", begin,
        end, tokens());
  const Implementation& self = *implementation_;
  if (self.shards.empty()) {
    std::copy(self.memory.begin() + begin, self.memory.begin() + end, out);
    return;
  }
  while (begin < end) {
    const std::size_t part = part_of(self.token_begin, begin);
    const std::int64_t first = self.token_begin[part];
    const std::int64_t stop = std::min(end, self.token_begin[part + 1]);
    self.shards[part].copy_tokens(begin - first, stop - first, out);
    out += stop - begin;
    begin = stop;
  }
}

std::int64_t TokenStream::document_begin(std::int64_t document) const {
  check(document >= 0 && document <= documents(), "document {} of a stream of {}", document,
        documents());
  const Implementation& self = *implementation_;
  if (document == documents()) return tokens();
  if (self.shards.empty()) return self.memory_offsets[static_cast<std::size_t>(document)];
  const std::size_t part = part_of(self.document_begin, document);
  return self.token_begin[part] +
         self.shards[part].document_begin(document - self.document_begin[part]);
}

std::int64_t TokenStream::document_of(std::int64_t token) const {
  check(token >= 0 && token < tokens(), "token {} of a stream of {}", token, tokens());
  const Implementation& self = *implementation_;
  if (self.shards.empty()) return static_cast<std::int64_t>(part_of(self.memory_offsets, token));
  const std::size_t part = part_of(self.token_begin, token);
  return self.document_begin[part] + self.shards[part].document_of(token - self.token_begin[part]);
}

void TokenStream::verify() const {
  for (const Shard& shard : implementation_->shards) shard.verify();
}

Dataset Dataset::open(const std::string& folder) {
  const std::string path = path_in(folder, kDatasetFile);
  check(std::filesystem::is_directory(folder), "the dataset {} is not there or not a folder",
        folder);
  check(std::filesystem::exists(path),
        "{} is no dataset: it has no {} (was t2r prepare interrupted? then repeat it)", folder,
        kDatasetFile);
  constexpr std::int64_t kLimit = 1 << 20;
  DatasetInfo info = parse_info(path, read_file(path, kLimit));
  const auto load = [&](const std::string& file, const std::string& sha256,
                        std::int64_t vocab_size) {
    Tokenizer tokenizer = Tokenizer::load(path_in(folder, file));
    check(tokenizer.sha256() == sha256,
          "the tokenizer {} in {} is not the one the dataset was made with (sha256 {}, expected "
          "{}): restore it or prepare the dataset again",
          file, folder, tokenizer.sha256(), sha256);
    check(tokenizer.vocab_size() == vocab_size,
          "{}: vocab_size is {}, but its tokenizer has {} entries", path, vocab_size,
          tokenizer.vocab_size());
    return tokenizer;
  };
  Tokenizer tokenizer = load(info.tokenizer_file, info.tokenizer_sha256, info.vocab_size);
  Tokenizer source =
      info.translation() && !info.joint_vocabulary()
          ? load(info.source_tokenizer_file, info.source_tokenizer_sha256, info.source_vocab_size)
          : tokenizer;
  return Dataset(folder, std::move(info), std::move(tokenizer), std::move(source));
}

const SplitInfo& Dataset::split(const std::string& name) const {
  const auto found = info_.splits.find(name);
  if (found == info_.splits.end()) {
    std::string names;
    for (const auto& entry : info_.splits) names += (names.empty() ? "" : ", ") + entry.first;
    fail_usage("the dataset {} has no split \"{}\", only: {}", folder_, name, names);
  }
  return found->second;
}

TokenStream Dataset::side(const std::string& name, const std::string& group) const {
  const SplitInfo& info = split(name);
  const bool source = group == "source";
  auto implementation = std::make_shared<TokenStream::Implementation>();
  const ShardIdentity identity =
      source ? ShardIdentity{info_.source_vocab_size, info_.source_tokenizer_sha256}
             : ShardIdentity{info_.vocab_size, info_.tokenizer_sha256};
  for (std::int64_t i = 0; i < info.shards; ++i) {
    const std::string path = path_in(folder_, shard_file_name(name, i, info.shards));
    implementation->shards.push_back(Shard::open(path, identity, group));
    const Shard& shard = implementation->shards.back();
    implementation->add(shard.tokens(), shard.documents());
  }
  TokenStream stream(std::move(implementation));
  const std::int64_t tokens = source ? info.source_tokens : info.tokens;
  check(stream.tokens() == tokens && stream.documents() == info.documents,
        "the shards of {} in {} hold {} tokens in {} documents, but {} says {} in {}: they do not "
        "belong together; prepare the dataset again",
        name, folder_, stream.tokens(), stream.documents(), kDatasetFile, tokens, info.documents);
  return stream;
}

TokenStream Dataset::stream(const std::string& name) const {
  check_usage(!info_.translation(),
              "the dataset {} holds sentence pairs: a language model needs one of plain text, made "
              "with 't2r prepare --text'",
              folder_);
  return side(name, "");
}

PairStream Dataset::pairs(const std::string& name) const {
  check_usage(
      info_.translation(),
      "the dataset {} holds plain text: a translation model needs sentence pairs, made with "
      "'t2r prepare --source --target'",
      folder_);
  return {side(name, "source"), side(name, "target")};
}

Corpus Dataset::corpus(const std::string& name) const {
  if (info_.translation()) return pairs(name);
  return stream(name);
}

std::string Dataset::fingerprint() const {
  std::string content = info_.task + info_.tokenizer_sha256;
  for (const auto& [name, split] : info_.splits) {
    content += fmt::format(" {} {} {}", name, split.documents, split.tokens);
    const std::vector<std::string> groups = info_.translation()
                                                ? std::vector<std::string>{"source", "target"}
                                                : std::vector<std::string>{""};
    for (const std::string& group : groups) {
      const TokenStream tokens = side(name, group);
      for (const Shard& shard : tokens.implementation_->shards)
        content += fmt::format(" {:016x}", shard.content_hash());
    }
  }
  return fmt::format("{:016x}", checksum(std::as_bytes(std::span(content))));
}

}  // namespace t2r
