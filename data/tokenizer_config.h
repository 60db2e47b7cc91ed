// Which tokens begin and end a text: what lies beside a tokenizer.json says so, not the file.
#pragma once

#include <cstdint>
#include <string>

#include "data/byte_bpe.h"

namespace t2r {

inline constexpr const char* kByteBpeFile = "tokenizer.json";
inline constexpr const char* kTokenizerConfigFile = "tokenizer_config.json";

struct TextMarks {
  std::int32_t bos = -1, eos = -1;  // -1: none
  /// The content of a tokenizer_config.json that says so: the one that was read, where it does.
  std::string config;
};

/// Of the tokenizer at `path`, a file. Where it is called tokenizer.json, tokenizer_config.json in
/// the same folder decides (bos_token, eos_token; null: none), then config.json (bos_token_id,
/// eos_token_id; of several the first), else added tokens with the names that GPT-2, Llama and
/// SmolLM give them. Throws one sentence when one of these files is damaged or names a token that
/// the tokenizer has not.
TextMarks find_text_marks(const std::string& path, const ByteBpe& tokenizer);

}  // namespace t2r
