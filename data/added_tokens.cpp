#include "data/added_tokens.h"

#include <utf8proc.h>

#include <algorithm>

namespace t2r {
namespace {

std::int32_t code_point_at(std::string_view text) {
  utf8proc_int32_t point = -1;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &point);
  return point;
}

/// Where the last character of a text that is not empty begins.
std::size_t last_character(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (text[at] & 0xC0) == 0x80) --at;
  return at;
}

bool is_space(std::int32_t c) {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

/// \w of Unicode's Technical Standard 18: alphabetic, marks, decimal digits, connectors, joiners.
bool is_word(std::int32_t c) {
  if (c == 0x200C || c == 0x200D) return true;
  if ((c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
      (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189))
    return true;  // letters in circles and squares are symbols, but alphabetic
  switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

std::size_t spaces_at_end(std::string_view text) {
  std::size_t end = text.size();
  while (end > 0) {
    const std::size_t at = last_character(text.substr(0, end));
    if (!is_space(code_point_at(text.substr(at, end - at)))) break;
    end = at;
  }
  return text.size() - end;
}

std::size_t spaces_at_begin(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size() && is_space(code_point_at(text.substr(at)))) {
    ++at;
    while (at < text.size() && (text[at] & 0xC0) == 0x80) ++at;
  }
  return at;
}

}  // namespace

void AddedTokens::add(const AddedToken& token, std::string_view content) {
  std::size_t node = 0;
  for (char c : content) {
    const auto byte = static_cast<unsigned char>(c);
    const auto [place, fresh] = nodes_[node].next.emplace(byte, nodes_.size());
    node = place->second;
    if (fresh) nodes_.emplace_back();
  }
  nodes_[node].token = std::ssize(tokens_);
  tokens_.push_back(token);
  begins_[static_cast<unsigned char>(content[0])] = true;
}

std::pair<std::int64_t, std::size_t> AddedTokens::longest_at(std::string_view text) const {
  std::pair<std::int64_t, std::size_t> best{-1, 0};
  std::size_t node = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto next = nodes_[node].next.find(static_cast<unsigned char>(text[i]));
    if (next == nodes_[node].next.end()) break;
    node = next->second;
    if (nodes_[node].token >= 0) best = {nodes_[node].token, i + 1};
  }
  return best;
}

void AddedTokens::split(std::string_view text, std::vector<Part>& parts) const {
  std::size_t done = 0;
  for (std::size_t at = 0; at < text.size();) {
    if (!begins_[static_cast<unsigned char>(text[at])]) {
      ++at;
      continue;
    }
    const auto [number, length] = longest_at(text.substr(at));
    if (number < 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<std::size_t>(number)];
    std::size_t begin = at, end = at + length;
    at = end;
    const std::string_view before = text.substr(0, begin), after = text.substr(end);
    if (token.single_word &&
        ((!before.empty() && is_word(code_point_at(before.substr(last_character(before))))) ||
         (!after.empty() && is_word(code_point_at(after)))))
      continue;
    if (token.lstrip) begin = std::max(begin - spaces_at_end(before), std::min(done, begin));
    if (token.rstrip) end += spaces_at_begin(after);
    if (done < begin) parts.push_back({-1, text.substr(done, begin - done)});
    parts.push_back({token.id, {}});
    done = end;
  }
  if (done < text.size()) parts.push_back({-1, text.substr(done)});
}

}  // namespace t2r
