#include "data/sentence_file.h"

#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "core/base/error.h"
#include "data/mapped_file.h"
#include "data/text_reader.h"

namespace t2r {
namespace {

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
    check(status == Z_OK || status == Z_STREAM_END,
          "{} is damaged: its gzip data cannot be unpacked", file.path());
    text.append(reinterpret_cast<const char*>(buffer.data()), buffer.size() - stream.avail_out);
    check(std::ssize(text) <= most_bytes, "{} unpacks to more than {} bytes", file.path(),
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
    check(whole || count > 0, "{} is truncated: its gzip data ends too early", file.path());
  }
  return text;
}

std::string clipped(const std::string& line) {
  return line.size() > 40 ? line.substr(0, 40) + "..." : line;
}

}  // namespace

std::string read_text_file(const std::string& path, std::int64_t most_bytes) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  const bool gzip = bytes.size() >= 2 && bytes[0] == std::byte{0x1f} && bytes[1] == std::byte{0x8b};
  if (gzip) return unpack(file, most_bytes);
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

std::vector<std::string> read_lines(const std::string& path) {
  const std::string text = read_text_file(path);
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    if (line.ends_with('\r')) line.pop_back();
    const bool sound = find_invalid_utf8(line) < 0 && line.find('\0') == std::string::npos;
    check_usage(sound, "{}, line {} is not valid UTF-8 text", path, lines.size() + 1);
    lines.push_back(std::move(line));
  }
  check_usage(!lines.empty(), "{} is empty: it needs one sentence a line", path);
  return lines;
}

void read_tab_separated(const std::string& path, std::vector<std::string>& sources,
                        std::vector<std::string>& targets) {
  std::size_t number = 0;
  for (const std::string& line : read_lines(path)) {
    ++number;
    const std::size_t tab = line.find('\t');
    check_usage(tab != std::string::npos && line.find('\t', tab + 1) == std::string::npos,
                "{}, line {} ('{}') has not exactly one tab: source, tab, target is wanted", path,
                number, clipped(line));
    sources.push_back(line.substr(0, tab));
    targets.push_back(line.substr(tab + 1));
  }
}

}  // namespace t2r
