// A regular file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace t2r {

class MappedFile {
 public:
  MappedFile() = default;
  /// Throws one sentence when the file is missing, unreadable or not a regular file. An empty file
  /// maps to no bytes.
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  /// Tells the system how bytes [begin, begin + count) will be read: soon (read ahead) or at
  /// random.
  void will_need(std::size_t begin, std::size_t count) const;
  void expect_random_access() const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace t2r
