// Tokens of a tokenizer.json that are found in the text before anything else is done to it.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace t2r {

struct AddedToken {
  std::int32_t id = -1;
  std::string content;
  bool special = false;      // has no text of its own when decoded
  bool normalized = false;   // looked for after the normaliser, not before
  bool single_word = false;  // only where no letter stands next to it
  bool lstrip = false;       // takes the white space before it along
  bool rstrip = false;       // and after it
};

class AddedTokens {
 public:
  /// `content`: what to look for, not empty.
  void add(const AddedToken& token, std::string_view content);

  struct Part {
    std::int32_t id = -1;   // of a token; -1: text
    std::string_view text;  // of a part without a token
  };
  /// `text` cut at the tokens in it, where the longest of those that begin first is taken.
  /// tokenizers/src/tokenizer/added_vocabulary.rs of https://github.com/huggingface/tokenizers,
  /// find_matches. Appends to `parts`.
  void split(std::string_view text, std::vector<Part>& parts) const;

 private:
  struct Node {
    std::map<unsigned char, std::size_t> next;
    std::int64_t token = -1;
  };
  /// The longest token at the beginning of `text`: its number and length, or -1.
  std::pair<std::int64_t, std::size_t> longest_at(std::string_view text) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_{1};
  std::array<bool, 256> begins_{};
};

}  // namespace t2r
