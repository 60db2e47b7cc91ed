// Training of a SentencePiece model that keeps text exactly.
#include <sentencepiece_trainer.h>

#include <algorithm>
#include <unordered_map>
#include <vector>

#include "core/base/error.h"
#include "data/atomic_file.h"
#include "data/text_reader.h"
#include "data/tokenizer.h"

namespace t2r {
namespace {

constexpr std::size_t kMaxSentenceBytes = 4096;  // SentencePiece skips longer ones

/// Hands the lines of the texts to SentencePiece, long ones in parts that end before a space.
class Lines : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(std::span<const std::string_view> texts) : texts_(texts) { advance(); }

  bool done() const override { return done_; }
  void Next() override { advance(); }
  const std::string& value() const override { return line_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  void advance() {
    while (!rest_.empty() || text_ < texts_.size()) {
      if (rest_.empty()) {
        rest_ = texts_[text_++];
        continue;
      }
      std::size_t end = std::min(rest_.find('\n'), rest_.size());
      const bool whole = end <= kMaxSentenceBytes;
      if (!whole) {
        end = rest_.rfind(' ', kMaxSentenceBytes);
        if (end == 0 || end == std::string_view::npos) {
          end = kMaxSentenceBytes;
          while (end > 1 && (rest_[end] & 0xC0) == 0x80) --end;  // never inside a character
        }
      }
      const std::string_view line = rest_.substr(0, end);
      rest_.remove_prefix(std::min(end + (whole ? 1 : 0), rest_.size()));
      if (line.empty()) continue;
      line_ = line;
      return;
    }
    done_ = true;
  }

  std::span<const std::string_view> texts_;
  std::size_t text_ = 0;
  std::string_view rest_;
  std::string line_;
  bool done_ = false;
};

/// Whether a space may be too rare to become a piece by itself, as in Chinese. Spaces would then
/// become the bytes of SentencePiece's mark for them, and come back as that mark.
bool spaces_are_rare(std::span<const std::string_view> texts) {
  std::size_t spaces = 0, bytes = 0;
  for (std::string_view text : texts) {
    spaces += static_cast<std::size_t>(std::count(text.begin(), text.end(), ' '));
    bytes += text.size();
  }
  return spaces * 100 < bytes;
}

}  // namespace

void Tokenizer::train_sentencepiece(std::span<const std::string_view> texts,
                                    const SentencePieceTraining& options,
                                    const std::string& out_path) {
  const std::string& type = options.model_type;
  check_usage(type == "bpe" || type == "unigram" || type == "char",
              "unknown tokenizer type '{}': choose bpe, unigram or char", type);
  // <unk>, <s>, </s>, newline and 256 bytes come before the first learned piece.
  constexpr std::int64_t kFixedPieces = 260;
  check_usage(options.vocab_size > kFixedPieces && options.vocab_size <= (1 << 24),
              "a vocabulary of {} entries: {} are bytes and marks, so choose more (for example "
              "8192), or the byte tokenizer",
              options.vocab_size, kFixedPieces);
  for (std::string_view text : texts) check_utf8(text, "the text to train a tokenizer on");
  check(!Lines(texts).done(), "there is no text to train a tokenizer on");
  std::vector<std::string_view> all(texts.begin(), texts.end());
  const bool add_space = spaces_are_rare(texts);
  if (add_space) all.emplace_back(" ");  // a required character has to occur
  Lines lines(all);

  std::unordered_map<std::string, std::string> arguments{
      {"model_type", type},
      {"vocab_size", std::to_string(options.vocab_size)},
      {"hard_vocab_limit", "false"},
      {"normalization_rule_name", options.normalization},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"byte_fallback", "true"},
      {"user_defined_symbols", "\n"},
      {"max_sentence_length", std::to_string(2 * kMaxSentenceBytes)},
      // Sums of the unigram model depend on the number of threads: it is the same everywhere.
      {"num_threads", "4"},
      {"minloglevel", "3"},
  };
  if (add_space) arguments["required_chars"] = "\xE2\x96\x81";
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(arguments, &lines, &model);
  check_usage(status.ok(),
              "cannot train a {} tokenizer of {} entries on this text: {}; choose another "
              "vocabulary size, more text, or the byte tokenizer",
              type, options.vocab_size, status.ToString());
  write_file_atomically(out_path, model);
}

}  // namespace t2r
