#include "data/byte_bpe.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <queue>

#include "core/base/error.h"
#include "core/base/log.h"

namespace t2r {
namespace {

/// UTF-8 in a normal form of Unicode.
std::string normalized(std::string_view text, UnicodeForm form) {
  int options = UTF8PROC_STABLE;
  const bool compose = form == UnicodeForm::nfc || form == UnicodeForm::nfkc;
  options |= compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == UnicodeForm::nfkc || form == UnicodeForm::nfkd) options |= UTF8PROC_COMPAT;
  utf8proc_uint8_t* result = nullptr;
  const auto bytes = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                  static_cast<utf8proc_ssize_t>(text.size()), &result,
                                  static_cast<utf8proc_option_t>(options));
  check(bytes >= 0, "cannot bring a text of {} bytes into a normal form of Unicode: {}",
        text.size(), utf8proc_errmsg(bytes));
  std::string copy(reinterpret_cast<const char*>(result), static_cast<std::size_t>(bytes));
  std::free(result);
  return copy;
}

}  // namespace

const std::array<std::string, 256>& byte_characters() {
  static const auto characters = [] {
    std::array<std::string, 256> all;
    int next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
      const int point = printable ? byte : next++;
      auto& text = all[static_cast<std::size_t>(byte)];
      if (point < 128) {
        text = static_cast<char>(point);
      } else {
        text += static_cast<char>(0xC0 | point >> 6);
        text += static_cast<char>(0x80 | (point & 63));
      }
    }
    return all;
  }();
  return characters;
}

/// Text repeats its words, and merging is slow.
struct ByteBpe::Words {
  static constexpr std::size_t kMaxWords = 1 << 18, kMaxWordBytes = 64;
  struct Range {
    std::size_t begin, end;
  };
  StringMap<Range> words;
  std::vector<std::int32_t> ids;
};

ByteBpe::ByteBpe(ByteBpeParts parts, const std::string& where)
    : parts_(std::move(parts)), where_(where), cache_(std::make_shared<Words>()) {
  id_of_byte_.fill(-1);
  for (std::size_t id = 0; id < parts_.bytes.size(); ++id) {
    if (!parts_.in_model[id]) continue;
    const std::string& bytes = parts_.bytes[id];
    if (bytes.size() == 1) {
      auto& place = id_of_byte_[static_cast<unsigned char>(bytes[0])];
      if (place < 0) place = static_cast<std::int32_t>(id);
    }
    if (parts_.ignore_merges) whole_words_.emplace(bytes, static_cast<std::int32_t>(id));
  }
  merges_.reserve(parts_.merges.size());
  for (std::size_t rank = 0; rank < parts_.merges.size(); ++rank) {
    const auto [left, right, result] = parts_.merges[rank];
    merges_[static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right)] = {
        static_cast<std::int32_t>(rank), result};
  }
  for (const AddedToken& token : parts_.added) {
    if (token.normalized)
      normalized_.add(token, normalize(token.content));
    else
      raw_.add(token, token.content);
  }
}

std::int32_t ByteBpe::added_id(std::string_view content) const {
  for (const AddedToken& token : parts_.added)
    if (token.content == content) return token.id;
  return -1;
}

std::string_view ByteBpe::decode(std::int32_t id, bool with_special) const {
  const auto place = static_cast<std::size_t>(id);
  return parts_.special[place] && !with_special ? std::string_view{}
                                                : std::string_view{parts_.bytes[place]};
}

std::string ByteBpe::normalize(std::string_view text) const {
  std::string result(text);
  for (UnicodeForm form : parts_.normalizers) result = normalized(result, form);
  return result;
}

const ByteBpe::Rank* ByteBpe::merge_of(std::int32_t left, std::int32_t right) const {
  const auto found =
      merges_.find(static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right));
  return found == merges_.end() ? nullptr : &found->second;
}

/// The most urgent merge first, of equal ones the leftmost; src/models/bpe/word.rs, merge_all.
void ByteBpe::merge_word(std::string_view word, std::vector<std::int32_t>& ids) const {
  struct Symbol {
    std::int32_t id;
    std::ptrdiff_t before, after;
  };
  struct Candidate {
    std::int32_t rank, result;
    std::ptrdiff_t place;
    bool operator<(const Candidate& other) const {  // std::priority_queue has the greatest on top
      return rank != other.rank ? rank > other.rank : place > other.place;
    }
  };
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  bool after_unknown = false;
  for (char c : word) {
    const auto byte = static_cast<unsigned char>(c);
    const bool known = id_of_byte_[byte] >= 0;
    if (!known && parts_.unknown < 0)
      std::call_once(warned_, [&] {
        warn("the tokenizer {} has no token for the byte 0x{:02X} and others: they are left out",
             where_, byte);
      });
    const bool fused = after_unknown && parts_.fuse_unknown;
    if (known || (parts_.unknown >= 0 && !fused)) {
      const std::ptrdiff_t place = std::ssize(symbols);
      symbols.push_back({known ? id_of_byte_[byte] : parts_.unknown, place - 1, place + 1});
    }
    after_unknown = !known;
  }
  if (symbols.empty()) return;
  symbols.back().after = -1;
  const std::ptrdiff_t size = std::ssize(symbols);
  std::vector<Candidate> initial;
  const auto candidate = [&](std::ptrdiff_t place, auto&& add) {
    const Symbol& symbol = symbols[static_cast<std::size_t>(place)];
    if (symbol.after < 0) return;
    if (const Rank* merge = merge_of(symbol.id, symbols[static_cast<std::size_t>(symbol.after)].id))
      add(Candidate{merge->rank, merge->result, place});
  };
  for (std::ptrdiff_t i = 0; i < size; ++i)
    candidate(i, [&](const Candidate& c) { initial.push_back(c); });
  std::priority_queue<Candidate> queue(std::less<Candidate>{}, std::move(initial));
  while (!queue.empty()) {
    const Candidate top = queue.top();
    queue.pop();
    Symbol& left = symbols[static_cast<std::size_t>(top.place)];
    if (left.id < 0 || left.after < 0) continue;  // became part of another, or the last
    Symbol& right = symbols[static_cast<std::size_t>(left.after)];
    const Rank* merge = merge_of(left.id, right.id);
    if (!merge || merge->result != top.result) continue;  // a neighbour has changed since
    left.id = top.result;
    right.id = -1;
    left.after = right.after;
    if (left.after >= 0) symbols[static_cast<std::size_t>(left.after)].before = top.place;
    const auto add = [&](const Candidate& c) { queue.push(c); };
    if (left.before >= 0) candidate(left.before, add);
    candidate(top.place, add);
  }
  for (std::ptrdiff_t i = 0; i >= 0 && i < size; i = symbols[static_cast<std::size_t>(i)].after)
    ids.push_back(symbols[static_cast<std::size_t>(i)].id);
}

void ByteBpe::encode_word(std::string_view word, std::vector<std::int32_t>& ids,
                          Words* words) const {
  const bool cached = words && word.size() <= Words::kMaxWordBytes;
  if (cached) {
    if (const auto found = words->words.find(word); found != words->words.end()) {
      const auto [begin, end] = found->second;
      ids.insert(ids.end(), words->ids.begin() + static_cast<std::ptrdiff_t>(begin),
                 words->ids.begin() + static_cast<std::ptrdiff_t>(end));
      return;
    }
  }
  const std::size_t before = ids.size();
  const auto whole = whole_words_.find(word);
  if (whole != whole_words_.end())
    ids.push_back(whole->second);
  else
    merge_word(word, ids);
  if (cached && words->words.size() < Words::kMaxWords) {
    const std::size_t begin = words->ids.size();
    words->ids.insert(words->ids.end(), ids.begin() + static_cast<std::ptrdiff_t>(before),
                      ids.end());
    words->words.emplace(word, Words::Range{begin, words->ids.size()});
  }
}

/// A stretch of normalised text without added tokens.
void ByteBpe::encode_stretch(std::string_view text, std::vector<std::int32_t>& ids,
                             Words* words) const {
  std::vector<std::string_view> pieces{text}, cut;
  std::vector<std::unique_ptr<std::string>> owned;  // pieces that got a space in front
  for (const WordSplit& step : parts_.splits) {
    if (step.space_in_front)
      for (std::string_view& piece : pieces) {
        if (piece.starts_with(' ')) continue;
        owned.push_back(std::make_unique<std::string>(" " + std::string(piece)));
        piece = *owned.back();
      }
    if (step.pattern.empty()) continue;
    cut.clear();
    for (std::string_view piece : pieces) step.pattern[0].split(piece, cut);
    pieces.swap(cut);
  }
  for (std::string_view piece : pieces) encode_word(piece, ids, words);
}

/// Text without those added tokens that are found before the normaliser.
void ByteBpe::encode_text(std::string_view text, std::vector<std::int32_t>& ids,
                          Words* words) const {
  std::string changed;
  if (!parts_.normalizers.empty() &&
      !std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; })) {
    changed = normalize(text);
    text = changed;
  }
  std::vector<AddedTokens::Part> parts;
  normalized_.split(text, parts);
  for (const auto& part : parts) {
    if (part.id >= 0)
      ids.push_back(part.id);
    else
      encode_stretch(part.text, ids, words);
  }
}

void ByteBpe::encode_to(std::string_view text, std::vector<std::int32_t>& ids) const {
  // The cache serves one thread at a time; others go without it and get the same ids.
  const std::unique_lock lock(cache_mutex_, std::try_to_lock);
  Words* words = lock.owns_lock() ? cache_.get() : nullptr;
  std::vector<AddedTokens::Part> parts;
  raw_.split(text, parts);
  for (const auto& part : parts) {
    if (part.id >= 0)
      ids.push_back(part.id);
    else
      encode_text(part.text, ids, words);
  }
}

}  // namespace t2r
