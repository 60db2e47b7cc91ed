// Weight files and vocabularies of llama2.c (https://github.com/karpathy/llama2.c): the "legacy"
// layout, version 0 of export.py, which run.c reads.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "data/mapped_file.h"
#include "data/sentencepiece_model.h"

namespace t2r {

struct Llama2cConfig {
  std::int64_t dim = 0, hidden_dim = 0, layers = 0, heads = 0, kv_heads = 0;
  std::int64_t vocab_size = 0, seq_len = 0;
  bool tied =
      true;  // the output matrix is the embedding; the file says so by a positive vocab_size

  std::int64_t head_size() const { return dim / heads; }
};

/// Names are run.c's, matrices (out, in) in row-major order:
///   token_embedding_table (vocab, dim); rms_att_weight, rms_ffn_weight (layers, dim);
///   wq, wo (layers, dim, dim); wk, wv (layers, kv_heads * head_size, dim);
///   w1, w3 (layers, hidden, dim); w2 (layers, dim, hidden); rms_final_weight (dim);
///   wcls (vocab, dim), only where it is not tied.
/// Queries and keys are rotated in adjacent pairs (2i, 2i + 1), unlike Hugging Face's halves.
class Llama2cFile {
 public:
  /// Throws one sentence unless the header makes sense and the file has just the size it asks for.
  explicit Llama2cFile(const std::string& path);

  const std::string& path() const { return file_.path(); }
  const Llama2cConfig& config() const { return config_; }
  std::vector<std::string> names() const;  // in the order of the file
  bool has(const std::string& name) const { return tensors_.contains(name); }
  /// Throws when there is no such tensor, here and below.
  const std::vector<std::int64_t>& shape(const std::string& name) const;
  /// Elements [first, first + out.size()).
  void read(const std::string& name, std::int64_t first, std::span<float> out) const;

 private:
  struct Tensor {
    std::vector<std::int64_t> shape;
    std::int64_t begin = 0, elements = 0;  // bytes, numbers
  };
  const Tensor& tensor(const std::string& name) const;

  MappedFile file_;
  Llama2cConfig config_;
  std::vector<std::string> order_;
  std::map<std::string, Tensor> tensors_;
};

/// The pieces of a tokenizer.bin for sentencepiece_model(): ids 0, 1, 2 are the unknown, <s>, </s>,
/// "<0x00>" to "<0xFF>" bytes, and spaces become U+2581. With bos 1, eos 2 and a dummy prefix the
/// SentencePiece model gives the ids of run.c. Throws one sentence unless the file holds
/// `vocab_size` tokens and nothing more.
std::vector<SentencePieceEntry> read_llama2c_tokenizer(const std::string& path,
                                                       std::int64_t vocab_size);

}  // namespace t2r
