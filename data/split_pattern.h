// Cuts text at the matches of a regular expression, as the pre-tokenizers of Hugging Face's
// tokenizers do. They use Oniguruma (Ruby's syntax), this uses PCRE2.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace t2r {

class SplitPattern {
 public:
  enum class Keep { all, matches, gaps };

  /// `expression` in Oniguruma's syntax. What the two libraries understand differently is rewritten
  /// (\s, \w, \d and their opposites) or refused; so is what does not compile: one sentence,
  /// beginning with `where`.
  SplitPattern(const std::string& expression, Keep keep, const std::string& where);
  /// `text` as an expression that matches it and nothing else.
  static std::string literal(std::string_view text);

  /// Appends the matches in `text` and what lies between them (or one of the two), in order and
  /// never empty. `text` is valid UTF-8. Throws when a match would take unreasonably long.
  void split(std::string_view text, std::vector<std::string_view>& pieces) const;

 private:
  std::shared_ptr<void> code_;
  std::string expression_;
  Keep keep_;
};

}  // namespace t2r
