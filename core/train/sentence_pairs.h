// Translations beside their references: reading and checking them.
#pragma once

#include <span>
#include <string>
#include <vector>

namespace t2r {

/// The lines of a file, plain or gzip, ended by \n only; the bytes between are kept as they are.
/// Throws when the file cannot be read.
std::vector<std::string> read_sentences(const std::string& path);

/// Usage errors: no sentences, different numbers of them, a sentence that is not UTF-8.
void check_sentence_pairs(std::span<const std::string> hypotheses,
                          std::span<const std::string> references);

}  // namespace t2r
