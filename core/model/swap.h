// The swap: a pretrained model's configuration and weights with linear recurrent attention in place
// of softmax in the chosen layers (Kasai et al. 2021, section 2).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/model/transformer.h"

namespace t2r {

/// Which layers keep softmax: "none"; "every-4th" = every 4th layer counted from the top (the
/// paper's "T2R 75%"); "every-Nth" alike; or a list such as "0,3,11". Usage error otherwise.
std::vector<std::int64_t> layers_to_keep(const std::string& choice, std::int64_t layers);

/// `config` with all layers but `keep_softmax` swapped. Throws when the feature size does not suit
/// the map (t2r: at least 1; elu: equals head_dim, 0 means that; rfa: even).
ModelConfig swapped_config(ModelConfig config, const LinearAttentionConfig& linear,
                           const std::vector<std::int64_t>& keep_softmax);

/// Copies every parameter that both models have, by name; the rest of `to` (feature maps, decays)
/// is initialised from `seed`. Throws where shapes differ. Returns the number of fresh parameters.
int transfer_weights(const Transformer& from, Transformer& to, std::uint64_t seed);

}  // namespace t2r
