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
  /// maps to no bytes. `readable`: read() will be used; keeps the file open.
  explicit MappedFile(const std::string& path, bool readable = false);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }
  /// Copies bytes [begin, begin + out.size()) without the mapping: no page of the file is added to
  /// the process's memory, and a file that has become shorter throws one sentence.
  void read(std::size_t begin, std::span<std::byte> out) const;
  /// Tells the system how bytes [begin, begin + count) will be read: soon (read ahead) or at
  /// random.
  void will_need(std::size_t begin, std::size_t count) const;
  void expect_random_access() const;

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
  int descriptor_ = -1;  // of a readable one
};

}  // namespace t2r
