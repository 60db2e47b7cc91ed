// Text to token ids and back, without loss: SentencePiece, byte-level BPE, or plain bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace t2r {

struct SentencePieceTraining {
  std::int64_t vocab_size = 8192;
  std::string model_type = "bpe";  // bpe, unigram or char
  // A rule of SentencePiece: identity, or nmt_nfkc for translation (full-width forms and the like
  // become plain ones).
  std::string normalization = "identity";
};

/// Copying is free; all functions may be called from several threads.
class Tokenizer {
 public:
  /// `path`: tokenizer.model (SentencePiece), bytes.json, tokenizer.json (byte-level BPE of
  /// Hugging Face, see data/byte_bpe.h), or a folder that holds one of them: the first is taken.
  /// tokenizer_config.json or config.json beside a tokenizer.json say what bos and eos are.
  static Tokenizer load(const std::string& path);
  /// The built-in byte tokenizer: ids 0-255 are bytes, <s> is 256, </s> is 257.
  static Tokenizer bytes();
  /// Trains SentencePiece on the lines of `texts` and writes `out_path`. The model keeps text
  /// exactly: no normalisation, newline is a token, what it has no piece for becomes bytes. The
  /// same texts and options give the same file. Text with few distinct words gives a smaller
  /// vocabulary than asked for.
  static void train_sentencepiece(std::span<const std::string_view> texts,
                                  const SentencePieceTraining& options,
                                  const std::string& out_path);

  /// Never adds bos or eos. `text` is valid UTF-8 (bytes(): anything). Byte-level BPE finds special
  /// tokens that stand in the text, such as <|endoftext|>: they come back as nothing.
  std::vector<std::int32_t> encode(std::string_view text) const;
  /// Appends to `ids`.
  void encode_to(std::string_view text, std::vector<std::int32_t>& ids) const;
  /// The bytes of the ids; bos, eos and other control tokens have none. Half a character stays half
  /// a character, so the pieces of a stream may be decoded one by one and joined (not with models
  /// of others that put a space in front of a text: there it is taken off again). Throws for an id
  /// outside the vocabulary.
  std::string decode(std::span<const std::int32_t> ids) const;

  std::int64_t vocab_size() const;
  std::int32_t bos() const;  // -1 where the model has none
  std::int32_t eos() const;  // -1 where the model has none
  std::int32_t pad() const;  // what fills up batches and is in no text; -1 where there is none
  /// Of its file.
  std::string sha256() const;
  /// "tokenizer.model", "bytes.json" or "tokenizer.json".
  std::string file_name() const;
  /// Writes its file, byte for byte as it was loaded, into `folder`; byte-level BPE also a
  /// tokenizer_config.json that says bos and eos: the one it was loaded with, where it does.
  void save(const std::string& folder) const;
  /// The same under another name.
  void save_as(const std::string& path) const;

  struct Implementation;

 private:
  explicit Tokenizer(std::shared_ptr<const Implementation> implementation)
      : implementation_(std::move(implementation)) {}
  std::shared_ptr<const Implementation> implementation_;
};

}  // namespace t2r
