// ModelConfig as config.json: the Hugging Face form of the GPT-2 and Llama families, our own form
// for everything else.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "core/model/config.h"

namespace t2r {

/// How a model's config.json and tensors are named on disk.
enum class DiskFamily : std::uint8_t { gpt2, llama, own };

/// The family that `config` belongs to; own when it fits none of Hugging Face's.
DiskFamily disk_family(const ModelConfig& config);

/// The keys of config.json that describe `config`, with "t2r" for swapped layers.
nlohmann::json config_to_json(const ModelConfig& config);

/// The same for the class T2RForCausalLM of launch/hugging_face/modeling_t2r.py (decoder-only).
nlohmann::json exported_config_json(const ModelConfig& config);

/// The same in our own form whatever the family, dropout rates left out: what names a model.
nlohmann::json canonical_config_json(const ModelConfig& config);

/// Reads either form. `path` names the file in messages. Throws one sentence when a key is missing,
/// has the wrong type or asks for something that t2r does not have.
ModelConfig config_from_json(const nlohmann::json& json, const std::string& path);

}  // namespace t2r
