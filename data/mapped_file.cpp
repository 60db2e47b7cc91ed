// A regular file mapped read-only into memory.
#include "data/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/base/error.h"

namespace t2r {

MappedFile::MappedFile(const std::string& path, bool readable) : path_(path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  check(descriptor >= 0, "cannot open {}: {}", path, std::strerror(errno));
  struct stat status {};
  const int stat_result = ::fstat(descriptor, &status);
  const int stat_error = errno;
  void* mapping = nullptr;
  const bool regular = stat_result == 0 && S_ISREG(status.st_mode);
  if (regular && status.st_size > 0) {
    size_ = static_cast<std::size_t>(status.st_size);
    mapping = ::mmap(nullptr, size_, PROT_READ, MAP_SHARED, descriptor, 0);
  }
  const int map_error = errno;
  if (readable && regular && mapping != MAP_FAILED)
    descriptor_ = descriptor;
  else
    ::close(descriptor);
  check(stat_result == 0, "cannot read {}: {}", path, std::strerror(stat_error));
  check(regular, "{} is not a regular file: give a file, not a folder or a pipe", path);
  check(mapping != MAP_FAILED, "cannot map {}: {}", path, std::strerror(map_error));
  data_ = static_cast<const std::byte*>(mapping);
}

MappedFile::~MappedFile() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), size_);
  if (descriptor_ >= 0) ::close(descriptor_);
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      descriptor_(std::exchange(other.descriptor_, -1)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(descriptor_, other.descriptor_);
  return *this;
}

void MappedFile::read(std::size_t begin, std::span<std::byte> out) const {
  check(descriptor_ >= 0, "{} was not opened for reading", path_);
  check(begin <= size_ && out.size() <= size_ - begin, "bytes [{}, {}) of {}, which has {}", begin,
        begin + out.size(), path_, size_);
  while (!out.empty()) {
    const ssize_t got = ::pread(descriptor_, out.data(), out.size(), static_cast<off_t>(begin));
    if (got < 0 && errno == EINTR) continue;
    check(got >= 0, "cannot read {}: {}", path_, std::strerror(errno));
    check(got > 0, "{} has become shorter while it was read: it is being written", path_);
    begin += static_cast<std::size_t>(got);
    out = out.subspan(static_cast<std::size_t>(got));
  }
}

void MappedFile::will_need(std::size_t begin, std::size_t count) const {
  if (begin >= size_) return;
  constexpr std::size_t kPage = 4096;
  const std::size_t first = begin / kPage * kPage;
  // Advice only: a failure costs time, not correctness.
  ::madvise(const_cast<std::byte*>(data_) + first, std::min(count, size_ - begin) + (begin - first),
            MADV_WILLNEED);
}

void MappedFile::expect_random_access() const {
  if (data_) ::madvise(const_cast<std::byte*>(data_), size_, MADV_RANDOM);
}

}  // namespace t2r
