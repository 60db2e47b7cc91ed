// Which parameters a run trains: the others keep their values, and cost neither gradients nor
// optimizer state, communication or work in backward.
#pragma once

#include <cstdint>
#include <string>

namespace t2r {

/// What a parameter is to a choice of TrainedPart.
enum class ParamGroup : std::uint8_t {
  model,              // of the pretrained model, outside swapped attention
  swapped_attention,  // its projections in a layer whose attention is linear
  feature_map         // added by the swap: maps, decays, gates of windows
};

struct TrainedPart {
  enum Kind : std::uint8_t {
    nothing,  // a model without gradients
    all,
    attention,    // all of the attention of swapped layers
    feature_maps  // only what the swap added
  };
  Kind kind = nothing;

  TrainedPart() = default;
  TrainedPart(Kind k) : kind(k) {}  // implicit: most choices are no more than that

  bool trains(ParamGroup group) const;
  bool operator==(const TrainedPart&) const = default;
};

/// "all", "attention" or "feature-maps"; anything else is a usage error.
TrainedPart parse_trained_part(const std::string& name);
/// The choice in words, for checkpoints and messages.
std::string name_of(const TrainedPart& part);

}  // namespace t2r
