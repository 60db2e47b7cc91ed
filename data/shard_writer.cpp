// Writes a shard through the HDF5 C library.
#include <unistd.h>

#include <filesystem>

#include "core/base/error.h"
#include "data/atomic_file.h"
#include "data/hdf5_guard.h"
#include "data/shard.h"
#include "data/shard_layout.h"

namespace t2r {
namespace {

/// The file under its temporary name goes when writing fails.
struct RemoveOnFailure {
  std::string path;
  bool armed = true;
  ~RemoveOnFailure() {
    if (armed) ::unlink(path.c_str());
  }
};

struct Writer {
  const std::string& path;

  [[noreturn]] void failed() const {
    fail("cannot write {}: HDF5 reports a write error (is the disk full?)", path);
  }
  hid_t good(hid_t id) const {
    if (id < 0) failed();
    return id;
  }
  void done(herr_t status) const {
    if (status < 0) failed();
  }

  void write_dataset(hid_t file, const char* name, hid_t file_type, hid_t memory_type,
                     const void* data, std::size_t count) const {
    const hsize_t size = count;
    const Hdf5Id space(good(H5Screate_simple(1, &size, nullptr)), H5Sclose);
    const Hdf5Id properties(good(H5Pcreate(H5P_DATASET_CREATE)), H5Pclose);
    done(H5Pset_layout(properties, H5D_CONTIGUOUS));
    done(H5Pset_obj_track_times(properties, false));  // the same bytes every time
    const Hdf5Id dataset(
        good(H5Dcreate2(file, name, file_type, space, H5P_DEFAULT, properties, H5P_DEFAULT)),
        H5Dclose);
    if (count > 0) done(H5Dwrite(dataset, memory_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data));
  }

  void write_attribute(hid_t object, const char* name, std::uint64_t value) const {
    const Hdf5Id space(good(H5Screate(H5S_SCALAR)), H5Sclose);
    const Hdf5Id attribute(
        good(H5Acreate2(object, name, H5T_STD_U64LE, space, H5P_DEFAULT, H5P_DEFAULT)), H5Aclose);
    done(H5Awrite(attribute, H5T_NATIVE_UINT64, &value));
  }

  void write_attribute(hid_t object, const char* name, const std::string& text) const {
    const Hdf5Id space(good(H5Screate(H5S_SCALAR)), H5Sclose);
    const Hdf5Id type(good(H5Tcopy(H5T_C_S1)), H5Tclose);
    done(H5Tset_size(type, std::max<std::size_t>(text.size(), 1)));
    done(H5Tset_strpad(type, H5T_STR_NULLPAD));
    const Hdf5Id attribute(good(H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT)),
                           H5Aclose);
    done(H5Awrite(attribute, type, text.empty() ? "" : text.data()));
  }
};

}  // namespace

ShardWriter::ShardWriter(std::string path, ShardIdentity identity)
    : path_(std::move(path)),
      identity_(std::move(identity)),
      wide_(identity_.vocab_size > kNarrowVocabulary) {
  check(identity_.vocab_size > 0 && identity_.vocab_size <= kMaxVocabulary,
        "a shard for a vocabulary of {} entries: from 1 to {} are possible", identity_.vocab_size,
        kMaxVocabulary);
}

void ShardWriter::add_document(std::span<const std::int32_t> tokens) {
  check(!tokens.empty(), "a document without tokens cannot be stored in {}", path_);
  for (std::int32_t token : tokens)
    check(token >= 0 && token < identity_.vocab_size,
          "the token id {} lies outside the vocabulary of {}", token, identity_.vocab_size);
  if (wide_)
    wide_tokens_.insert(wide_tokens_.end(), tokens.begin(), tokens.end());
  else
    narrow_tokens_.insert(narrow_tokens_.end(), tokens.begin(), tokens.end());
  offsets_.push_back(offsets_.back() + tokens.size());
}

std::span<const std::byte> ShardWriter::token_bytes() const {
  return wide_ ? std::as_bytes(std::span(wide_tokens_)) : std::as_bytes(std::span(narrow_tokens_));
}

std::vector<std::uint64_t> ShardWriter::checksums() const {
  std::vector<std::uint64_t> sums;
  for (std::size_t block = 0; block < block_count(token_bytes().size()); ++block)
    sums.push_back(block_checksum(token_bytes(), block));
  return sums;
}

/// A file under its temporary name: `content_bytes` are reserved for it, publish() names it.
struct ShardWriter::File {
  std::string temporary;
  RemoveOnFailure remove;
  Hdf5Guard guard;
  Writer writer;
  Hdf5Id id;

  File(const std::string& path, std::size_t content_bytes)
      : temporary(reserved(path, content_bytes)),
        remove{temporary},
        writer{path},
        id(create(), H5Fclose) {}

  static std::string reserved(const std::string& path, std::size_t content_bytes) {
    constexpr std::size_t kStructureBytes = 1 << 16;
    std::string name = fmt::format("{}.tmp-{}", path, ::getpid());
    reserve_file(name, static_cast<std::int64_t>(content_bytes + kStructureBytes));
    return name;
  }
  hid_t create() const {
    // The newest layout of HDF5 1.8 has checksums over its own structures and no time stamps.
    const Hdf5Id access(writer.good(H5Pcreate(H5P_FILE_ACCESS)), H5Pclose);
    writer.done(H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18));
    const Hdf5Id creation(writer.good(H5Pcreate(H5P_FILE_CREATE)), H5Pclose);
    writer.done(H5Pset_obj_track_times(creation, false));
    return writer.good(H5Fcreate(temporary.c_str(), H5F_ACC_TRUNC, creation, access));
  }
  void publish() {
    writer.done(H5Fflush(id, H5F_SCOPE_GLOBAL));
    writer.done(id.close());
    publish_file(temporary, writer.path);
    remove.armed = false;
  }
};

void ShardWriter::write(const File& file, const char* group) const {
  const Writer& writer = file.writer;
  const Hdf5Id creation(writer.good(H5Pcreate(H5P_GROUP_CREATE)), H5Pclose);
  writer.done(H5Pset_obj_track_times(creation, false));
  const Hdf5Id place(
      writer.good(*group ? H5Gcreate2(file.id, group, H5P_DEFAULT, creation, H5P_DEFAULT)
                         : H5Gopen2(file.id, "/", H5P_DEFAULT)),
      H5Gclose);
  writer.write_attribute(place, "format_version", kShardFormatVersion);
  writer.write_attribute(place, "vocab_size", static_cast<std::uint64_t>(identity_.vocab_size));
  writer.write_attribute(place, "tokenizer_sha256", identity_.tokenizer_sha256);
  writer.write_attribute(place, "documents", offsets_.size() - 1);
  writer.write_attribute(place, "offsets_checksum", checksum(std::as_bytes(std::span(offsets_))));
  const auto bytes = token_bytes();
  const auto sums = checksums();
  writer.write_dataset(place, "tokens", wide_ ? H5T_STD_U32LE : H5T_STD_U16LE,
                       wide_ ? H5T_NATIVE_UINT32 : H5T_NATIVE_UINT16, bytes.data(),
                       bytes.size() / (wide_ ? 4 : 2));
  writer.write_dataset(place, "offsets", H5T_STD_U64LE, H5T_NATIVE_UINT64, offsets_.data(),
                       offsets_.size());
  writer.write_dataset(place, "checksums", H5T_STD_U64LE, H5T_NATIVE_UINT64, sums.data(),
                       sums.size());
}

void ShardWriter::finish() {
  File file(path_, token_bytes().size() + 8 * offsets_.size() + 8 * checksums().size());
  write(file, "");
  file.publish();
}

void ShardWriter::finish_pairs(const ShardWriter& source, const ShardWriter& target) {
  check(source.path_ == target.path_ && source.documents() == target.documents(),
        "{} sources of {} and {} targets of {} are no sentence pairs", source.documents(),
        source.path_, target.documents(), target.path_);
  std::size_t bytes = 0;
  for (const ShardWriter* side : {&source, &target})
    bytes += side->token_bytes().size() + 8 * side->offsets_.size() + 8 * side->checksums().size();
  File file(source.path_, bytes);
  source.write(file, "source");
  target.write(file, "target");
  file.publish();
}

}  // namespace t2r
