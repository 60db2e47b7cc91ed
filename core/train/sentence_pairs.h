// Translations beside their references: reading and checking them.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace t2r {

/// The lines of a text, ended by \n only; the last one may lack its end.
std::vector<std::string> split_lines(std::string_view text);

/// The lines of a file, plain or gzip, ended by \n only; the bytes between are kept as they are.
/// Throws when the file cannot be read.
std::vector<std::string> read_sentences(const std::string& path);

/// Usage errors: no sentences, different numbers of them, a sentence that is not UTF-8.
void check_sentence_pairs(std::span<const std::string> hypotheses,
                          std::span<const std::string> references);

}  // namespace t2r
