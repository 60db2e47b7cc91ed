// A prepared dataset: a folder with dataset.json, the tokenizer, and shards for each split.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "data/tokenizer.h"

namespace t2r {

constexpr std::int64_t kDatasetVersion = 1;
constexpr std::int64_t kMaxShards = 99999;  // five digits in a shard's name
constexpr const char* kDatasetFile = "dataset.json";

struct SplitInfo {
  std::int64_t shards = 0;
  std::int64_t documents = 0;  // translation: sentence pairs
  std::int64_t tokens = 0;     // bos and eos included; translation: of the target side
  std::int64_t words = 0;      // white-space separated, plus one a line with count_line_ends
  std::int64_t bytes = 0;      // of text
  // Translation only.
  std::int64_t source_tokens = 0;                                       // with source_eos
  std::int64_t dropped_empty = 0, dropped_long = 0, dropped_ratio = 0;  // pairs that were left out
};

/// What dataset.json says.
struct DatasetInfo {
  std::string task = "language_modelling";  // or "translation"
  std::int64_t vocab_size = 0;              // translation: of the target side, as the tokenizer
  std::string tokenizer_file, tokenizer_sha256;
  // Translation: of the source side; the same as above where both share one vocabulary.
  std::int64_t source_vocab_size = 0;
  std::string source_tokenizer_file, source_tokenizer_sha256;
  bool source_eos = true;  // sources end with eos
  std::string document_split = "blank-line";
  bool add_bos = true, add_eos = true, count_line_ends = false;
  std::map<std::string, SplitInfo> splits;  // by name: train, valid, test

  bool translation() const { return task == "translation"; }
  bool joint_vocabulary() const { return source_tokenizer_sha256 == tokenizer_sha256; }
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

/// The two sides of sentence pairs: pair i is document i of both. Targets begin with bos and end
/// with eos; sources end with eos where the dataset says so (source_eos).
struct PairStream {
  TokenStream source, target;

  std::int64_t pairs() const { return target.documents(); }
  std::int64_t source_length(std::int64_t pair) const { return length(source, pair); }
  std::int64_t target_length(std::int64_t pair) const { return length(target, pair); }

 private:
  static std::int64_t length(const TokenStream& side, std::int64_t pair) {
    return side.document_begin(pair + 1) - side.document_begin(pair);
  }
};

/// What models are trained on: text, or sentence pairs.
using Corpus = std::variant<TokenStream, PairStream>;

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
  /// Translation: of the source side.
  const Tokenizer& source_tokenizer() const { return source_tokenizer_; }
  /// Opens all shards of the split and checks them against dataset.json. A usage error for sentence
  /// pairs.
  TokenStream stream(const std::string& split) const;
  /// The same for sentence pairs; a usage error for plain text.
  PairStream pairs(const std::string& split) const;
  /// Whichever of the two the dataset holds.
  Corpus corpus(const std::string& split) const;
  /// 16 hexadecimal digits that name the content (tokenizer and the tokens of every split): equal
  /// for equal datasets wherever they lie. Opens every shard.
  std::string fingerprint() const;

 private:
  Dataset(std::string folder, DatasetInfo info, Tokenizer tokenizer, Tokenizer source_tokenizer)
      : folder_(std::move(folder)),
        info_(std::move(info)),
        tokenizer_(std::move(tokenizer)),
        source_tokenizer_(std::move(source_tokenizer)) {}
  /// One side of a translation split ("source", "target"), or plain text ("").
  TokenStream side(const std::string& split, const std::string& group) const;

  std::string folder_;
  DatasetInfo info_;
  Tokenizer tokenizer_, source_tokenizer_;
};

}  // namespace t2r
