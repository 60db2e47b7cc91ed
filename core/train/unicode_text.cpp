#include "core/train/unicode_text.h"

#include <array>

#include "core/train/lower_case_table.h"
#include "core/train/text_rewrite.h"

namespace t2r {
namespace {

constexpr char32_t kCapitalDottedI = 0x130;  // the only one that becomes two code points
constexpr char32_t kCombiningDot = 0x307;
constexpr std::string_view kCapitalSigma = "\xCE\xA3";

/// Unicode 3.13, Final_Sigma: a cased character before the sigma and none after it, whatever
/// Case_Ignorable characters lie between. Properties by their parts, since PCRE2 knows Cased and
/// Case_Ignorable by name only from 10.40 on.
std::string lower_final_sigmas(std::string text) {
  static const std::string ignorable =
      R"([\p{Mn}\p{Me}\p{Cf}\p{Lm}\p{Sk}'.:\x{B7}\x{387}\x{55F}\x{5F4}\x{2018}\x{2019}\x{2024})"
      R"(\x{2027}\x{FE13}\x{FE52}\x{FE55}\x{FF07}\x{FF0E}\x{FF1A}])";
  static const std::string cased =
      R"([\p{Lu}\p{Ll}\p{Lt}\x{AA}\x{BA}\x{2160}-\x{217F}\x{24B6}-\x{24E9}\x{1F130}-\x{1F149})"
      R"(\x{1F150}-\x{1F169}\x{1F170}-\x{1F189}])";
  // One a thread: a rewrite serves one at a time, and compiling it costs more than a sentence.
  static thread_local const TextRewrite final_sigma(
      cased + ignorable + R"(*+\K\x{3A3}(?!)" + ignorable + "*+" + cased + ")", "\xCF\x82");
  return final_sigma(text);
}

char32_t lower_code_point(char32_t code_point) {
  // The last range that begins at or below the code point.
  std::size_t low = 0, high = kLowerCase.size();
  while (low < high) {
    const std::size_t middle = (low + high) / 2;
    if (kLowerCase[middle].first <= code_point)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == 0) return code_point;
  const LowerCaseRange& range = kLowerCase[low - 1];
  const bool inside = code_point <= range.last && (code_point - range.first) % range.stride == 0;
  return inside ? static_cast<char32_t>(static_cast<int>(code_point) + range.distance) : code_point;
}

}  // namespace

std::u32string decode_utf8(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const std::size_t length = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    char32_t code_point = length == 1 ? lead : lead & (0x7Fu >> length);
    for (std::size_t k = 1; k < length && i + k < text.size(); ++k)
      code_point = code_point << 6 | (static_cast<unsigned char>(text[i + k]) & 0x3Fu);
    out += code_point;
    i += length;
  }
  return out;
}

void append_utf8(std::string& out, char32_t c) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | ((c >> shift) & 0x3F)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    tail(0);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    tail(6), tail(0);
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    tail(12), tail(6), tail(0);
  }
}

bool is_white_space(char32_t c) {
  if (c < 0x80) return c == ' ' || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

std::string lower_case(std::string_view text) {
  std::string sigmas(text);
  if (text.find(kCapitalSigma) != std::string_view::npos)
    sigmas = lower_final_sigmas(std::move(sigmas));
  std::string out;
  out.reserve(sigmas.size());
  for (const char32_t c : decode_utf8(sigmas)) {
    append_utf8(out, c == kCapitalDottedI ? U'i' : lower_code_point(c));
    if (c == kCapitalDottedI) append_utf8(out, kCombiningDot);
  }
  return out;
}

}  // namespace t2r
