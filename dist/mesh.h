// How the ranks of a job divide the work.
#pragma once

#include <memory>

#include "dist/comm.h"

namespace t2r {

/// dp: replicas that share the data. tp: parts of one model, innermost so that they stay on a node.
struct Mesh {
  Comm& world;
  std::unique_ptr<Comm> dp, tp;
};

/// Splits `world` into dp x tp ranks. A usage error when dp * tp is not the number of ranks.
Mesh make_mesh(Comm& world, int dp, int tp);

}  // namespace t2r
