// The message ModelProto of sentencepiece_model.proto (https://github.com/google/sentencepiece) in
// the wire format of Protocol Buffers.
#include "data/sentencepiece_model.h"

#include <cmath>
#include <cstring>
#include <unordered_set>

#include "core/base/error.h"
#include "data/text_reader.h"

namespace t2r {
namespace {

class Message {
 public:
  Message() = default;
  /// Goes on from a message: of what is given twice the last counts.
  explicit Message(std::string bytes) : bytes_(std::move(bytes)) {}

  void number(int field, std::uint64_t value) {
    varint(static_cast<std::uint64_t>(field) << 3);
    varint(value);
  }
  void real(int field, float value) {
    varint(static_cast<std::uint64_t>(field) << 3 | 5);
    char bytes[sizeof(value)];
    std::memcpy(bytes, &value, sizeof(value));
    bytes_.append(bytes, sizeof(value));
  }
  void text(int field, const std::string& value) {
    varint(static_cast<std::uint64_t>(field) << 3 | 2);
    varint(value.size());
    bytes_ += value;
  }
  void message(int field, const Message& value) { text(field, value.bytes_); }
  const std::string& bytes() const { return bytes_; }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 128; value >>= 7) bytes_ += static_cast<char>(value | 128);
    bytes_ += static_cast<char>(value);
  }
  std::string bytes_;
};

/// A message's fields one after the other: numbers and texts; others are passed over.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : bytes_(bytes) {}

  /// False at the end, and where the bytes are none of a message: then damaged().
  bool next() {
    std::uint64_t key = 0;
    if (bytes_.empty() || !varint(key)) return false;
    field = key >> 3;
    text = {};
    number = 0;
    switch (key & 7) {
      case 0:
        return varint(number);
      case 1:
        return take(8);
      case 2:
        return varint(number) && take(number);
      case 5:
        return take(4);
      default:
        return damage();
    }
  }
  bool damaged() const { return damaged_; }

  std::uint64_t field = 0, number = 0;
  std::string_view text;

 private:
  bool damage() {
    damaged_ = true;
    return false;
  }
  bool take(std::uint64_t size) {
    if (size > bytes_.size()) return damage();
    text = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return true;
  }
  bool varint(std::uint64_t& value) {
    value = 0;
    for (int shift = 0; shift < 64 && !bytes_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(bytes_[0]);
      bytes_.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 127) << shift;
      if (byte < 128) return true;
    }
    return damage();
  }

  std::string_view bytes_;
  bool damaged_ = false;
};

void check_read(const Fields& fields, const std::string& where) {
  check(!fields.damaged(), "{} is no SentencePiece model: it is cut off or damaged", where);
}

SentencePieceEntry entry_of(std::string_view bytes, const std::string& where) {
  SentencePieceEntry entry;
  Fields in(bytes);
  std::uint64_t type = 1;
  while (in.next()) {
    if (in.field == 1) entry.piece = in.text;
    if (in.field == 2 && in.text.size() == sizeof(entry.score))
      std::memcpy(&entry.score, in.text.data(), sizeof(entry.score));
    if (in.field == 3) type = in.number;
  }
  check_read(in, where);
  check(type >= 1 && type <= 6, "{}: the token '{}' is of the unknown kind {}", where, entry.piece,
        type);
  entry.type = static_cast<PieceType>(type);
  return entry;
}

bool is_byte_name(const std::string& piece) {
  for (int byte = 0; byte < 256; ++byte)
    if (piece == fmt::format("<0x{:02X}>", byte)) return true;
  return false;
}

}  // namespace

SentencePieceParts sentencepiece_parts(std::string_view bytes, const std::string& where) {
  SentencePieceParts parts;
  Fields in(bytes);
  while (in.next()) {
    if (in.field == 1) parts.entries.push_back(entry_of(in.text, where));
    if (in.field == 2) parts.trainer += in.text;
    if (in.field == 3) parts.normalizer += in.text;
  }
  check_read(in, where);
  check(!parts.entries.empty(), "{} is no SentencePiece model: it lists no pieces", where);
  return parts;
}

std::string sentencepiece_model(std::span<const SentencePieceEntry> entries,
                                const SentencePieceOptions& options, const std::string& where) {
  Message model, trainer(options.trainer), normalizer(options.normalizer);
  if (options.trainer.empty()) trainer.number(3, static_cast<std::uint64_t>(options.model));
  trainer.number(4, entries.size());
  std::unordered_set<std::string> seen;
  std::int64_t unknown = -1, bytes = 0;
  for (std::size_t id = 0; id < entries.size(); ++id) {
    const auto& [text, score, type] = entries[id];
    check(!text.empty() && find_invalid_utf8(text) < 0 && text.find('\0') == std::string::npos,
          "{}: the token {} is empty or no text", where, id);
    check(seen.insert(text).second, "{}: the token '{}' is listed twice", where, text);
    check(std::isfinite(score), "{}: the token '{}' has the score {}", where, text, score);
    check(type >= PieceType::normal && type <= PieceType::byte,
          "{}: the token '{}' is of the unknown kind {}", where, text, static_cast<int>(type));
    if (type == PieceType::unknown) {
      check(unknown < 0, "{}: two tokens stand for the unknown, {} and {}", where, unknown, id);
      unknown = static_cast<std::int64_t>(id);
    }
    if (type == PieceType::byte) {
      check(is_byte_name(text), "{}: the token '{}' is no byte, as <0x0A> is", where, text);
      ++bytes;
    }
    Message piece;
    piece.text(1, text);
    piece.real(2, score);
    piece.number(3, static_cast<std::uint64_t>(type));
    model.message(1, piece);
  }
  check(unknown >= 0, "{} has no token for the unknown", where);
  check(bytes == 0 || bytes == 256, "{} has tokens for {} bytes: all 256 are needed, or none",
        where, bytes);
  if (bytes > 0 || !options.trainer.empty()) trainer.number(35, bytes > 0);  // byte_fallback
  const auto mark = [&](int id_field, int piece_field, std::int64_t id) {
    trainer.number(id_field, static_cast<std::uint64_t>(id));
    if (id < 0) return;
    check(id < std::ssize(entries), "{}: the id {} is none of its {} tokens", where, id,
          entries.size());
    trainer.text(piece_field, entries[static_cast<std::size_t>(id)].piece);
  };
  mark(40, 45, unknown);
  mark(41, 46, options.bos);
  mark(42, 47, options.eos);
  mark(43, 48, options.pad);
  if (options.normalizer.empty()) {
    normalizer.text(1, "identity");
    normalizer.number(3, options.dummy_prefix ? 1 : 0);
    normalizer.number(4, options.remove_extra_spaces ? 1 : 0);
  }
  model.message(2, trainer);
  model.message(3, normalizer);
  return model.bytes();
}

std::optional<SentencePieceRules> sentencepiece_rules(std::string_view model) {
  SentencePieceRules rules;
  bool damaged = false;
  Fields parts(model);
  while (parts.next()) {
    Fields fields(parts.field == 2 || parts.field == 3 ? parts.text : std::string_view{});
    while (fields.next()) {
      if (parts.field == 2 && fields.field == 3) rules.model = fields.number;
      if (parts.field == 2 && fields.field == 24) rules.space_behind = fields.number != 0;
      if (parts.field == 3 && fields.field == 1) rules.normalization = fields.text;
      if (parts.field == 3 && fields.field == 3) rules.dummy_prefix = fields.number != 0;
      if (parts.field == 3 && fields.field == 4) rules.one_space = fields.number != 0;
      if (parts.field == 3 && fields.field == 5) rules.mark_spaces = fields.number != 0;
    }
    damaged = damaged || fields.damaged();
  }
  if (damaged || parts.damaged()) return {};
  return rules;
}

}  // namespace t2r
