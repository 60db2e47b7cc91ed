// Translation models of Hugging Face as ours: Marian's (OPUS-MT, model type "marian") and fairseq's
// of WMT19 ("fsmt").
#pragma once

#include <string>

#include "core/model/config.h"

namespace t2r {

/// Whether FOLDER/config.json says that it is one of these.
bool is_marian_folder(const std::string& folder);

/// Reads config.json, model.safetensors (one file or several) and the vocabulary, and writes the
/// model folder `out`: in bf16 where the folder is, else in fp32. Both types are post-norm models
/// with sinusoidal positions; Marian's begin targets with the padding token, fairseq's with the end
/// of the sentence. The tokenizers: of Marian vocab.json (target_vocab.json for a vocabulary of its
/// own) with source.spm and target.spm; of fsmt vocab-src.json and vocab-tgt.json, for text that
/// was split by Moses and BPE beforehand (data/vocabulary_json.h), whose codes go along as
/// merges.txt. Every tensor must be of the shape that the configuration asks for, and none may be
/// left over; tied ones must agree, and stored positions be the sinusoids. Throws one sentence
/// otherwise, and for settings that t2r does not have.
ModelConfig import_marian(const std::string& folder, const std::string& out,
                          const std::string& version);

}  // namespace t2r
