// TensorBoard event files, written by hand: TFRecord framing (length and data with masked CRC-32C)
// around Event protobufs with scalar summaries.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace t2r {

class TensorBoardWriter {
 public:
  /// Creates FOLDER/events.out.tfevents.<time>.<host>.<process>. With `resumed_step` > 0
  /// TensorBoard is told to forget what older files say about later steps.
  TensorBoardWriter(const std::string& folder, std::int64_t resumed_step);
  ~TensorBoardWriter();
  TensorBoardWriter(const TensorBoardWriter&) = delete;
  TensorBoardWriter& operator=(const TensorBoardWriter&) = delete;

  void scalar(const std::string& tag, std::int64_t step, double value);
  void flush();
  const std::string& path() const { return path_; }

 private:
  void record(std::string_view event);

  std::string path_;
  int descriptor_ = -1;
  std::string buffer_;
};

/// CRC-32C (Castagnoli) of `bytes`, and TFRecord's mask over it.
std::uint32_t crc32c(std::string_view bytes);
std::uint32_t masked_crc32c(std::string_view bytes);

}  // namespace t2r
