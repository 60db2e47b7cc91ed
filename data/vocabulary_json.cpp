#include "data/vocabulary_json.h"

#include <algorithm>
#include <unordered_map>

#include "core/base/error.h"
#include "data/atomic_file.h"
#include "data/checked_json.h"
#include "data/sentencepiece_model.h"

namespace t2r {
namespace {

constexpr std::int64_t kLargestFile = std::int64_t{1} << 28;
constexpr const char* kUnknown = "<unk>";
constexpr const char* kSpace = "\xE2\x96\x81";  // U+2581
constexpr std::string_view kWordEnd = "</w>";

bool is_language_code(const std::string& token) {
  return token.size() > 4 && token.starts_with(">>") && token.ends_with("<<");
}

/// What `special` and the name <unk> say of a token; normal for all others.
PieceType special_type(const std::string& token, std::int64_t id, const SpecialIds& special) {
  if (token == kUnknown) return PieceType::unknown;
  return id == special.bos || id == special.eos || id == special.pad ? PieceType::control
                                                                     : PieceType::normal;
}

void check_special(std::span<const std::string> tokens, const SpecialIds& special,
                   const std::string& where) {
  check(std::ranges::count(tokens, kUnknown) == 1, "{} lacks the token {}", where, kUnknown);
  for (const std::int64_t id : {special.bos, special.eos, special.pad})
    check(id >= 0 && id < std::ssize(tokens) && tokens[static_cast<std::size_t>(id)] != kUnknown,
          "{} has {} tokens, but the model begins, ends or pads sentences with number {}: that is "
          "<unk>, or none of them",
          where, tokens.size(), id);
}

}  // namespace

std::vector<std::string> read_vocabulary_json(const std::string& path, std::int64_t entries) {
  const nlohmann::json ids = parse_checked_json(read_file(path, kLargestFile), path);
  check(std::ssize(ids) == entries,
        "{} lists {} tokens, but the model has {}: they do not belong together", path, ids.size(),
        entries);
  std::vector<std::string> tokens(ids.size());
  std::vector<bool> taken(ids.size(), false);
  for (const auto& [token, id] : ids.items()) {
    check(id.is_number_unsigned() && id.get<std::uint64_t>() < ids.size(),
          "{}: the token '{}' has the id {}: ids are whole numbers from 0 to {}", path, token,
          id.dump(), entries - 1);
    const auto place = id.get<std::size_t>();
    check(!taken[place], "{}: the tokens '{}' and '{}' have the same id, {}", path, tokens[place],
          token, place);
    tokens[place] = token;
    taken[place] = true;
  }
  return tokens;
}

std::string renumbered_sentencepiece(std::span<const std::string> tokens, const SpecialIds& special,
                                     const std::string& spm_path, const std::string& where) {
  check_special(tokens, special, where);
  const SentencePieceParts parts = sentencepiece_parts(read_file(spm_path, kLargestFile), spm_path);
  std::unordered_map<std::string, const SentencePieceEntry*> known;
  for (const SentencePieceEntry& entry : parts.entries) known.emplace(entry.piece, &entry);
  std::vector<SentencePieceEntry> pieces;
  std::int64_t shared = 0, bytes = 0;
  for (const std::string& token : tokens) {
    SentencePieceEntry piece{token, 0, special_type(token, std::ssize(pieces), special)};
    const auto found = known.find(token);
    if (piece.type == PieceType::normal) {
      if (is_language_code(token)) {
        piece = {kSpace + token, 0, PieceType::user_defined};
      } else if (found == known.end() || found->second->type == PieceType::unknown) {
        piece.type = PieceType::unused;
      } else {
        piece = *found->second;
        ++shared;
      }
    }
    bytes += piece.type == PieceType::byte;
    pieces.push_back(std::move(piece));
  }
  check(shared > 0, "{} and {} have no piece in common: they do not belong together", where,
        spm_path);
  if (bytes < 256)  // SentencePiece wants all or none
    for (SentencePieceEntry& piece : pieces)
      if (piece.type == PieceType::byte) piece.type = PieceType::unused;
  return sentencepiece_model(pieces,
                             {.bos = special.bos,
                              .eos = special.eos,
                              .pad = special.pad,
                              .trainer = parts.trainer,
                              .normalizer = parts.normalizer},
                             where);
}

std::string bpe_units_model(std::span<const std::string> tokens, const SpecialIds& special,
                            const std::string& where) {
  check_special(tokens, special, where);
  std::vector<SentencePieceEntry> pieces;
  for (const std::string& token : tokens) {
    SentencePieceEntry piece{token, 0, special_type(token, std::ssize(pieces), special)};
    if (piece.type == PieceType::normal)
      piece.piece =
          kSpace + (token.ends_with(kWordEnd) ? token.substr(0, token.size() - kWordEnd.size())
                                              : token + "@@");
    pieces.push_back(std::move(piece));
  }
  return sentencepiece_model(pieces,
                             {.model = SentencePieceOptions::Model::word,
                              .remove_extra_spaces = true,
                              .bos = special.bos,
                              .eos = special.eos,
                              .pad = special.pad},
                             where);
}

}  // namespace t2r
