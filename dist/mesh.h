// How the ranks of a job divide the work.
#pragma once

#include <memory>

#include "dist/comm.h"

namespace t2r {

/// dp: ranks that share out the sequences. cp: ranks that share out the tokens of each sequence.
/// tp: parts of one model, innermost so that they stay on a node. replicas: dp x cp, the ranks that
/// hold the same parameters, over which gradients are summed.
struct Mesh {
  Comm& world;
  std::unique_ptr<Comm> dp, cp, tp, replicas;
};

/// Splits `world` into dp x cp x tp ranks. A usage error when that is not their number.
Mesh make_mesh(Comm& world, int dp, int tp, int cp = 1);

}  // namespace t2r
