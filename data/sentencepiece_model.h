// Writes SentencePiece models whose pieces come from elsewhere; SentencePiece's own trainer cannot
// be given them. And reads what of a model a rewritten one needs.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace t2r {

/// ModelProto.SentencePiece.Type; GGUF files use the same numbers.
enum class PieceType : std::uint8_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};

struct SentencePieceEntry {
  std::string piece;  // a space is U+2581; bytes are "<0x00>" to "<0xFF>"
  float score = 0;
  PieceType type = PieceType::normal;
};

struct SentencePieceOptions {
  // word: a text's pieces are its words, between spaces.
  enum class Model : std::uint8_t { unigram = 1, bpe = 2, word = 3, character = 4 };
  Model model = Model::bpe;
  bool dummy_prefix = true;          // a space in front of every text
  bool remove_extra_spaces = false;  // repeated ones, and those around the text
  // Ids of control pieces; -1: none.
  std::int64_t bos = -1, eos = -1, pad = -1;
  // Of another model (SentencePieceParts): its algorithm and normalisation in place of the above.
  std::string trainer = {}, normalizer = {};
};

/// A model taken apart.
struct SentencePieceParts {
  std::vector<SentencePieceEntry> entries;
  std::string trainer,
      normalizer;  // the messages TrainerSpec and NormalizerSpec, as they lie there
};

/// The parts of the model in `bytes`. Throws one sentence, beginning with `where`, when it is none:
/// nothing is trusted.
SentencePieceParts sentencepiece_parts(std::string_view bytes, const std::string& where);

/// The bytes of a SentencePiece model whose piece N is entries[N]. Text is taken as it is, without
/// normalisation (but for `normalizer`). Throws one sentence, beginning with `where`, unless
/// SentencePiece would load it: pieces are UTF-8, not empty and differ; one is the unknown; of
/// bytes there are all or none.
std::string sentencepiece_model(std::span<const SentencePieceEntry> entries,
                                const SentencePieceOptions& options, const std::string& where);

/// What a SentencePiece model does to text before and while it looks for pieces.
struct SentencePieceRules {
  std::uint64_t model = 1;    // as SentencePieceOptions::Model
  std::string normalization;  // identity, nmt_nfkc, ..., or a name that its maker gave
  bool dummy_prefix = true;   // a space in front of every text
  bool one_space = true;      // of several in a row, none at the ends
  bool mark_spaces = true;    // U+2581 for a space
  bool space_behind = false;  // a space belongs to the word before it
};

/// Of the bytes of a model that SentencePiece has loaded. Nothing where they cannot be read.
std::optional<SentencePieceRules> sentencepiece_rules(std::string_view model);

}  // namespace t2r
