// Text to token ids and back: SentencePiece with a cache of words, byte-level BPE, or plain bytes.
#include "data/tokenizer.h"

#include <sentencepiece_processor.h>

#include <filesystem>
#include <mutex>
#include <nlohmann/json.hpp>
#include <unordered_map>

#include "core/base/error.h"
#include "data/atomic_file.h"
#include "data/byte_bpe.h"
#include "data/sentencepiece_model.h"
#include "data/sha256.h"
#include "data/text_reader.h"
#include "data/tokenizer_config.h"

namespace t2r {
namespace {

constexpr std::string_view kSentencePieceFile = "tokenizer.model";
constexpr std::string_view kBytesFile = "bytes.json";
constexpr std::string_view kBytesContent =
    "{\"format\": \"t2r-bytes\", \"version\": 1, \"vocab_size\": 258, \"bos\": 256, \"eos\": "
    "257}\n";
constexpr std::int32_t kBytesBos = 256, kBytesEos = 257;

/// SentencePiece writes a space as U+2581 inside its pieces.
constexpr std::string_view kSpaceMark = "\xE2\x96\x81";

/// A piece as text.
std::string without_space_marks(std::string_view piece) {
  std::string text;
  while (!piece.empty()) {
    const bool mark = piece.starts_with(kSpaceMark);
    text += mark ? ' ' : piece[0];
    piece.remove_prefix(mark ? kSpaceMark.size() : 1);
  }
  return text;
}

struct StringHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const {
    return std::hash<std::string_view>{}(text);
  }
};

/// Ids of words that were encoded before. Text repeats its words, and SentencePiece is slow.
struct WordCache {
  static constexpr std::size_t kMaxWords = 1 << 18, kMaxWordBytes = 64;
  struct Range {
    std::size_t begin, end;
  };
  std::unordered_map<std::string, Range, StringHash, std::equal_to<>> words;
  std::vector<std::int32_t> ids;
};

}  // namespace

struct Tokenizer::Implementation {
  std::string content, name, sha256;
  std::int64_t vocab_size = 0;
  std::int32_t bos = -1, eos = -1, pad = -1;

  // Byte-level BPE only.
  std::unique_ptr<ByteBpe> byte_bpe;
  std::string config;  // the tokenizer_config.json that says bos and eos

  // SentencePiece only.
  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor;
  std::vector<std::string> bytes_of_id;
  std::vector<std::int32_t> space_mark_ids;  // U+2581 in the text, as byte tokens
  bool dummy_prefix = false;                 // the model puts a space in front of every text
  bool separable = false;                    // words can be encoded one by one
  bool prefixed = false;                     // and so can they, each with that space in front
  bool one_space = false;                    // then: several in a row are one
  std::int32_t space = -1;                   // the piece of a space alone
  std::int32_t newline = -1;
  mutable std::mutex cache_mutex;
  mutable WordCache cache;

  void load_byte_bpe(const std::string& path);
  void load_sentencepiece(const std::string& path);
  void find_prefixed();
  std::vector<int> encode_directly(std::string_view text) const;
  void encode_separable(std::string_view text, std::vector<std::int32_t>& ids,
                        WordCache* words) const;
  void encode_prefixed(std::string_view text, std::vector<std::int32_t>& ids,
                       WordCache* words) const;
  void encode_word(std::string_view word, std::vector<std::int32_t>& ids, WordCache* words) const;
};

std::vector<int> Tokenizer::Implementation::encode_directly(std::string_view text) const {
  std::vector<int> ids;
  const auto status = processor->Encode({text.data(), text.size()}, &ids);
  check(status.ok(), "SentencePiece cannot encode a text of {} bytes: {}", text.size(),
        status.ToString());
  return ids;
}

void Tokenizer::Implementation::load_byte_bpe(const std::string& path) {
  name = kByteBpeFile;
  byte_bpe = std::make_unique<ByteBpe>(parse_byte_bpe(content, path), path);
  vocab_size = byte_bpe->vocab_size();
  TextMarks marks = find_text_marks(path, *byte_bpe);
  bos = marks.bos;
  eos = marks.eos;
  config = std::move(marks.config);
}

void Tokenizer::Implementation::load_sentencepiece(const std::string& path) {
  name = kSentencePieceFile;
  processor = std::make_unique<sentencepiece::SentencePieceProcessor>();
  const auto status = processor->LoadFromSerializedProto(content);
  check(status.ok() && processor->GetPieceSize() > 0,
        "{} is not a SentencePiece model: give the tokenizer.model that the model was trained with",
        path);
  vocab_size = processor->GetPieceSize();
  bos = processor->bos_id();
  eos = processor->eos_id();
  pad = processor->pad_id();
  bool word_pieces = true;  // no piece reaches from one word into the next
  for (int id = 0; id < vocab_size; ++id) {
    const std::string& piece = processor->IdToPiece(id);
    std::string bytes;
    if (processor->IsByte(id))  // "<0x41>"
      bytes = static_cast<char>(std::stoi(piece.substr(3, 2), nullptr, 16));
    else if (processor->IsUnknown(id))
      bytes = " \xE2\x81\x87 ";  // SentencePiece's own mark for what it does not know
    else if (!processor->IsControl(id))
      bytes = without_space_marks(piece);
    if (!processor->IsByte(id) && !processor->IsUnknown(id) && !processor->IsControl(id)) {
      word_pieces = word_pieces && bytes.find(' ', 1) == std::string::npos;
      word_pieces = word_pieces && (bytes == "\n" || bytes.find('\n') == std::string::npos);
    }
    bytes_of_id.push_back(std::move(bytes));
  }
  for (char byte : kSpaceMark) {
    const int id =
        processor->PieceToId(fmt::format("<0x{:02X}>", static_cast<unsigned char>(byte)));
    if (processor->IsByte(id)) space_mark_ids.push_back(id);
  }
  const auto piece_text = [&](std::string_view text) {
    std::vector<std::string> pieces;  // what has none comes as bytes, or as it is
    const auto encoded = processor->Encode({text.data(), text.size()}, &pieces);
    check(encoded.ok(), "{}: SentencePiece cannot encode with it: {}", path, encoded.ToString());
    std::string joined;
    for (const std::string& piece : pieces) {
      const int id = processor->PieceToId(piece);
      joined += processor->IsByte(id) ? bytes_of_id[static_cast<std::size_t>(id)] : piece;
    }
    return without_space_marks(joined);
  };
  const auto newline_ids = encode_directly("\n");
  dummy_prefix = piece_text("a").starts_with(' ');
  newline = newline_ids.size() == 1 && bytes_of_id[newline_ids[0]] == "\n" ? newline_ids[0] : -1;
  separable = word_pieces && newline >= 0 && space_mark_ids.size() == kSpaceMark.size() &&
              piece_text("  a  ") == "  a  ";
  if (!separable) find_prefixed();
}

/// Whether a model of BPE that puts a space in front of every text may encode word by word: no
/// piece reaches over the end of a word, and what is done to text before leaves spaces where they
/// are. Sums over a whole text are rounded otherwise than over a word, so unigram models may not.
void Tokenizer::Implementation::find_prefixed() {
  const auto rules = sentencepiece_rules(content);
  space = processor->PieceToId({kSpaceMark.data(), kSpaceMark.size()});
  if (!rules || !rules->dummy_prefix || !rules->mark_spaces || rules->space_behind ||
      rules->model != static_cast<std::uint64_t>(SentencePieceOptions::Model::bpe) ||
      processor->IsUnknown(space))
    return;
  const std::string& rule = rules->normalization;
  const bool known = rule == "nmt_nfkc" || rule == "nfkc" || rule == "nmt_nfkc_cf" ||
                     rule == "nfkc_cf" || rule == "identity";
  if (!known || (!rules->one_space && rule != "identity")) return;
  for (int id = 0; id < vocab_size; ++id) {
    if (processor->IsByte(id) || processor->IsUnknown(id) || processor->IsControl(id)) continue;
    const std::string& bytes = bytes_of_id[static_cast<std::size_t>(id)];
    const std::size_t letter = std::min(bytes.find_first_not_of(' '), bytes.size());
    if (bytes.find(' ', letter) != std::string::npos) return;
  }
  prefixed = true;
  one_space = rules->one_space;
}

void Tokenizer::Implementation::encode_word(std::string_view word, std::vector<std::int32_t>& ids,
                                            WordCache* words) const {
  if (!words || word.size() > WordCache::kMaxWordBytes) {
    const auto fresh = encode_directly(word);
    ids.insert(ids.end(), fresh.begin(), fresh.end());
    return;
  }
  auto found = words->words.find(word);
  if (found == words->words.end()) {
    const auto fresh = encode_directly(word);
    if (words->words.size() >= WordCache::kMaxWords) {
      ids.insert(ids.end(), fresh.begin(), fresh.end());
      return;
    }
    const std::size_t begin = words->ids.size();
    words->ids.insert(words->ids.end(), fresh.begin(), fresh.end());
    found = words->words.emplace(word, WordCache::Range{begin, words->ids.size()}).first;
  }
  const auto [begin, end] = found->second;
  ids.insert(ids.end(), words->ids.begin() + static_cast<std::ptrdiff_t>(begin),
             words->ids.begin() + static_cast<std::ptrdiff_t>(end));
}

/// Pieces never reach past a word: a space with what follows it, or a newline. So words are encoded
/// one by one. U+2581 in the text would come back as a space: it becomes its three byte tokens.
void Tokenizer::Implementation::encode_separable(std::string_view text,
                                                 std::vector<std::int32_t>& ids,
                                                 WordCache* words) const {
  std::size_t at = 0;
  while (at < text.size()) {
    if (text[at] == '\n') {
      ids.push_back(newline);
      ++at;
    } else if (text.substr(at).starts_with(kSpaceMark)) {
      ids.insert(ids.end(), space_mark_ids.begin(), space_mark_ids.end());
      at += kSpaceMark.size();
    } else {
      std::size_t end = at + 1;
      while (end < text.size() && text[end] != ' ' && text[end] != '\n' &&
             !(text[end] == kSpaceMark[0] && text.substr(end).starts_with(kSpaceMark)))
        ++end;
      encode_word(text.substr(at, end - at), ids, words);
      at = end;
    }
  }
}

/// Each word with the spaces before it; SentencePiece adds one of these itself.
void Tokenizer::Implementation::encode_prefixed(std::string_view text,
                                                std::vector<std::int32_t>& ids,
                                                WordCache* words) const {
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t letter = text.find_first_not_of(' ', at);
    std::size_t end = text.find(' ', letter);
    // Spaces after U+2581 stay with it: they become the same.
    while (end != text.npos && text.substr(0, end).ends_with(kSpaceMark))
      end = text.find(' ', text.find_first_not_of(' ', end));
    end = std::min(end, text.size());
    const std::size_t begin = one_space ? std::min(letter, text.size()) : at == 0 ? 0 : at + 1;
    if (begin < text.size())
      encode_word(text.substr(begin, end - begin), ids, words);
    else if (!one_space)
      ids.push_back(space);
    at = end;
  }
}

Tokenizer Tokenizer::bytes() {
  auto implementation = std::make_shared<Implementation>();
  implementation->content = kBytesContent;
  implementation->name = kBytesFile;
  implementation->sha256 = sha256_hex(kBytesContent);
  implementation->vocab_size = 258;
  implementation->bos = kBytesBos;
  implementation->eos = kBytesEos;
  return Tokenizer(std::move(implementation));
}

Tokenizer Tokenizer::load(const std::string& path) {
  namespace fs = std::filesystem;
  std::string file = path;
  if (fs::is_directory(path)) {
    for (const std::string_view name : {kSentencePieceFile, kBytesFile, {kByteBpeFile}}) {
      file = (fs::path(path) / name).string();
      if (fs::exists(file)) break;
    }
    check(fs::exists(file), "{} holds no tokenizer: neither {} nor {} nor {} is there", path,
          kSentencePieceFile, kBytesFile, kByteBpeFile);
  }
  constexpr std::int64_t kLimit = std::int64_t{1} << 28;
  std::string content = read_file(file, kLimit);
  if (content.size() < 2 * kBytesContent.size() &&
      nlohmann::json::parse(content, nullptr, false) == nlohmann::json::parse(kBytesContent))
    return bytes();
  auto implementation = std::make_shared<Implementation>();
  implementation->content = std::move(content);
  implementation->sha256 = sha256_hex(implementation->content);
  // By what it holds: the second tokenizer of a translation model always has the same name.
  if (implementation->content.starts_with('{') || file.ends_with(".json"))
    implementation->load_byte_bpe(file);
  else
    implementation->load_sentencepiece(file);
  return Tokenizer(std::move(implementation));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  encode_to(text, ids);
  return ids;
}

void Tokenizer::encode_to(std::string_view text, std::vector<std::int32_t>& ids) const {
  const Implementation& self = *implementation_;
  if (!self.processor && !self.byte_bpe) {
    ids.reserve(ids.size() + text.size());
    for (char byte : text) ids.push_back(static_cast<unsigned char>(byte));
    return;
  }
  // SentencePiece would silently put a replacement character in its place.
  if (find_invalid_utf8(text) >= 0) check_utf8(text, "the text to tokenize");
  if (self.byte_bpe) return self.byte_bpe->encode_to(text, ids);
  // SentencePiece takes U+2581 for a space at the end of a text, but not inside.
  const bool prefixed =
      self.prefixed && !(self.one_space && text.find(kSpaceMark) != std::string_view::npos);
  if (!self.separable && !prefixed) {
    const auto fresh = self.encode_directly(text);
    ids.insert(ids.end(), fresh.begin(), fresh.end());
    return;
  }
  // The cache serves one thread at a time; others go without it and get the same ids.
  const std::unique_lock lock(self.cache_mutex, std::try_to_lock);
  WordCache* words = lock.owns_lock() ? &self.cache : nullptr;
  if (self.separable)
    self.encode_separable(text, ids, words);
  else
    self.encode_prefixed(text, ids, words);
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  const Implementation& self = *implementation_;
  std::string text;
  for (std::int32_t id : ids) {
    check(id >= 0 && id < self.vocab_size, "the token id {} lies outside the vocabulary of {}", id,
          self.vocab_size);
    if (self.byte_bpe)
      text += self.byte_bpe->decode(id);
    else if (self.processor)
      text += self.bytes_of_id[static_cast<std::size_t>(id)];
    else if (id < kBytesBos)
      text += static_cast<char>(id);
  }
  if (self.dummy_prefix && text.starts_with(' ')) text.erase(0, 1);
  return text;
}

std::int64_t Tokenizer::vocab_size() const {
  return implementation_->vocab_size;
}
std::int32_t Tokenizer::bos() const {
  return implementation_->bos;
}
std::int32_t Tokenizer::eos() const {
  return implementation_->eos;
}
std::int32_t Tokenizer::pad() const {
  return implementation_->pad;
}
std::string Tokenizer::sha256() const {
  return implementation_->sha256;
}
std::string Tokenizer::file_name() const {
  return implementation_->name;
}

void Tokenizer::save(const std::string& folder) const {
  const std::filesystem::path place(folder);
  save_as((place / implementation_->name).string());
  if (implementation_->byte_bpe)
    write_file_atomically((place / kTokenizerConfigFile).string(), implementation_->config);
}

void Tokenizer::save_as(const std::string& path) const {
  write_file_atomically(path, implementation_->content);
}

}  // namespace t2r
