// Llama models in the single files of llama2.c and llama.cpp (GGUF) as ours.
#pragma once

#include <string>

#include "core/model/config.h"

namespace t2r {

/// Whether the file at `path` begins as a GGUF file does.
bool is_gguf_file(const std::string& path);

/// Reads a GGUF file of the architecture "llama" (all types that data/ggml_blocks.h lists; what is
/// quantised becomes fp32) with the tokenizer inside it and writes the model folder `out`. Throws
/// one sentence for another architecture, a tensor that is missing, misshapen or left over, and a
/// tokenizer that does not fit. `version`: of the program, for the provenance.
ModelConfig import_gguf(const std::string& path, const std::string& out,
                        const std::string& version);

/// The same for a checkpoint of llama2.c and its tokenizer.bin, which the checkpoint does not name.
ModelConfig import_llama2c(const std::string& path, const std::string& tokenizer,
                           const std::string& out, const std::string& version);

}  // namespace t2r
