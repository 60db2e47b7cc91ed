// Rotary position embedding (Su et al. 2021), in the half-split layout of the Hugging Face models:
// elements i and i + d/2 of a head turn together by position * theta^(-2i/d).
#pragma once

#include <cstdint>

#include "core/base/tensor.h"

namespace t2r {

/// Rotates x (rows, heads * head_dim) in place; x may be a column range. `inverse` turns backwards,
/// which is the gradient.
void rotary(Queue queue, Tensor x, const std::int32_t* position_ids, std::int64_t head_dim,
            double theta, bool inverse);

}  // namespace t2r
