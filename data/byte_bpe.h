// Byte-level BPE, as GPT-2, Llama 3, Qwen 2 and SmolLM have it: text is cut into words by regular
// expressions, and the bytes of a word are merged pair by pair. Read from the tokenizer.json of
// Hugging Face's tokenizers (https://github.com/huggingface/tokenizers), with the same ids. Only
// for characters that Unicode got after its version 9 (some marks under NFC, new letters) the ids
// may differ, as the libraries' tables are of different age.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "data/added_tokens.h"
#include "data/split_pattern.h"

namespace t2r {

/// The normalisers there are: forms of Unicode (https://unicode.org/reports/tr15).
enum class UnicodeForm { nfc, nfd, nfkc, nfkd };

/// One step of cutting text into words.
struct WordSplit {
  bool space_in_front = false;        // before the cut, where there is none
  std::vector<SplitPattern> pattern;  // at most one
};

/// What a tokenizer.json says.
struct ByteBpeParts {
  struct Merge {
    std::int32_t left, right, result;
  };
  std::vector<std::string> bytes;  // of each id; empty where the file has no such id
  std::vector<bool> special;       // of each id
  std::vector<bool> in_model;      // of each id: not (only) an added token
  std::vector<Merge> merges;       // the first is the most urgent
  bool ignore_merges = false;      // a word that is a token is that token, whatever the merges say
  std::int32_t unknown = -1;       // for a byte without a token; -1: such a byte is left out
  bool fuse_unknown = false;       // one for several in a row
  std::vector<UnicodeForm> normalizers;
  std::vector<WordSplit> splits;
  std::vector<AddedToken> added;
};

/// Reads the content of a tokenizer.json. Throws one sentence, beginning with `where`, when it is
/// damaged or not of the byte-level BPE kind; it names what is not supported.
ByteBpeParts parse_byte_bpe(std::string_view json, const std::string& where);

/// The 256 characters that stand for bytes in such a file, as UTF-8 (openai/gpt-2, src/encoder.py,
/// bytes_to_unicode): printable ones for themselves, the others from U+0100 on.
const std::array<std::string, 256>& byte_characters();

/// All functions may be called from several threads.
class ByteBpe {
 public:
  explicit ByteBpe(ByteBpeParts parts, const std::string& where);

  /// Appends the ids of `text`, which is valid UTF-8. Tokens with a text of their own, special ones
  /// too, are found in it; none are added in front or behind. Vocabularies may lack a token for
  /// rare bytes (SmolLM2 has none for 0x04): where there is no token for the unknown either, such a
  /// byte is left out, as Hugging Face does; the first time, a warning says so.
  void encode_to(std::string_view text, std::vector<std::int32_t>& ids) const;
  /// The bytes of an id in [0, vocab_size): nothing for special tokens unless `with_special`.
  /// Joined, those of a text's ids are the text again, except for what a normaliser, lstrip, rstrip
  /// or a space in front has changed.
  std::string_view decode(std::int32_t id, bool with_special = false) const;

  /// The greatest id and one.
  std::int64_t vocab_size() const { return std::ssize(parts_.bytes); }
  /// The id of an added token, or -1.
  std::int32_t added_id(std::string_view content) const;

 private:
  struct Words;  // those that were encoded before

  struct StringHash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>{}(text);
    }
  };
  template <class T>
  using StringMap = std::unordered_map<std::string, T, StringHash, std::equal_to<>>;
  struct PairHash {
    std::size_t operator()(std::uint64_t pair) const {
      return static_cast<std::size_t>((pair ^ pair >> 29) * 0x9E3779B97F4A7C15u);
    }
  };
  struct Rank {
    std::int32_t rank, result;
  };

  void encode_text(std::string_view text, std::vector<std::int32_t>& ids, Words* words) const;
  void encode_stretch(std::string_view text, std::vector<std::int32_t>& ids, Words* words) const;
  void encode_word(std::string_view word, std::vector<std::int32_t>& ids, Words* words) const;
  void merge_word(std::string_view word, std::vector<std::int32_t>& ids) const;
  const Rank* merge_of(std::int32_t left, std::int32_t right) const;
  std::string normalize(std::string_view text) const;

  ByteBpeParts parts_;
  std::string where_;
  std::array<std::int32_t, 256> id_of_byte_;
  std::unordered_map<std::uint64_t, Rank, PairHash> merges_;
  StringMap<std::int32_t> whole_words_;  // where ignore_merges
  AddedTokens raw_, normalized_;         // to be found before and after the normaliser
  mutable std::mutex cache_mutex_;
  mutable std::shared_ptr<Words> cache_;
  mutable std::once_flag warned_;
};

}  // namespace t2r
