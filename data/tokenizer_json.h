// Our other tokenizers as the tokenizer.json of Hugging Face's tokenizers, with the same ids, so
// that AutoTokenizer loads them without SentencePiece.
#pragma once

#include <optional>
#include <string>

namespace t2r {

struct TokenizerJson {
  std::string tokenizer, config;  // contents of tokenizer.json and tokenizer_config.json
};

/// Of the file at `path`, a tokenizer.model or a bytes.json that Tokenizer::load takes. Texts begin
/// with <s> where there is one, as `t2r generate` has it. Nothing where the form cannot say the
/// same: SentencePiece models that normalise text, of words, or with pieces found before a space is
/// put in front of the text.
std::optional<TokenizerJson> tokenizer_json(const std::string& path);

}  // namespace t2r
