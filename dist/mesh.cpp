// Rank = dp rank * tp + tp rank: the parts of one model are neighbours.
#include "dist/mesh.h"

namespace t2r {

Mesh make_mesh(Comm& world, int dp, int tp) {
  check_usage(dp >= 1 && tp >= 1, "a mesh of dp {} x tp {}: both must be at least 1", dp, tp);
  check_usage(std::int64_t{dp} * tp == world.size(),
              "a mesh of dp {} x tp {} needs {} ranks, but this job has {}: start it with "
              "`mpirun -np {}`, or choose dp and tp so that dp x tp = {}",
              dp, tp, std::int64_t{dp} * tp, world.size(), std::int64_t{dp} * tp, world.size());
  const int dp_rank = world.rank() / tp, tp_rank = world.rank() % tp;
  auto dp_group = world.split(tp_rank, dp_rank);
  auto tp_group = world.split(dp_rank, tp_rank);
  return Mesh{world, std::move(dp_group), std::move(tp_group)};
}

}  // namespace t2r
