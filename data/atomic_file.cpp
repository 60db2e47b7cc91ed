// Files that appear complete or not at all.
#include "data/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/base/error.h"

namespace t2r {
namespace {

std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

std::string reason(int error) {
  return error == ENOSPC || error == EDQUOT
             ? "the disk is full; free some space and repeat (what was there before is unharmed)"
             : std::strerror(error);
}

void sync_path(const std::string& path, int flags) {
  const int descriptor = ::open(path.c_str(), flags | O_CLOEXEC);
  check(descriptor >= 0, "cannot open {} to sync it: {}", path, std::strerror(errno));
  const int result = ::fsync(descriptor);
  const int error = errno;
  ::close(descriptor);
  // Some network file systems cannot sync a folder and say EINVAL; the rename itself is in order.
  const bool folder_without_sync = error == EINVAL && (flags & O_DIRECTORY) != 0;
  check(result == 0 || folder_without_sync, "cannot write {}: {}", path, reason(error));
}

}  // namespace

AtomicFile::AtomicFile(std::string path)
    : path_(std::move(path)), temporary_(fmt::format("{}.tmp-{}", path_, ::getpid())) {
  descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  check(descriptor_ >= 0, "cannot create {}: {}", temporary_, reason(errno));
}

AtomicFile::~AtomicFile() {
  if (descriptor_ < 0) return;
  ::close(descriptor_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    check(written > 0, "cannot write {}: {}", path_, reason(written == 0 ? ENOSPC : errno));
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
}

void AtomicFile::commit() {
  check(descriptor_ >= 0, "{} was committed twice", path_);
  check(::fsync(descriptor_) == 0, "cannot write {}: {}", path_, reason(errno));
  check(::rename(temporary_.c_str(), path_.c_str()) == 0, "cannot rename {} to {}: {}", temporary_,
        path_, reason(errno));
  const int closed = ::close(std::exchange(descriptor_, -1));
  check(closed == 0, "cannot write {}: {}", path_, reason(errno));
  sync_folder(folder_of(path_));
}

PlacedFile::PlacedFile(std::string path, std::int64_t bytes) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  check(descriptor_ >= 0, "cannot create {}: {}", path_, reason(errno));
  // posix_fallocate would write zeros where the file system cannot reserve.
  const bool full = bytes > 0 && ::fallocate(descriptor_, 0, 0, bytes) != 0 && errno != EOPNOTSUPP;
  const int error = errno;
  if (full) ::close(std::exchange(descriptor_, -1));
  check(!full, "cannot write {} ({} bytes): {}", path_, bytes, reason(error));
}

PlacedFile::~PlacedFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void PlacedFile::write(std::int64_t place, std::span<const std::byte> bytes) {
  const std::int64_t begin = place;
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), place);
    if (written < 0 && errno == EINTR) continue;
    check(written > 0, "cannot write {}: {}", path_, reason(written == 0 ? ENOSPC : errno));
    bytes = bytes.subspan(static_cast<std::size_t>(written));
    place += written;
  }
  // A hint: a failure costs time, and errors of the disk show in finish().
  ::sync_file_range(descriptor_, begin, place - begin, SYNC_FILE_RANGE_WRITE);
}

void PlacedFile::finish() {
  check(::fsync(descriptor_) == 0, "cannot write {}: {}", path_, reason(errno));
  const int closed = ::close(std::exchange(descriptor_, -1));
  check(closed == 0, "cannot write {}: {}", path_, reason(errno));
}

void write_file_atomically(const std::string& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

void reserve_file(const std::string& path, std::int64_t bytes) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  check(descriptor >= 0, "cannot create {}: {}", path, reason(errno));
  const int error = bytes > 0 ? ::posix_fallocate(descriptor, 0, bytes) : 0;
  ::close(descriptor);
  if (error != 0) ::unlink(path.c_str());
  check(error == 0, "cannot write {} ({} bytes): {}", path, bytes, reason(error));
}

void publish_file(const std::string& temporary, const std::string& path) {
  sync_path(temporary, O_RDONLY);
  check(::rename(temporary.c_str(), path.c_str()) == 0, "cannot rename {} to {}: {}", temporary,
        path, reason(errno));
  sync_folder(folder_of(path));
}

void sync_folder(const std::string& folder) {
  sync_path(folder, O_RDONLY | O_DIRECTORY);
}

std::string read_file(const std::string& path, std::int64_t limit) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  check(descriptor >= 0, "cannot open {}: {}", path, std::strerror(errno));
  std::string content;
  int error = 0;
  bool too_long = false;
  for (;;) {
    constexpr std::size_t kPart = 1 << 16;
    const std::size_t size = content.size();
    content.resize(size + kPart);
    const ssize_t count = ::read(descriptor, content.data() + size, kPart);
    content.resize(size + static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) error = errno;
    too_long = static_cast<std::int64_t>(content.size()) > limit;
    if (count <= 0 || too_long) break;
  }
  ::close(descriptor);
  check(error == 0, "cannot read {}: {}", path, std::strerror(error));
  check(!too_long, "{} is longer than {} bytes: it is not what it should be", path, limit);
  return content;
}

void make_folders(const std::string& folder) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  check(!error, "cannot create the folder {}: {}", folder, error.message());
}

}  // namespace t2r
