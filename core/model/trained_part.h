// Which parameters a run trains: the others keep their values, and cost neither gradients nor
// optimizer state, communication or work in backward.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace t2r {

/// What a parameter is to a choice of TrainedPart.
enum class ParamGroup : std::uint8_t {
  model,              // of the pretrained model, outside swapped attention
  swapped_attention,  // its projections in a layer whose attention is linear
  feature_map,        // added by the swap: maps, decays, gates of windows
  adapter             // low-rank, beside a matrix that stays as it is (lora.h)
};

/// Low-rank adapters (Hu et al. 2021).
struct LoraOptions {
  std::int64_t rank = 8;
  double alpha = 16;                                     // what they add is scaled by alpha / rank
  std::vector<std::string> targets{"q", "k", "v", "o"};  // projections: also gate, up, down
  bool operator==(const LoraOptions&) const = default;
};

struct TrainedPart {
  enum Kind : std::uint8_t {
    nothing,  // a model without gradients
    all,
    attention,     // all of the attention of swapped layers
    feature_maps,  // only what the swap added
    lora           // that, and low-rank adapters beside the matrices
  };
  Kind kind = nothing;
  LoraOptions lora_options;

  TrainedPart() = default;
  TrainedPart(Kind k) : kind(k) {}  // implicit: most choices are no more than that

  bool trains(ParamGroup group) const;
  /// Whether the projection of this name, such as "model.layers.0.self_attn.q_proj", has an
  /// adapter.
  bool adapts(const std::string& projection) const;
  bool operator==(const TrainedPart&) const = default;
};

/// Whether parameters of this group did not exist before the swap or this run.
inline bool is_new(ParamGroup group) {
  return group == ParamGroup::feature_map || group == ParamGroup::adapter;
}

/// "all", "attention", "feature-maps" or "lora"; anything else is a usage error.
TrainedPart parse_trained_part(const std::string& name);
/// Names of projections with commas between them, "fc" for the whole feed-forward layer; anything
/// unknown is a usage error.
std::vector<std::string> parse_lora_targets(const std::string& names);
/// The choice in words, for checkpoints and messages.
std::string name_of(const TrainedPart& part);

}  // namespace t2r
