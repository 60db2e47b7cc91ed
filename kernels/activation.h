// The feed-forward network's pointwise functions.
#pragma once

#include "core/base/tensor.h"

namespace t2r {

enum class Activation : std::uint8_t { gelu_tanh, gelu_erf, relu, silu, swiglu };

/// y = f(x), element by element (gelu_tanh, gelu_erf, relu, silu); x and y of one shape.
void activation_forward(Queue queue, Activation kind, Tensor y, Tensor x);
/// dx = dy * f'(x); dx may be dy.
void activation_backward(Queue queue, Activation kind, Tensor dx, Tensor dy, Tensor x);

/// y (rows, n) = silu(gate) * up (Shazeer 2020, "GLU Variants"), gate_up (rows, 2n) = [gate | up].
void swiglu_forward(Queue queue, Tensor y, Tensor gate_up);
/// dgate_up (rows, 2n) =.
void swiglu_backward(Queue queue, Tensor dgate_up, Tensor dy, Tensor gate_up);

}  // namespace t2r
