// A list of characters as a SentencePiece model.
#pragma once

#include <span>
#include <string>

namespace t2r {

/// The bytes of a SentencePiece model (its type "char") whose piece N is tokens[N]: characters of
/// one code point each, and the special tokens <s>, </s>, <unk> (these three must be there) and
/// <blank> or <pad>. Text is taken as it is; characters that are not listed become <unk>. Throws
/// one sentence, beginning with `where`, when the list is not of this kind.
std::string character_model(std::span<const std::string> tokens, const std::string& where);

}  // namespace t2r
