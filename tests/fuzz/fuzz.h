// Fuzz targets: each reads a file of some format as a user's program would. Whatever the bytes are,
// a reader ends with a value or with one t2r::Error: anything else is a bug.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "core/base/error.h"

namespace t2r {

/// A file in memory with a path, for readers that map files.
class FuzzFile {
 public:
  FuzzFile(const std::uint8_t* data, std::size_t size) : file_(::memfd_create("t2r-fuzz", 0)) {
    check(file_ >= 0 && ::write(file_, data, size) == static_cast<ssize_t>(size),
          "cannot make a file in memory");
  }
  ~FuzzFile() { ::close(file_); }
  FuzzFile(const FuzzFile&) = delete;
  FuzzFile& operator=(const FuzzFile&) = delete;

  std::string path() const { return fmt::format("/proc/self/fd/{}", file_); }

 private:
  int file_;
};

inline std::string_view fuzz_text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace t2r

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
