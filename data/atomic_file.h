// Files that appear complete or not at all: written under a temporary name in the same folder,
// synced, renamed over the old one, and the folder synced. A failure leaves the old file alone.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace t2r {

/// A file being written. Without commit() the destructor removes it and the old file stays.
class AtomicFile {
 public:
  /// Creates `path`.tmp-<process>; the folder must exist.
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// Appends; throws when the disk is full.
  void write(std::span<const std::byte> bytes);
  void write(std::string_view text) { write(std::as_bytes(std::span(text))); }
  /// Sync, rename, sync of the folder.
  void commit();

 private:
  std::string path_, temporary_;
  int descriptor_ = -1;
};

/// A file of known size whose bytes come in any order, for large ones: what is written starts on
/// its way to the disk at once, so that finish() has little left to wait for. It has its name from
/// the beginning: for folders that are renamed when they are complete.
class PlacedFile {
 public:
  /// Creates `path`, or empties it, and reserves the space where the file system can; throws when
  /// the disk is full.
  PlacedFile(std::string path, std::int64_t bytes);
  ~PlacedFile();
  PlacedFile(const PlacedFile&) = delete;
  PlacedFile& operator=(const PlacedFile&) = delete;

  /// Throws when the disk is full.
  void write(std::int64_t place, std::span<const std::byte> bytes);
  /// Sync and close.
  void finish();

 private:
  std::string path_;
  int descriptor_ = -1;
};

/// The whole of `bytes` as the new content of `path`.
void write_file_atomically(const std::string& path, std::string_view bytes);

/// Creates `path` with room for `bytes` bytes on the disk and throws when there is not as much: for
/// libraries that fail badly on a full disk.
void reserve_file(const std::string& path, std::int64_t bytes);

/// Gives `temporary` (complete, closed) the name `path` durably: sync, rename, sync of the folder.
void publish_file(const std::string& temporary, const std::string& path);

/// Makes renames and removals inside `folder` durable.
void sync_folder(const std::string& folder);

/// The content of a file; throws when it is missing, a folder, or longer than `limit` bytes.
std::string read_file(const std::string& path, std::int64_t limit = std::int64_t{1} << 30);

/// Creates `folder` and its parents where missing.
void make_folders(const std::string& folder);

}  // namespace t2r
