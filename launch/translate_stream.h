// Translating lines of text, in order, by one rank or several: what translate and evaluate share.
#pragma once

#include <CLI/CLI.hpp>
#include <iosfwd>
#include <memory>
#include <string>

#include "core/model/beam_search.h"
#include "data/tokenizer.h"
#include "dist/mesh.h"

namespace t2r {

/// An encoder-decoder model with its tokenizers.
struct Translator {
  std::unique_ptr<Transformer> model;
  Tokenizer source, target;

  /// Usage error for a language model. With `parallel` this rank's part of the model.
  static Translator load(const std::string& folder, DType dtype, const TensorParallel& parallel);
};

struct TranslationOptions {
  BeamSearchOptions search;  // bos, eos and banned are the tokenizer's
  std::int64_t batch_tokens = 2048;
  std::int64_t buffer_lines = 2000;
  bool scores = false, json = false;
};

/// Adds --beam, --length-penalty, --max-length-a, --max-length-b and --batch-tokens.
/// `options` outlives `app`.
void add_search_options(CLI::App& app, TranslationOptions& options);

/// Usage error unless batches and buffers hold something.
void check_options(const TranslationOptions& options);

/// Translates the whole stream, the replicas of the model in turns; `out` is written by rank 0
/// alone. Collective: every rank reads the same lines.
void translate_stream(std::istream& in, std::ostream& out, const Translator& translator,
                      TranslationOptions options, Mesh& mesh);

}  // namespace t2r
