// A text file that the user names: plain, or packed with gzip.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "data/mapped_file.h"

namespace t2r {

/// A plain file is mapped, never loaded. One that begins as gzip does (RFC 1952) is unpacked into
/// memory; several members in a row are one text. A usage error, one sentence with the path, when
/// it is missing, no regular file, truncated or damaged, or unpacks to more than `most_bytes`.
class TextFile {
 public:
  explicit TextFile(const std::string& path, std::int64_t most_bytes = std::int64_t{1} << 36);
  TextFile(const TextFile&) = delete;
  TextFile& operator=(const TextFile&) = delete;

  /// Valid as long as this is.
  std::string_view text() const;

 private:
  MappedFile file_;
  std::string unpacked_;
  bool gzip_ = false;
};

}  // namespace t2r
