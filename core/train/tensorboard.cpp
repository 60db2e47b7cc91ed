#include "core/train/tensorboard.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "core/base/error.h"
#include "core/train/machine.h"
#include "data/atomic_file.h"

namespace t2r {
namespace {

constexpr std::array<std::uint32_t, 256> crc_table() {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) ? 0x82F63B78u : 0u);
    table[i] = value;
  }
  return table;
}
constexpr auto kCrcTable = crc_table();

template <class T>
void append_little_endian(std::string& out, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>((value >> (8 * i)) & 0xFF);
}

// Protobuf's wire format: a key (field number, type), then a varint (type 0), 8 bytes (1), a length
// and that many bytes (2), or 4 bytes (5). Field numbers are those of tensorflow/core/util/
// event.proto and framework/summary.proto.
void append_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>((value & 0x7F) | 0x80);
  out += static_cast<char>(value);
}
void append_key(std::string& out, int field, int type) {
  append_varint(out, static_cast<std::uint64_t>(field << 3 | type));
}
void append_text(std::string& out, int field, std::string_view text) {
  append_key(out, field, 2);
  append_varint(out, text.size());
  out += text;
}

/// wall_time = 1, step = 2; what follows is the event's content.
std::string event_head(std::int64_t step) {
  const double now =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  std::string out;
  append_key(out, 1, 1);
  append_little_endian(out, std::bit_cast<std::uint64_t>(now));
  append_key(out, 2, 0);
  append_varint(out, static_cast<std::uint64_t>(step));
  return out;
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = 0xFFFFFFFFu;
  for (char c : bytes) crc = kCrcTable[(crc ^ static_cast<unsigned char>(c)) & 0xFF] ^ (crc >> 8);
  return crc ^ 0xFFFFFFFFu;
}

std::uint32_t masked_crc32c(std::string_view bytes) {
  return std::rotr(crc32c(bytes), 15) + 0xA282EAD8u;
}

TensorBoardWriter::TensorBoardWriter(const std::string& folder, std::int64_t resumed_step) {
  make_folders(folder);
  const auto now = std::chrono::duration_cast<std::chrono::seconds>(
                       std::chrono::system_clock::now().time_since_epoch())
                       .count();
  // A number at the end where a run is resumed within one second.
  const std::string name =
      fmt::format("{}/events.out.tfevents.{}.{}.{}", folder, now, host_name(), getpid());
  path_ = name;
  for (int i = 1; access(path_.c_str(), F_OK) == 0; ++i) path_ = fmt::format("{}.{}", name, i);
  descriptor_ = open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  check(descriptor_ >= 0, "cannot create {}: {}", path_, std::strerror(errno));
  std::string version = event_head(0);
  append_text(version, 3, "brain.Event:2");  // file_version = 3
  record(version);
  if (resumed_step > 0) {
    std::string restart = event_head(resumed_step + 1);        // steps from here on are made again
    append_text(restart, 7, std::string_view("\x08\x01", 2));  // session_log = 7: status START
    record(restart);
  }
  flush();
}

TensorBoardWriter::~TensorBoardWriter() {
  if (!buffer_.empty()) (void)!::write(descriptor_, buffer_.data(), buffer_.size());
  close(descriptor_);
}

void TensorBoardWriter::scalar(const std::string& tag, std::int64_t step, double value) {
  std::string entry;  // Summary.Value: tag = 1, simple_value = 2
  append_text(entry, 1, tag);
  append_key(entry, 2, 5);
  append_little_endian(entry, std::bit_cast<std::uint32_t>(static_cast<float>(value)));
  std::string summary;
  append_text(summary, 1, entry);
  std::string event = event_head(step);
  append_text(event, 5, summary);
  record(event);
}

void TensorBoardWriter::record(std::string_view event) {
  std::string length;
  append_little_endian(length, static_cast<std::uint64_t>(event.size()));
  buffer_ += length;
  append_little_endian(buffer_, masked_crc32c(length));
  buffer_ += event;
  append_little_endian(buffer_, masked_crc32c(event));
}

void TensorBoardWriter::flush() {
  std::size_t done = 0;
  while (done < buffer_.size()) {
    const ssize_t n = ::write(descriptor_, buffer_.data() + done, buffer_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    check(n >= 0, "cannot write {}: {}; free some space and start again", path_,
          std::strerror(errno));
    done += static_cast<std::size_t>(n);
  }
  buffer_.clear();
}

}  // namespace t2r
