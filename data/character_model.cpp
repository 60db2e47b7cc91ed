#include "data/character_model.h"

#include <algorithm>
#include <cstdint>
#include <set>

#include "core/base/error.h"
#include "data/sentencepiece_model.h"
#include "data/text_reader.h"

namespace t2r {
namespace {

std::int64_t code_points(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char byte) { return (byte & 0xC0) != 0x80; });
}

}  // namespace

std::string character_model(std::span<const std::string> tokens, const std::string& where) {
  std::vector<SentencePieceEntry> pieces;
  SentencePieceOptions options{.model = SentencePieceOptions::Model::character,
                               .dummy_prefix = false};
  const std::set<std::string> seen(tokens.begin(), tokens.end());
  for (const char* needed : {"<s>", "</s>", "<unk>"})
    check(seen.contains(needed), "{} lacks the token {}", where, needed);
  for (const std::string& token : tokens) {
    const std::int64_t id = std::ssize(pieces);
    PieceType type = PieceType::control;
    if (token == "<unk>") {
      type = PieceType::unknown;
    } else if (token == "<s>") {
      options.bos = id;
    } else if (token == "</s>") {
      options.eos = id;
    } else if (token == "<blank>" || token == "<pad>") {
      options.pad = id;
    } else {
      type = PieceType::normal;
      check(find_invalid_utf8(token) < 0 && code_points(token) == 1,
            "{}: the token '{}' is not one character: only lists of characters can be imported",
            where, token);
    }
    pieces.push_back({token, 0, type});
  }
  return sentencepiece_model(pieces, options, where);
}

}  // namespace t2r
