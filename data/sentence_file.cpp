#include "data/sentence_file.h"

#include <algorithm>

#include "core/base/error.h"
#include "data/text_file.h"
#include "data/text_reader.h"

namespace t2r {
namespace {

std::string clipped(const std::string& line) {
  return line.size() > 40 ? line.substr(0, 40) + "..." : line;
}

}  // namespace

std::vector<std::string> read_lines(const std::string& path) {
  const TextFile file(path);
  std::string_view text = file.text();
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string line(text.substr(begin, end - begin));
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
