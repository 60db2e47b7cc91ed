// Models on disk, in the Hugging Face layout: config.json, model.safetensors, the tokenizer.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "core/model/config.h"
#include "core/model/transformer.h"
#include "data/dataset.h"

namespace t2r {

/// Reads FOLDER/config.json of a GPT-2 ("gpt2"), Llama ("llama", "mistral"), Qwen2 ("qwen2")
/// or own ("t2r_decoder", "t2r_encoder_decoder") model, swapped or not. Throws one sentence when a
/// key is missing or wrong, or when the architecture is not one of these.
ModelConfig read_model_config(const std::string& folder);

/// What its weights were written in, by the config.json: fp64, fp32 or bf16 (fp16 is read as fp32).
DType stored_dtype(const std::string& folder);

/// The model in FOLDER. Every tensor's shape is checked before it is used; tensors that the model
/// does not have are ignored with a warning. Files may be fp32, fp64, fp16 or bf16; values are
/// rounded to `dtype`. With `parallel` this rank's part of it: nothing else is read. `context` as
/// Transformer has it.
std::unique_ptr<Transformer> load_model(const std::string& folder, DType dtype,
                                        const TrainedPart& trained,
                                        const TensorParallel& parallel = {},
                                        const ContextParallel& context = {});

/// Writes the model in its own precision; load_model gives the same values bit for bit. Where
/// tensor-parallel ranks hold it together the first of them writes, and has no more than one whole
/// tensor at a time; what it throws the others do not see. Collective over them.
/// `provenance` (where the weights come from; may be empty) goes into config.json. `base_folder`,
/// where not empty, is a model or dataset folder whose tokenizer files are copied; if it is a
/// model, keys of its config.json that t2r does not know are kept. config.json is written last and
/// atomically: a folder that has one is complete.
void save_model(const Transformer& model, const std::string& folder,
                const std::map<std::string, std::string>& provenance = {},
                const std::string& base_folder = "");

/// What tensors are called in a file: as Hugging Face's class of the model's family has them, or by
/// the model's own names whatever the family.
enum class TensorNames : std::uint8_t { family, own };

/// The weights alone, in the model's precision: FOLDER/model.safetensors or, where that would be
/// larger than `shard_bytes`, several files with their index (a tensor is never cut). Collective as
/// save_model is; load_model reads either form and either names.
void save_weights(const Transformer& model, const std::string& folder, TensorNames names,
                  std::int64_t shard_bytes);

/// "float32", "bfloat16" or "float64".
const char* torch_name(DType dtype);

/// What save_model was given; empty for models from elsewhere.
std::map<std::string, std::string> read_provenance(const std::string& folder);

/// Throws unless the tokenizer in `model_folder` (where it has one of t2r's kinds) is the
/// dataset's.
void check_same_tokenizer(const std::string& model_folder, const Dataset& dataset);

/// The attention in words: "softmax", "t2r k=32", "elu k=64 with learned decay, softmax in layers
/// 3, 7".
std::string describe_attention(const ModelConfig& config);

}  // namespace t2r
