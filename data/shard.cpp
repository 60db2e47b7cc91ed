// Reads a shard: HDF5 says where the arrays lie, the mapping gives the bytes.
#include "data/shard.h"

#include <atomic>
#include <bit>
#include <cstring>

#include "core/base/error.h"
#include "data/hdf5_guard.h"
#include "data/mapped_file.h"
#include "data/shard_layout.h"

namespace t2r {

struct Shard::Implementation {
  MappedFile file;
  std::int64_t vocab_size = 0;
  std::size_t token_bytes = 2;
  std::span<const std::byte> tokens, offsets, checksums;
  mutable std::vector<std::atomic<bool>> verified;  // blocks of /tokens

  std::int64_t token_count() const {
    return static_cast<std::int64_t>(tokens.size() / token_bytes);
  }
  std::int64_t document_count() const { return static_cast<std::int64_t>(offsets.size() / 8) - 1; }
  // The file decides where an array begins, so words are read without trust in their alignment.
  std::uint64_t word(std::span<const std::byte> array, std::int64_t i) const {
    std::uint64_t value;
    std::memcpy(&value, array.data() + 8 * i, 8);
    return value;
  }
  std::int64_t offset(std::int64_t document) const {
    return static_cast<std::int64_t>(word(offsets, document));
  }

  void read_structure(const ShardIdentity& expected, const std::string& group);
  void check_offsets() const;
  void verify_block(std::size_t block) const;
  void verify_range(std::size_t begin, std::size_t end) const;
};

namespace {

/// Reads structures of a file that may be damaged or made by somebody else.
struct StructureReader {
  const MappedFile& file;

  hid_t good(hid_t id, const char* what) const {
    check(id >= 0, "{} is damaged or no shard of t2r: it has no {}; prepare the dataset again",
          file.path(), what);
    return id;
  }

  std::uint64_t number(hid_t parent, const char* name) const {
    const Hdf5Id attribute(good(H5Aopen(parent, name, H5P_DEFAULT), name), H5Aclose);
    const Hdf5Id type(good(H5Aget_type(attribute), name), H5Tclose);
    const Hdf5Id space(good(H5Aget_space(attribute), name), H5Sclose);
    std::uint64_t value = 0;
    check(H5Tget_class(type) == H5T_INTEGER && H5Sget_simple_extent_npoints(space) == 1 &&
              H5Aread(attribute, H5T_NATIVE_UINT64, &value) >= 0,
          "{} is damaged: its attribute {} is not a number", file.path(), name);
    return value;
  }

  std::string text(hid_t parent, const char* name) const {
    const Hdf5Id attribute(good(H5Aopen(parent, name, H5P_DEFAULT), name), H5Aclose);
    const Hdf5Id type(good(H5Aget_type(attribute), name), H5Tclose);
    const Hdf5Id space(good(H5Aget_space(attribute), name), H5Sclose);
    constexpr std::size_t kLimit = 1024;
    const bool readable = H5Tget_class(type) == H5T_STRING && H5Tis_variable_str(type) == 0 &&
                          H5Tget_size(type) <= kLimit && H5Sget_simple_extent_npoints(space) == 1;
    std::string value(readable ? H5Tget_size(type) : 0, '\0');
    check(readable && H5Aread(attribute, type, value.data()) >= 0,
          "{} is damaged: its attribute {} is not a short text", file.path(), name);
    value.resize(std::strlen(value.c_str()));
    return value;
  }

  /// Where a one-dimensional array of unsigned little-endian integers lies in the mapping.
  std::span<const std::byte> array(hid_t parent, const char* name, hid_t expected_type) const {
    const Hdf5Id dataset(good(H5Dopen2(parent, name, H5P_DEFAULT), name), H5Dclose);
    const Hdf5Id type(good(H5Dget_type(dataset), name), H5Tclose);
    const Hdf5Id space(good(H5Dget_space(dataset), name), H5Sclose);
    const Hdf5Id properties(good(H5Dget_create_plist(dataset), name), H5Pclose);
    hsize_t count = 0;
    check(H5Tequal(type, expected_type) > 0 && H5Sget_simple_extent_ndims(space) == 1 &&
              H5Sget_simple_extent_dims(space, &count, nullptr) == 1 &&
              H5Pget_layout(properties) == H5D_CONTIGUOUS && H5Pget_external_count(properties) == 0,
          "{} is damaged or no shard of t2r: /{} is not a contiguous array of the right type",
          file.path(), name);
    if (count == 0) return {};
    const haddr_t begin = H5Dget_offset(dataset);
    const std::size_t size = H5Tget_size(type), total = file.bytes().size();
    check(begin != HADDR_UNDEF && begin <= total && count <= (total - begin) / size,
          "{} is truncated or damaged: /{} does not lie inside the file", file.path(), name);
    return file.bytes().subspan(begin, count * size);
  }
};

}  // namespace

void Shard::Implementation::read_structure(const ShardIdentity& expected,
                                           const std::string& group) {
  const Hdf5Guard guard;
  const Hdf5Id access(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  // Shards never change, and many cluster file systems refuse locks.
  H5Pset_file_locking(access, false, true);
  const Hdf5Id root(H5Fopen(file.path().c_str(), H5F_ACC_RDONLY, access), H5Fclose);
  check(root >= 0, "{} is truncated, damaged or no HDF5 file ({} bytes); prepare the dataset again",
        file.path(), file.bytes().size());
  const StructureReader reader{file};
  const Hdf5Id hdf5(
      reader.good(H5Gopen2(root, ("/" + group).c_str(), H5P_DEFAULT), ("group /" + group).c_str()),
      H5Gclose);
  const std::uint64_t version = reader.number(hdf5, "format_version");
  check(version == kShardFormatVersion,
        "{} has the format version {}, this t2r reads version {}: prepare the dataset again",
        file.path(), version, kShardFormatVersion);
  const std::uint64_t vocabulary = reader.number(hdf5, "vocab_size");
  check(vocabulary == static_cast<std::uint64_t>(expected.vocab_size),
        "{} was made for a vocabulary of {} entries, expected {}", file.path(), vocabulary,
        expected.vocab_size);
  const std::string tokenizer = reader.text(hdf5, "tokenizer_sha256");
  check(tokenizer == expected.tokenizer_sha256,
        "{} was made with another tokenizer (sha256 {}, expected {})", file.path(), tokenizer,
        expected.tokenizer_sha256);
  vocab_size = expected.vocab_size;
  const bool wide = vocab_size > kNarrowVocabulary;
  token_bytes = wide ? 4 : 2;
  tokens = reader.array(hdf5, "tokens", wide ? H5T_STD_U32LE : H5T_STD_U16LE);
  offsets = reader.array(hdf5, "offsets", H5T_STD_U64LE);
  checksums = reader.array(hdf5, "checksums", H5T_STD_U64LE);
  const std::uint64_t documents = reader.number(hdf5, "documents");
  check(!offsets.empty() && offsets.size() / 8 - 1 == documents,
        "{} is damaged: it has {} document offsets for {} documents", file.path(),
        offsets.size() / 8, documents);
  check(checksums.size() / 8 == block_count(tokens.size()),
        "{} is damaged: it has {} checksums for {} bytes of tokens", file.path(),
        checksums.size() / 8, tokens.size());
  // Other writers may leave it out; the order of the offsets is checked in any case.
  if (H5Aexists(hdf5, "offsets_checksum") > 0)
    check(reader.number(hdf5, "offsets_checksum") == checksum(offsets),
          "{} is damaged: the checksum of its document offsets does not match; prepare the dataset "
          "again or restore the file",
          file.path());
}

void Shard::Implementation::check_offsets() const {
  bool sound = offset(0) == 0 && offset(document_count()) == token_count();
  for (std::int64_t d = 0; d < document_count() && sound; ++d)
    sound = word(offsets, d) < word(offsets, d + 1);
  check(sound, "{} is damaged: its document offsets do not rise from 0 to {} tokens", file.path(),
        token_count());
}

void Shard::Implementation::verify_block(std::size_t block) const {
  if (verified[block].load(std::memory_order_acquire)) return;
  const auto bytes = block_of(tokens, block);
  file.will_need(static_cast<std::size_t>(bytes.data() - file.bytes().data()), bytes.size());
  check(checksum(bytes) == word(checksums, static_cast<std::int64_t>(block)),
        "{} is damaged: the checksum of tokens {} to {} does not match; prepare the dataset again "
        "or restore the file",
        file.path(), block * kBlockBytes / token_bytes,
        (block * kBlockBytes + bytes.size()) / token_bytes - 1);
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < bytes.size(); i += token_bytes) {
    std::uint32_t token = 0;
    std::memcpy(&token, bytes.data() + i, token_bytes);
    largest = std::max(largest, token);
  }
  check(largest < vocab_size, "{} holds the token id {}, outside its vocabulary of {}", file.path(),
        largest, vocab_size);
  verified[block].store(true, std::memory_order_release);
}

void Shard::Implementation::verify_range(std::size_t begin, std::size_t end) const {
  if (begin == end) return;
  for (std::size_t block = begin / kBlockBytes; block <= (end - 1) / kBlockBytes; ++block)
    verify_block(block);
}

Shard Shard::open(const std::string& path, const ShardIdentity& expected,
                  const std::string& group) {
  auto implementation = std::make_shared<Implementation>();
  implementation->file = MappedFile(path);
  implementation->read_structure(expected, group);
  implementation->check_offsets();
  implementation->verified =
      std::vector<std::atomic<bool>>(block_count(implementation->tokens.size()));
  implementation->file.expect_random_access();
  return Shard(std::move(implementation));
}

std::int64_t Shard::tokens() const {
  return implementation_->token_count();
}
std::int64_t Shard::documents() const {
  return implementation_->document_count();
}

std::int64_t Shard::document_begin(std::int64_t document) const {
  check(document >= 0 && document <= documents(), "document {} of {} in {}", document, documents(),
        implementation_->file.path());
  return implementation_->offset(document);
}

std::int64_t Shard::document_of(std::int64_t token) const {
  check(token >= 0 && token < tokens(), "token {} of {} in {}", token, tokens(),
        implementation_->file.path());
  std::int64_t low = 0, high = documents();  // begin(low) <= token < begin(high)
  while (high - low > 1) {
    const std::int64_t middle = low + (high - low) / 2;
    (implementation_->offset(middle) <= token ? low : high) = middle;
  }
  return low;
}

std::int32_t Shard::token_at(std::int64_t token) const {
  std::int32_t value = 0;
  copy_tokens(token, token + 1, &value);
  return value;
}

void Shard::copy_tokens(std::int64_t begin, std::int64_t end, std::int32_t* out) const {
  const Implementation& self = *implementation_;
  check(begin >= 0 && begin <= end && end <= tokens(), "tokens [{}, {}) of {} in {}", begin, end,
        tokens(), self.file.path());
  const std::size_t first = static_cast<std::size_t>(begin) * self.token_bytes;
  const std::size_t bytes = static_cast<std::size_t>(end - begin) * self.token_bytes;
  self.verify_range(first, first + bytes);
  if (self.token_bytes == 4) {
    if (bytes > 0) std::memcpy(out, self.tokens.data() + first, bytes);
    return;
  }
  for (std::int64_t i = 0; i < end - begin; ++i) {
    std::uint16_t token;
    std::memcpy(&token, self.tokens.data() + first + 2 * static_cast<std::size_t>(i), 2);
    out[i] = token;
  }
}

void Shard::verify() const {
  implementation_->verify_range(0, implementation_->tokens.size());
}

std::uint64_t Shard::content_hash() const {
  const std::uint64_t parts[] = {checksum(implementation_->checksums),
                                 checksum(implementation_->offsets)};
  return checksum(std::as_bytes(std::span(parts)));
}

}  // namespace t2r
