// The tokenizer inside a GGUF file, as the files that Tokenizer loads.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/gguf.h"
#include "data/sentencepiece_model.h"

namespace t2r {

/// The keys tokenizer.ggml.*; empty, or -1, where the file has none.
struct GgufVocabulary {
  std::string model;  // "gpt2": byte-level BPE; "llama": SentencePiece's BPE; ...
  std::string pre;    // how byte-level BPE cuts words: "gpt-2", "smollm", "qwen2", "llama-bpe", ...
  std::vector<std::string> tokens;
  std::vector<float> scores;
  std::vector<PieceType> types;  // normal where the file says nothing
  std::vector<std::string> merges;
  std::int64_t bos = -1, eos = -1, unknown = -1, padding = -1;
  bool add_bos = false, add_eos = false;
  bool space_prefix = true;  // SentencePiece puts a space in front of every text
};

/// Throws one sentence when the lists do not fit together or an id lies outside.
GgufVocabulary gguf_vocabulary(const GgufFile& file);

struct TokenizerFiles {
  std::string name;     // tokenizer.json or tokenizer.model
  std::string content;  // of this file
  std::string config;   // tokenizer_config.json with bos and eos; only beside a tokenizer.json
};

/// For the models "gpt2" with pre gpt-2, smollm, starcoder, qwen2, llama-bpe, and "llama". Throws
/// one sentence that names any other, and where the vocabulary makes no tokenizer.
TokenizerFiles tokenizer_files(const GgufVocabulary& vocabulary, const std::string& where);

}  // namespace t2r
