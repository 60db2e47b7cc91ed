// Vocabularies of Hugging Face's translation models, JSON objects {"token": id}, as SentencePiece
// models with the same ids.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace t2r {

/// The tokens of the vocabulary at `path`, in the order of their ids. Throws one sentence unless
/// these are 0 to `entries` - 1, each once.
std::vector<std::string> read_vocabulary_json(const std::string& path, std::int64_t entries);

/// Ids of tokens that text never holds; bos is what targets begin with, and may be eos or pad.
struct SpecialIds {
  std::int64_t bos = -1, eos = -1, pad = -1;
};

/// A SentencePiece model that splits text as the one at `spm_path` does and numbers its pieces as
/// `tokens` does, among them <unk>. Tokens that the file lacks are in no text, but can be decoded;
/// pieces that `tokens` lacks are left out, and text is split without them. A token such as >>fra<<
/// (the target language, which Marian's models for several are told in front of a text) stays
/// whole. Throws one sentence when the two do not belong together; `where` names the vocabulary.
std::string renumbered_sentencepiece(std::span<const std::string> tokens, const SpecialIds& special,
                                     const std::string& spm_path, const std::string& where);

/// A SentencePiece model for text that was split into BPE units beforehand, units between spaces,
/// and "@@" at the end of one that goes on, as subword-nmt and fastBPE write them. In `tokens` it
/// is the last unit of a word that has a mark, "</w>". Throws one sentence beginning with `where`
/// when <unk> is missing or a unit is listed twice.
std::string bpe_units_model(std::span<const std::string> tokens, const SpecialIds& special,
                            const std::string& where);

}  // namespace t2r
