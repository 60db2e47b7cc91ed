#define PCRE2_CODE_UNIT_WIDTH 8
#include "data/split_pattern.h"

#include <pcre2.h>

#include "core/base/error.h"

namespace t2r {
namespace {

// PCRE2's own \s holds U+180E too, its \w no marks.
constexpr std::string_view kSpace =
    R"(\x{9}-\x{D}\x{20}\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
constexpr std::string_view kWord = R"(\p{L}\p{M}\p{N}\p{Pc})";
constexpr std::string_view kDigit = R"(\p{Nd})";

constexpr std::size_t kMaxExpression = 1 << 16;

/// Ruby's syntax as PCRE2's.
class Translation {
 public:
  Translation(std::string_view from, const std::string& where) : from_(from), where_(where) {
    while (at_ < from_.size()) step();
  }
  const std::string& result() const { return out_; }

 private:
  void refuse(std::string_view part) const {
    fail("{}: the pattern {} uses {}, which is not supported", where_, from_, part);
  }

  void step() {
    const char c = from_[at_++];
    const std::string_view rest = from_.substr(at_);
    if (c == '\\') return escape();
    if (in_class_) {
      // Ruby has sets inside sets, and intersections.
      if (c == '[' && !rest.starts_with(':')) refuse("a set inside a set");
      if (c == '[') posix_ = true;
      if (c == '&' && rest.starts_with('&')) refuse("an intersection of sets");
      if (c == ']' && posix_)
        posix_ = false;
      else if (c == ']')
        in_class_ = false;
    } else if (c == '[') {
      in_class_ = true;
    } else if (c == '(' && rest.starts_with('?')) {
      const auto end = rest.find_first_of(":)=!<>#");
      const std::string_view flags = rest.substr(1, end == rest.npos ? rest.npos : end - 1);
      if (flags.find_first_not_of("i-") != flags.npos) refuse("flags other than i");
    } else if (c == '(' && rest.starts_with('*')) {
      refuse("(*");
    }
    out_ += c;
  }

  void set(std::string_view members, bool negated) {
    if (in_class_ && negated) refuse("the opposite of a class inside a set");
    if (in_class_)
      out_ += members;
    else
      out_ += fmt::format("[{}{}]", negated ? "^" : "", members);
  }

  void escape() {
    if (at_ == from_.size()) refuse("a backslash at its end");
    const char c = from_[at_++];
    switch (c) {
      case 's':
      case 'S':
        return set(kSpace, c == 'S');
      case 'w':
      case 'W':
        return set(kWord, c == 'W');
      case 'd':
      case 'D':
        return set(kDigit, c == 'D');
      case 'u':
        if (at_ + 4 > from_.size()) refuse("half of \\u");
        out_ += fmt::format("\\x{{{}}}", from_.substr(at_, 4));
        at_ += 4;
        return;
      default:
        break;
    }
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    if (letter && std::string_view("pPrntfxAz").find(c) == std::string_view::npos)
      refuse(fmt::format("\\{}", c));
    out_ += '\\';
    out_ += c;
  }

  std::string_view from_;
  const std::string& where_;
  std::size_t at_ = 0;
  bool in_class_ = false, posix_ = false;
  std::string out_;
};

/// What a match needs, once a thread.
struct Scratch {
  std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data{
      pcre2_match_data_create(1, nullptr), pcre2_match_data_free};
  std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context{
      pcre2_match_context_create(nullptr), pcre2_match_context_free};
  std::unique_ptr<pcre2_jit_stack, decltype(&pcre2_jit_stack_free)> stack{
      pcre2_jit_stack_create(64 << 10, 16 << 20, nullptr), pcre2_jit_stack_free};

  Scratch() {
    check(data && context, "not enough memory to match a regular expression");
    if (stack) pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
};

}  // namespace

SplitPattern::SplitPattern(const std::string& expression, Keep keep, const std::string& where)
    : expression_(expression), keep_(keep) {
  check(!expression.empty() && expression.size() <= kMaxExpression,
        "{}: a pattern of {} bytes: from 1 to {} are possible", where, expression.size(),
        kMaxExpression);
  const std::string translated = Translation(expression_, where).result();
  int error = 0;
  PCRE2_SIZE place = 0;
  pcre2_code* code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &place, nullptr);
  char message[256] = "";
  if (!code) pcre2_get_error_message(error, reinterpret_cast<PCRE2_UCHAR*>(message), 256);
  check(code != nullptr, "{}: the pattern {} is no regular expression: {}", where, expression_,
        message);
  code_ = std::shared_ptr<void>(
      code, [](void* owned) { pcre2_code_free(static_cast<pcre2_code*>(owned)); });
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it cannot, matching is only slower
}

std::string SplitPattern::literal(std::string_view text) {
  std::string expression;
  for (char c : text) {
    const bool special = std::string_view("\\^$.[]|()?*+{}#-&").find(c) != std::string_view::npos;
    if (special) expression += '\\';
    expression += c;
  }
  return expression;
}

void SplitPattern::split(std::string_view text, std::vector<std::string_view>& pieces) const {
  thread_local Scratch scratch;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  std::size_t done = 0, at = 0;
  const auto add = [&](std::size_t begin, std::size_t end, Keep kind) {
    if (begin < end && (keep_ == Keep::all || keep_ == kind))
      pieces.push_back(text.substr(begin, end - begin));
  };
  while (at < text.size()) {
    const int found =
        pcre2_match(static_cast<const pcre2_code*>(code_.get()), subject, text.size(), at,
                    PCRE2_NO_UTF_CHECK, scratch.data.get(), scratch.context.get());
    if (found == PCRE2_ERROR_NOMATCH) break;
    check(found >= 0, "the pattern {} takes too long on a text of {} bytes (PCRE2 error {})",
          expression_, text.size(), found);
    const PCRE2_SIZE* place = pcre2_get_ovector_pointer(scratch.data.get());
    const std::size_t begin = place[0], end = place[1];
    if (end <= begin) {  // empty: look on after the next character
      at = std::max(begin, at) + 1;
      while (at < text.size() && (text[at] & 0xC0) == 0x80) ++at;
      continue;
    }
    add(done, begin, Keep::gaps);
    add(begin, end, Keep::matches);
    done = at = end;
  }
  add(done, text.size(), Keep::gaps);
}

}  // namespace t2r
