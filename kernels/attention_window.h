// What linear attention needs to share its normaliser with softmax attention to a window of the
// last N tokens (a form of the hybrid of LoLCATs, Zhang et al. 2024). With o_w the softmax
// attention of token i to tokens i - N + 1 .. i, and num, den linear attention to the tokens before
// these:
//   o_i = (g o_w + num) / (g + den)
// g > 0, the gate, is learned, one a head. The window's weights sum to 1 before it, so den / g says
// how much all tokens before the window weigh beside it.
#pragma once

#include <cstdint>

#include "core/base/tensor.h"
#include "kernels/segments.h"

namespace t2r {

/// y (rows, columns) = x with the rows of each segment moved down by `rows` places (up, where it is
/// negative); rows without a source are zero. x and y may be column ranges and must not overlap.
void shift_rows(Queue queue, Tensor y, Tensor x, const Segments& segments, std::int64_t rows);

/// From linear attention's out = num / max(den, clamp) (rows, heads d) and den (rows, heads), and
/// o_w in `window` (rows, heads d): out becomes o, and the denominator g + den, with which
/// linear_attention_backward gives num's and den's gradients as it stands. gate (heads) = g, in
/// accumulate_dtype.
void window_combine(Queue queue, Tensor out, Tensor denominator, Tensor window, Tensor gate,
                    double clamp);

/// dwindow = the gradient of o_w, dgate (heads) += that of g, from what window_combine left in
/// `out` and `denominator`.
void window_gradient(Queue queue, Tensor dwindow, Tensor dgate, Tensor dout, Tensor out,
                     Tensor denominator, Tensor window, Tensor gate);

}  // namespace t2r
