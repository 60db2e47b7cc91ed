// Logits for other programs to compare with: one float32 array /logits/N (length x vocabulary) a
// sequence in an HDF5 file that appears complete or not at all.
#pragma once

#include <cstdint>
#include <string>

#include "core/base/tensor.h"

namespace t2r {

class LogitsFile {
 public:
  /// Creates `path`.tmp; commit() gives it its name, the destructor removes what was not committed.
  explicit LogitsFile(std::string path);
  ~LogitsFile();
  LogitsFile(const LogitsFile&) = delete;
  LogitsFile& operator=(const LogitsFile&) = delete;

  /// `logits` (rows, vocabulary), fp32 or fp64, becomes /logits/`sequence`.
  void write(std::int64_t sequence, const Tensor& logits);
  void commit();

 private:
  std::string path_, temporary_;
  std::int64_t file_ = -1, group_ = -1;  // HDF5 handles
};

}  // namespace t2r
