#include "core/train/text_rewrite.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/base/error.h"

namespace t2r {
namespace {

std::string pcre2_message(int error) {
  unsigned char text[256] = {};
  pcre2_get_error_message(error, text, sizeof text);
  return reinterpret_cast<const char*>(text);
}

PCRE2_SPTR bytes_of(std::string_view text) {
  return reinterpret_cast<PCRE2_SPTR>(text.data());
}

}  // namespace

TextRewrite::TextRewrite(const std::string& expression, std::string replacement)
    : replacement_(std::move(replacement)) {
  int error = 0;
  PCRE2_SIZE place = 0;
  pcre2_code* const code = pcre2_compile(bytes_of(expression), expression.size(),
                                         PCRE2_UTF | PCRE2_UCP, &error, &place, nullptr);
  check(code != nullptr, "PCRE2 does not take the expression {}: {} at byte {}", expression,
        pcre2_message(error), place);
  code_ = {code, [](void* p) { pcre2_code_free(static_cast<pcre2_code*>(p)); }};
  // Without machine code (a build or a system that forbids it) matching is slower, not different.
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);
  match_ = {pcre2_match_data_create_from_pattern(code, nullptr),
            [](void* p) { pcre2_match_data_free(static_cast<pcre2_match_data*>(p)); }};
  check(match_ != nullptr, "out of memory: PCRE2 has none for the matches of {}", expression);
}

std::string TextRewrite::operator()(std::string_view text) const {
  std::string out(3 * text.size() + replacement_.size() + 16, '\0');
  for (;;) {
    PCRE2_SIZE size = out.size();
    const int result = pcre2_substitute(
        static_cast<pcre2_code*>(code_.get()), bytes_of(text), text.size(), 0,
        PCRE2_SUBSTITUTE_GLOBAL | PCRE2_SUBSTITUTE_OVERFLOW_LENGTH,
        static_cast<pcre2_match_data*>(match_.get()), nullptr, bytes_of(replacement_),
        replacement_.size(), reinterpret_cast<PCRE2_UCHAR*>(out.data()), &size);
    if (result == PCRE2_ERROR_NOMEMORY && size > out.size()) {
      out.resize(size);  // what it needs, with a closing zero
      continue;
    }
    check(result >= 0, "PCRE2 cannot rewrite '{}': {}", text, pcre2_message(result));
    out.resize(size);
    return out;
  }
}

}  // namespace t2r
