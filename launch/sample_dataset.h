// t2r generate --dataset: texts drawn from a model, as a dataset to train on (what a model learns
// from its teacher beside real text).
#pragma once

#include <cstdint>
#include <string>

#include "core/model/sampling.h"
#include "core/model/transformer.h"
#include "data/tokenizer.h"
#include "dist/mesh.h"

namespace t2r {

/// Logits of the tokenizer's entries: models pad their vocabulary with rows that are no tokens.
Tensor of_tokens(const Tensor& logits, const Tokenizer& tokenizer);

struct SampleOptions {
  std::string out;                // the dataset folder
  std::string base;               // a dataset whose splits the new one gets too; may be empty
  std::int64_t texts = 0;         // to draw
  std::int64_t max_tokens = 512;  // of a text, <s> included
  std::int64_t batch = 8;         // texts drawn at once on a rank
  SamplingOptions sampling;
  bool overwrite = false;
};

/// Draws texts from nothing but <s> and writes them as the train split, after that of the base;
/// data-parallel ranks share them out, a shard each, and the texts do not depend on their number.
/// A text ends where the model ends it (with </s>, or with another <s>, which is left out) or at
/// max_tokens. A usage error, before anything is drawn, where tokenizer, base or folder do not fit.
/// Collective.
void sample_dataset(const Mesh& mesh, const Transformer& model, const Tokenizer& tokenizer,
                    const SampleOptions& options);

}  // namespace t2r
