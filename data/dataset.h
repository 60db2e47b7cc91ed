// A prepared dataset: a folder with dataset.json, the tokenizer, and shards for each split.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "data/tokenizer.h"

namespace t2r {

constexpr std::int64_t kDatasetVersion = 1;
constexpr std::int64_t kMaxShards = 99999;  // five digits in a shard's name
constexpr const char* kDatasetFile = "dataset.json";

struct SplitInfo {
  std::int64_t shards = 0;
  std::int64_t documents = 0;
  std::int64_t tokens = 0;  // bos and eos included
  std::int64_t words = 0;   // white-space separated, plus one a line with count_line_ends
  std::int64_t bytes = 0;   // of text
};

/// What dataset.json says.
struct DatasetInfo {
  std::string task = "language_modelling";
  std::int64_t vocab_size = 0;
  std::string tokenizer_file, tokenizer_sha256;
  std::string document_split = "blank-line";
  bool add_bos = true, add_eos = true, count_line_ends = false;
  std::map<std::string, SplitInfo> splits;  // by name: train, valid, test
};

/// "train-00000-of-00004.h5".
std::string shard_file_name(const std::string& split, std::int64_t shard, std::int64_t shards);

/// Writes dataset.json, which makes the folder a dataset.
void write_dataset_info(const std::string& folder, const DatasetInfo& info);

/// The tokens of all shards of a split, one after the other: document and token numbers run
/// through. Copying is free; all functions may be called from several threads.
class TokenStream {
 public:
  /// A stream in memory (tests, ids given by hand); each document has at least one token.
  static TokenStream from_documents(const std::vector<std::vector<std::int32_t>>& documents);

  std::int64_t tokens() const;
  std::int64_t documents() const;
  /// Tokens [begin, end) to `out`.
  void copy_tokens(std::int64_t begin, std::int64_t end, std::int32_t* out) const;
  /// First token of a document; document == documents() gives tokens().
  std::int64_t document_begin(std::int64_t document) const;
  /// The document that holds a token in [0, tokens()).
  std::int64_t document_of(std::int64_t token) const;
  /// Verifies every checksum.
  void verify() const;

  struct Implementation;

 private:
  friend class Dataset;
  explicit TokenStream(std::shared_ptr<const Implementation> implementation)
      : implementation_(std::move(implementation)) {}
  std::shared_ptr<const Implementation> implementation_;
};

class Dataset {
 public:
  /// Reads dataset.json and the tokenizer and checks that they belong together.
  static Dataset open(const std::string& folder);

  const std::string& folder() const { return folder_; }
  const DatasetInfo& info() const { return info_; }
  std::int64_t vocab_size() const { return info_.vocab_size; }
  bool has_split(const std::string& name) const { return info_.splits.contains(name); }
  /// Throws, naming the splits there are, when there is none of this name.
  const SplitInfo& split(const std::string& name) const;
  const Tokenizer& tokenizer() const { return tokenizer_; }
  /// Opens all shards of the split and checks them against dataset.json.
  TokenStream stream(const std::string& split) const;
  /// 16 hexadecimal digits that name the content (tokenizer and the tokens of every split): equal
  /// for equal datasets wherever they lie. Opens every shard.
  std::string fingerprint() const;

 private:
  Dataset(std::string folder, DatasetInfo info, Tokenizer tokenizer)
      : folder_(std::move(folder)), info_(std::move(info)), tokenizer_(std::move(tokenizer)) {}

  std::string folder_;
  DatasetInfo info_;
  Tokenizer tokenizer_;
};

}  // namespace t2r
