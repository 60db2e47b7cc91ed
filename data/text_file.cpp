// Text files: mapped where plain, unpacked where gzip.
#include "data/text_file.h"

#include <zlib.h>

#include <algorithm>
#include <vector>

#include "core/base/error.h"

namespace t2r {
namespace {

/// A file that cannot be opened is a wrong name on the command line.
MappedFile open_named(const std::string& path) {
  try {
    return MappedFile(path);
  } catch (const Error& error) {
    fail_usage("{}", error.what());
  }
}

/// Unpacks gzip members one after the other.
std::string unpack(const MappedFile& file, std::int64_t most_bytes) {
  const auto bytes = file.bytes();
  std::string text;
  z_stream stream{};
  constexpr int kGzip = 15 + 16;
  check(inflateInit2(&stream, kGzip) == Z_OK, "cannot start to unpack {}", file.path());
  struct End {
    z_stream* stream;
    ~End() { inflateEnd(stream); }
  } const end{&stream};
  std::vector<unsigned char> buffer(1 << 20);
  std::size_t read = 0;
  bool whole = false;  // at the end of a member
  int status = Z_OK;
  while (read < bytes.size() || stream.avail_in > 0) {
    if (stream.avail_in == 0) {
      const std::size_t count = std::min<std::size_t>(bytes.size() - read, std::size_t{1} << 30);
      stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(bytes.data() + read));
      stream.avail_in = static_cast<uInt>(count);
      read += count;
    }
    if (whole) check(inflateReset(&stream) == Z_OK, "cannot unpack {}", file.path());
    stream.next_out = buffer.data();
    stream.avail_out = static_cast<uInt>(buffer.size());
    status = inflate(&stream, Z_NO_FLUSH);
    check_usage(status == Z_OK || status == Z_STREAM_END,
                "{} is damaged: its gzip data cannot be unpacked", file.path());
    text.append(reinterpret_cast<const char*>(buffer.data()), buffer.size() - stream.avail_out);
    check_usage(std::ssize(text) <= most_bytes, "{} unpacks to more than {} bytes", file.path(),
                most_bytes);
    whole = status == Z_STREAM_END;
  }
  while (!whole) {  // what is still inside
    stream.next_out = buffer.data();
    stream.avail_out = static_cast<uInt>(buffer.size());
    status = inflate(&stream, Z_FINISH);
    const std::size_t count = buffer.size() - stream.avail_out;
    text.append(reinterpret_cast<const char*>(buffer.data()), count);
    whole = status == Z_STREAM_END;
    check_usage(whole || count > 0, "{} is truncated: its gzip data ends too early", file.path());
  }
  return text;
}

}  // namespace

TextFile::TextFile(const std::string& path, std::int64_t most_bytes) : file_(open_named(path)) {
  const auto bytes = file_.bytes();
  gzip_ = bytes.size() >= 2 && bytes[0] == std::byte{0x1f} && bytes[1] == std::byte{0x8b};
  if (gzip_) unpacked_ = unpack(file_, most_bytes);
}

std::string_view TextFile::text() const {
  if (gzip_) return unpacked_;
  const auto bytes = file_.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace t2r
