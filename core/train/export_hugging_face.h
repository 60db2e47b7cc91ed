// A model as a folder that Hugging Face's transformers loads, with the Python code that runs it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "core/model/transformer.h"

namespace t2r {

struct ExportResult {
  std::string model_type;  // "gpt2", "llama": transformers has the class; "t2r": the code is there
  bool fast_tokenizer = true;  // AutoTokenizer loads the tokenizer
};

/// Writes `model`, loaded from the folder `base`, to `folder`, which must not hold anything yet:
/// weights in files of at most `shard_bytes` bytes, the tokenizer, generation_config.json and,
/// last, config.json. Models of the GPT-2 and Llama families without swapped layers keep their
/// type, all others become "t2r" with `code` as modeling_t2r.py. load_model reads the folder and
/// gives the same values bit for bit. A usage error for encoder-decoder models.
ExportResult export_hugging_face(const Transformer& model, const std::string& base,
                                 const std::string& folder, std::int64_t shard_bytes,
                                 std::string_view code);

}  // namespace t2r
