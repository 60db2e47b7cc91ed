#include "core/train/score_tokenizers.h"

#include <array>
#include <utility>

#include "core/base/error.h"
#include "core/train/unicode_text.h"

namespace t2r {
namespace {

constexpr std::array kNames{std::pair{ScoreTokenization::mteval13a, std::string_view("13a")},
                            std::pair{ScoreTokenization::chinese, std::string_view("zh")},
                            std::pair{ScoreTokenization::international, std::string_view("intl")},
                            std::pair{ScoreTokenization::characters, std::string_view("char")},
                            std::pair{ScoreTokenization::none, std::string_view("none")}};

/// What counts as Chinese. The ninth and the last range are as sacrebleu has them in effect: its
/// escapes of five digits (U+20000 to U+2A6D6, U+2F800 to U+2FA1D) are read as four digits and a
/// letter, so that dashes, quotes, arrows and mathematical signs stand alone, and rare characters
/// of the supplementary plane do not. Scores are comparable only with that kept.
constexpr std::pair<char32_t, char32_t> kChinese[] = {
    {0x3400, 0x4DB5},                                      // ideographs, extension A
    {0x4E00, 0x9FA5}, {0x9FA6, 0x9FBB},                    // ideographs
    {0xF900, 0xFA2D}, {0xFA30, 0xFA6A}, {0xFA70, 0xFAD9},  // compatibility forms
    {0xFF00, 0xFFEF},                                      // wide, half-wide forms
    {0x3000, 0x303F},                                      // punctuation
    {0x2001, 0x2A6D},                                      // see above
    {0x2E80, 0x2EFF}, {0x2F00, 0x2FDF}, {0x2FF0, 0x2FFF}, {0x31C0, 0x31EF},  // radicals, strokes
    {0x3100, 0x312F}, {0x31A0, 0x31BF},                                      // phonetic symbols
    {0x3200, 0x32FF}, {0x3300, 0x33FF},                                      // enclosed, squared
    {0xFE10, 0xFE1F}, {0xFE30, 0xFE4F},                                      // vertical forms
    {0x2F81, 0x2FA1},                                                        // see above
};

bool is_chinese(char32_t c) {
  for (const auto& [first, last] : kChinese)
    if (first <= c && c <= last) return true;
  return false;
}

/// mteval-v13a's rules for European languages, without and with the one about hyphens.
std::vector<TextRewrite> western_rules(bool hyphens) {
  std::vector<TextRewrite> rules{
      // Every ASCII sign but apostrophe, comma, hyphen and period.
      {R"(([\x20-\x26\x28-\x2B\x2F\x3A-\x40\x5B-\x60\x7B-\x7E]))", " $1 "},
      {R"(([^0-9])([.,]))", "$1 $2 "},
      {R"(([.,])([^0-9]))", " $1 $2"}};
  if (hyphens) rules.push_back({R"(([0-9])(-))", "$1 $2 "});
  return rules;
}

/// mteval-v14's rules: punctuation that no digit precedes or follows, and symbols, stand alone.
std::vector<TextRewrite> international_rules() {
  return {{R"((\P{N})(\p{P}))", "$1 $2 "}, {R"((\p{P})(\P{N}))", " $1 $2"}, {R"((\p{S}))", " $1 "}};
}

std::vector<TextRewrite> rules_of(ScoreTokenization tokenization) {
  switch (tokenization) {
    case ScoreTokenization::mteval13a:
    case ScoreTokenization::chinese:
      return western_rules(true);
    case ScoreTokenization::international:
      return international_rules();
    default:
      return {};
  }
}

std::string apply(const std::vector<TextRewrite>& rules, std::string text) {
  for (const TextRewrite& rule : rules) text = rule(text);
  return text;
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
}

/// What mteval-v13a does before its rules: its own marks, line ends and entities undone.
std::string mteval_text(std::string text) {
  replace_all(text, "<skipped>", "");
  replace_all(text, "-\n", "");
  replace_all(text, "\n", " ");
  replace_all(text, "&quot;", "\"");
  replace_all(text, "&amp;", "&");
  replace_all(text, "&lt;", "<");
  replace_all(text, "&gt;", ">");
  return " " + text + " ";
}

std::string chinese_apart(std::u32string_view text) {
  std::string out;
  for (const char32_t c : text) {
    const bool chinese = is_chinese(c);
    if (chinese) out += ' ';
    append_utf8(out, c);
    if (chinese) out += ' ';
  }
  return out;
}

std::vector<std::string> characters_of(std::u32string_view text) {
  std::vector<std::string> out;
  for (const char32_t c : text)
    if (!is_white_space(c)) append_utf8(out.emplace_back(), c);
  return out;
}

std::vector<std::string> split_at_white_space(std::u32string_view text) {
  std::vector<std::string> out;
  bool inside = false;
  for (const char32_t c : text) {
    const bool space = is_white_space(c);
    if (!space && !inside) out.emplace_back();
    if (!space) append_utf8(out.back(), c);
    inside = !space;
  }
  return out;
}

std::vector<std::string> split_at_white_space(const std::string& text) {
  return split_at_white_space(decode_utf8(text));
}

/// Without white space at its end, and with `both` at its start.
std::u32string trimmed(std::string_view sentence, bool both) {
  std::u32string text = decode_utf8(sentence);
  while (!text.empty() && is_white_space(text.back())) text.pop_back();
  std::size_t begin = 0;
  while (both && begin < text.size() && is_white_space(text[begin])) ++begin;
  return text.substr(begin);
}

std::string encode_utf8(std::u32string_view text) {
  std::string out;
  for (const char32_t c : text) append_utf8(out, c);
  return out;
}

}  // namespace

ScoreTokenization parse_score_tokenization(std::string_view name) {
  for (const auto& [tokenization, text] : kNames)
    if (name == text) return tokenization;
  fail_usage("unknown tokenization '{}': choose 13a, zh, intl, char or none", name);
}

std::string_view name_of(ScoreTokenization tokenization) {
  for (const auto& [value, text] : kNames)
    if (value == tokenization) return text;
  return "";
}

ScoreTokenizer::ScoreTokenizer(ScoreTokenization tokenization)
    : tokenization_(tokenization), rules_(rules_of(tokenization)) {}

std::vector<std::string> ScoreTokenizer::operator()(std::string_view sentence) const {
  const std::u32string text = trimmed(sentence, tokenization_ == ScoreTokenization::chinese);
  switch (tokenization_) {
    case ScoreTokenization::mteval13a:
      return split_at_white_space(apply(rules_, mteval_text(encode_utf8(text))));
    case ScoreTokenization::chinese:
      return split_at_white_space(apply(rules_, chinese_apart(text)));
    case ScoreTokenization::international:
      return split_at_white_space(apply(rules_, encode_utf8(text)));
    case ScoreTokenization::characters:
      return characters_of(text);
    case ScoreTokenization::none:
      return split_at_white_space(text);
  }
  return {};
}

CompoundTokenizer::CompoundTokenizer(bool tokenised)
    : tokenised_(tokenised), rules_(tokenised ? std::vector<TextRewrite>() : western_rules(false)) {
  rules_.emplace_back(R"((?<=[\p{L}\p{N}])-(?=[\p{L}\p{N}]))", " ##AT##-##AT## ");
}

std::vector<std::string> CompoundTokenizer::operator()(std::string_view sentence) const {
  std::string text(sentence);
  return split_at_white_space(apply(rules_, tokenised_ ? text : mteval_text(std::move(text))));
}

}  // namespace t2r
