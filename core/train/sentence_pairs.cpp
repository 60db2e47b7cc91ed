#include "core/train/sentence_pairs.h"

#include "core/base/error.h"
#include "data/text_file.h"
#include "data/text_reader.h"

namespace t2r {
namespace {

void check_utf8_lines(std::span<const std::string> sentences, std::string_view what) {
  for (std::size_t line = 0; line < sentences.size(); ++line) {
    const std::int64_t fault = find_invalid_utf8(sentences[line]);
    if (fault < 0) continue;
    fail_usage(
        "line {} of the {} is not valid UTF-8: byte 0x{:02X} at its byte {}; convert the text, for "
        "example with iconv -t utf-8",
        line + 1, what,
        static_cast<unsigned char>(sentences[line][static_cast<std::size_t>(fault)]), fault + 1);
  }
}

}  // namespace

std::vector<std::string> split_lines(std::string_view text) {
  std::vector<std::string> sentences;
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    sentences.emplace_back(text.substr(0, end));
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
  return sentences;
}

std::vector<std::string> read_sentences(const std::string& path) {
  return split_lines(TextFile(path).text());
}

void check_sentence_pairs(std::span<const std::string> hypotheses,
                          std::span<const std::string> references) {
  check_usage(hypotheses.size() == references.size(),
              "{} hypotheses and {} references: line N of one belongs to line N of the other, so "
              "give as many of both",
              hypotheses.size(), references.size());
  check_usage(!hypotheses.empty(), "there are no sentences to score: the files are empty");
  check_utf8_lines(hypotheses, "hypotheses");
  check_utf8_lines(references, "references");
}

}  // namespace t2r
