// The message ModelProto of sentencepiece_model.proto (https://github.com/google/sentencepiece) in
// the wire format of Protocol Buffers; SentencePiece's own trainer cannot be given the ids.
#include "data/character_model.h"

#include <cstdint>
#include <cstring>
#include <set>

#include "core/base/error.h"
#include "data/text_reader.h"

namespace t2r {
namespace {

enum PieceType : std::uint8_t { kNormal = 1, kUnknown = 2, kControl = 3 };
constexpr std::uint64_t kCharModel = 4;  // TrainerSpec.ModelType.CHAR

class Message {
 public:
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

std::int64_t code_points(const std::string& text) {
  std::int64_t count = 0;
  for (char byte : text) count += (static_cast<unsigned char>(byte) & 0xC0) != 0x80;
  return count;
}

}  // namespace

std::string character_model(std::span<const std::string> tokens, const std::string& where) {
  Message model, trainer, normalizer;
  trainer.number(3, kCharModel);
  trainer.number(4, tokens.size());
  std::set<std::string> seen;
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    const std::string& token = tokens[id];
    check(seen.insert(token).second, "{}: the token '{}' is listed twice", where, token);
    PieceType type = kControl;
    if (token == "<unk>") {
      type = kUnknown;
      trainer.number(40, id);  // unk_id, and so on
    } else if (token == "<s>") {
      trainer.number(41, id);
    } else if (token == "</s>") {
      trainer.number(42, id);
    } else if (token == "<blank>" || token == "<pad>") {
      trainer.number(43, id);
      trainer.text(48, token);  // pad_piece
    } else {
      type = kNormal;
      check(find_invalid_utf8(token) < 0 && code_points(token) == 1,
            "{}: the token '{}' is not one character: only lists of characters can be imported",
            where, token);
    }
    Message piece;
    piece.text(1, token);
    piece.real(2, 0);
    piece.number(3, type);
    model.message(1, piece);
  }
  for (const char* needed : {"<s>", "</s>", "<unk>"})
    check(seen.contains(needed), "{} lacks the token {}", where, needed);
  normalizer.text(1, "identity");
  normalizer.number(3, 0);  // add_dummy_prefix
  normalizer.number(4, 0);  // remove_extra_whitespaces
  model.message(2, trainer);
  model.message(3, normalizer);
  return model.bytes();
}

}  // namespace t2r
