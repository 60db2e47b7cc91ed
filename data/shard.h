// One HDF5 file of tokens: written once by one process, then mapped by readers. HDF5 is used to
// open and to write; tokens are read straight from the mapping.
//   /tokens     uint16 (vocabularies up to 65,536) or uint32, contiguous
//   /offsets    uint64, documents + 1: document d is tokens [offsets[d], offsets[d + 1])
//   /checksums  uint64, XXH3 of each 1 MiB of /tokens
//   attributes  format_version, vocab_size, tokenizer_sha256, documents
// Sentence pairs have all of this twice, in the groups /source and /target; pair i is document i of
// both.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace t2r {

constexpr std::int64_t kShardFormatVersion = 1;

/// What a shard must agree with.
struct ShardIdentity {
  std::int64_t vocab_size = 0;
  std::string tokenizer_sha256;
};

/// Collects documents in memory; finish() writes the file.
class ShardWriter {
 public:
  ShardWriter(std::string path, ShardIdentity identity);

  /// A document of at least one token, each in [0, vocab_size).
  void add_document(std::span<const std::int32_t> tokens);
  /// Writes under a temporary name, syncs and renames. Call once.
  void finish();
  /// Writes sentence pairs instead: both writers have the same path and as many documents.
  static void finish_pairs(const ShardWriter& source, const ShardWriter& target);

  std::int64_t documents() const { return static_cast<std::int64_t>(offsets_.size()) - 1; }
  std::int64_t tokens() const { return static_cast<std::int64_t>(offsets_.back()); }

 private:
  struct File;
  std::span<const std::byte> token_bytes() const;
  std::vector<std::uint64_t> checksums() const;
  void write(const File& file, const char* group) const;

  std::string path_;
  ShardIdentity identity_;
  bool wide_;
  std::vector<std::uint16_t> narrow_tokens_;
  std::vector<std::uint32_t> wide_tokens_;
  std::vector<std::uint64_t> offsets_{0};
};

/// Copying is free; all functions may be called from several threads.
class Shard {
 public:
  /// Checks structure, sizes, offsets and identity; throws one sentence when the file is missing,
  /// truncated, damaged, of another format or version, or made with another tokenizer.
  /// `group`: "source" or "target" of sentence pairs.
  static Shard open(const std::string& path, const ShardIdentity& expected,
                    const std::string& group = "");

  std::int64_t tokens() const;
  std::int64_t documents() const;
  /// First token of a document; document == documents() gives tokens().
  std::int64_t document_begin(std::int64_t document) const;
  /// The document that holds a token.
  std::int64_t document_of(std::int64_t token) const;
  std::int32_t token_at(std::int64_t token) const;
  /// Tokens [begin, end) to `out`. The first touch of each 1 MiB verifies its checksum and that all
  /// its ids are inside the vocabulary.
  void copy_tokens(std::int64_t begin, std::int64_t end, std::int32_t* out) const;
  /// Verifies every block.
  void verify() const;
  /// XXH3 over the stored checksums and offsets: identifies the content.
  std::uint64_t content_hash() const;

  struct Implementation;

 private:
  explicit Shard(std::shared_ptr<const Implementation> implementation)
      : implementation_(std::move(implementation)) {}
  std::shared_ptr<const Implementation> implementation_;
};

}  // namespace t2r
