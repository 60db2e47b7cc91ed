// Loss and perplexity of a model on text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/arena.h"
#include "core/model/transformer.h"
#include "data/dataset.h"
#include "data/pair_sampler.h"
#include "data/sampler.h"
#include "dist/comm.h"

namespace t2r {

struct EvaluationResult {
  double loss = 0;                  // nats a token
  std::int64_t tokens = 0;          // that were predicted
  std::int64_t words = 0;           // of the text, as dataset.json counts them; 0: unknown
  double perplexity_per_token = 0;  // exp(loss)
  double perplexity_per_word = 0;   // exp(loss * tokens / words); 0: words unknown
};

struct EvaluationOptions {
  std::int64_t sequence_length = 0;  // 0: the model's max_positions
  Packing packing = Packing::documents;
  std::int64_t micro_batch = 8;            // sequences a forward pass
  std::int64_t micro_batch_tokens = 8192;  // the same for sentence pairs, which need no length
  std::int64_t max_windows = 0;  // only the first windows of the text; 0: all (words then count)
};

/// The loss over every window of a text, or every target of sentence pairs, spread over the ranks
/// of `comm`; the same, bit for bit, on every rank and for any number of ranks. Of a model whose
/// tokens are shared out (Transformer::context) each of those ranks is such a group, and the sum of
/// a batch over the group is rounded its own way. `activations` and `scratch` are work space,
/// reused from call to call since fresh memory is slow. Collective.
EvaluationResult evaluate(Transformer& model, Comm& comm, const Corpus& corpus, std::int64_t words,
                          const EvaluationOptions& options, Arena& activations, Arena& scratch);

/// The same for a split of a dataset. Throws when the dataset has more token ids than the model.
EvaluationResult evaluate(Transformer& model, Comm& comm, const Dataset& dataset,
                          const std::string& split, const EvaluationOptions& options);

/// Usage error unless the sources of a dataset end as those that an encoder-decoder model was
/// trained with: with or without an end mark.
void check_source_end(bool source_eos, const ModelConfig& config);

/// Reads token ids: one sequence a line, numbers apart by spaces or commas. Throws one sentence
/// with the line where something is no number, or no id of the vocabulary.
std::vector<std::vector<std::int32_t>> read_token_ids(const std::string& path,
                                                      std::int64_t vocab_size);

/// The loss over given sequences, each for itself: every token but the first is predicted. Where
/// `logits_path` is not empty, the logits of sequence N (length x vocabulary, float32) become
/// /logits/N of that HDF5 file. One process.
EvaluationResult evaluate_token_ids(Transformer& model,
                                    const std::vector<std::vector<std::int32_t>>& sequences,
                                    const std::string& logits_path = "");

}  // namespace t2r
