// The parts of a block while decoding, without anything kept for backward.
#pragma once

#include "core/model/block.h"
#include "kernels/elementwise.h"

namespace t2r {

/// x (rows, hidden) = x + f(norm(x)), or norm(x + f(x)); f(y, input) computes the branch.
template <class F>
void residual_step(Step& step, const NormLayer& norm, bool pre_norm, const ParamStore& params,
                   Tensor x, F&& f) {
  const ArenaScope scratch_scope(step.scratch), activations_scope(step.activations);
  const Tensor branch = step.scratch.allocate(x.shape, x.dtype);
  const Tensor normed = step.scratch.allocate(x.shape, x.dtype);
  NormStats stats;
  if (pre_norm) norm.forward(step, params, normed, x, &stats);
  f(branch, pre_norm ? normed : x);
  add_to(step.queue, x, branch);
  if (pre_norm) return;
  norm.forward(step, params, normed, x, &stats);
  copy(step.queue, x, normed);
}

/// y (rows, hidden) = feed_forward(x).
inline void ffn_step(Step& step, const ParamStore& params, const Block& block, Tensor y, Tensor x) {
  const auto scratch = [&](std::int64_t columns) {
    return step.scratch.allocate(Shape{x.rows(), columns}, x.dtype);
  };
  block.ffn_forward(step, params, y, x, scratch(block.ffn_hidden_size()), scratch(block.ffn_size()),
                    nullptr);
}

}  // namespace t2r
