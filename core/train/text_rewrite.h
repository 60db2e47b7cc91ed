// One rule of a tokenizer: a regular expression and what its matches become.
#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace t2r {

/// Replaces every match, left to right and without overlap. The expression is PCRE2's in UTF mode
/// with Unicode categories; $1 and $2 in the replacement are its groups. Not for several threads at
/// once.
class TextRewrite {
 public:
  TextRewrite(const std::string& expression, std::string replacement);
  /// `text` is valid UTF-8.
  std::string operator()(std::string_view text) const;

 private:
  std::shared_ptr<void> code_, match_;  // pcre2_code, pcre2_match_data
  std::string replacement_;
};

}  // namespace t2r
