// Documents of a text file, checked.
#include "data/text_reader.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "core/base/error.h"
#include "data/text_file.h"

namespace t2r {
namespace {

constexpr std::array kSplitNames{
    std::pair{DocumentSplit::blank_line, std::string_view("blank-line")},
    std::pair{DocumentSplit::line, std::string_view("line")},
    std::pair{DocumentSplit::file, std::string_view("file")}};

bool is_space(char c) {
  return c == ' ' || (c >= '\t' && c <= '\r');
}

/// Length of the well-formed UTF-8 sequence at p (RFC 3629, section 4), or 0; NUL counts as a
/// fault.
std::size_t sequence_length(const unsigned char* p, const unsigned char* end) {
  const auto tail = [&](int i, int low = 0x80, int high = 0xBF) {
    return p + i < end && p[i] >= low && p[i] <= high;
  };
  const int lead = *p;
  if (lead <= 0x7F) return 1;
  if (lead >= 0xC2 && lead <= 0xDF) return tail(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    const int low = lead == 0xE0 ? 0xA0 : 0x80, high = lead == 0xED ? 0x9F : 0xBF;
    return tail(1, low, high) && tail(2) ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    const int low = lead == 0xF0 ? 0x90 : 0x80, high = lead == 0xF4 ? 0x8F : 0xBF;
    return tail(1, low, high) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

/// Cuts text into lines and gathers them into documents.
class Splitter {
 public:
  Splitter(DocumentSplit split, const std::function<void(const Document&)>& callback)
      : split_(split), callback_(callback) {}

  void run(std::string_view text) {
    while (!text.empty()) {
      const std::size_t end = text.find('\n');
      std::string_view line = text.substr(0, end);
      text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
      const bool carriage_return = line.ends_with('\r');
      if (carriage_return) line.remove_suffix(1);
      const bool blank = std::all_of(line.begin(), line.end(), is_space);
      if (begun_ && (split_ == DocumentSplit::line || blank)) flush();
      if (!blank) append(line);
      after_carriage_return_ = carriage_return;
    }
    if (begun_) flush();
  }

 private:
  void append(std::string_view line) {
    if (!begun_) {
      view_ = line;
    } else if (!copied_ && !after_carriage_return_) {
      view_ = {view_.data(), line.data() + line.size()};  // the \n between lies in the file
    } else {
      if (!copied_) copy_ = view_;
      copied_ = true;
      copy_ += '\n';
      copy_ += line;
    }
    begun_ = true;
    ++line_ends_;
  }

  void flush() {
    callback_({copied_ ? std::string_view(copy_) : view_, line_ends_});
    begun_ = copied_ = false;
    line_ends_ = 0;
  }

  DocumentSplit split_;
  const std::function<void(const Document&)>& callback_;
  bool begun_ = false, copied_ = false, after_carriage_return_ = false;
  std::string_view view_;
  std::string copy_;
  std::int64_t line_ends_ = 0;
};

}  // namespace

DocumentSplit parse_document_split(std::string_view name) {
  for (const auto& [split, text] : kSplitNames)
    if (name == text) return split;
  fail_usage("unknown document split '{}': choose blank-line, line or file", name);
}

std::string_view name_of(DocumentSplit split) {
  for (const auto& [value, text] : kSplitNames)
    if (value == split) return text;
  return "";
}

std::int64_t find_invalid_utf8(std::string_view text) {
  const auto* const begin = reinterpret_cast<const unsigned char*>(text.data());
  const auto* const end = begin + text.size();
  const unsigned char* p = begin;
  while (p < end) {
    // Eight ASCII bytes at once.
    if (end - p >= 8) {
      std::uint64_t word;
      std::memcpy(&word, p, 8);
      if ((word & 0x8080808080808080u) == 0) {
        p += 8;
        continue;
      }
    }
    const std::size_t length = sequence_length(p, end);
    if (length == 0) return p - begin;
    p += length;
  }
  return -1;
}

void check_utf8(std::string_view text, const std::string& where) {
  const auto place = [&](std::size_t fault) {
    return fmt::format("line {} (byte offset {})",
                       1 + std::count(text.begin(), text.begin() + fault, '\n'), fault);
  };
  const std::size_t nul = text.find('\0');
  if (nul != std::string_view::npos)
    fail("{} holds a NUL byte in {}: it is binary, not text", where, place(nul));
  const std::int64_t fault = find_invalid_utf8(text);
  if (fault < 0) return;
  const auto at = static_cast<std::size_t>(fault);
  fail("{} is not valid UTF-8: byte 0x{:02X} in {}; convert it, for example with iconv -t utf-8",
       where, static_cast<unsigned char>(text[at]), place(at));
}

void for_each_document(const std::string& path, DocumentSplit split,
                       const std::function<void(const Document&)>& callback) {
  const TextFile file(path);
  std::string_view text = file.text();
  check_utf8(text, path);
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  check(!std::all_of(text.begin(), text.end(), is_space), "{} is empty: it holds no text", path);
  if (split == DocumentSplit::file) {
    const std::int64_t line_ends = std::count(text.begin(), text.end(), '\n');
    callback({text, line_ends + (text.ends_with('\n') ? 0 : 1)});
  } else {
    Splitter(split, callback).run(text);
  }
}

std::int64_t count_words(std::string_view text) {
  std::int64_t words = 0;
  bool inside = false;
  for (char c : text) {
    const bool space = is_space(c);
    words += !space && !inside;
    inside = !space;
  }
  return words;
}

}  // namespace t2r
