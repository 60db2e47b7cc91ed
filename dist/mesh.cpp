// Rank = (dp rank * cp + cp rank) * tp + tp rank: the parts of one model are neighbours.
#include "dist/mesh.h"

namespace t2r {

Mesh make_mesh(Comm& world, int dp, int tp, int cp) {
  check_usage(dp >= 1 && tp >= 1 && cp >= 1,
              "a mesh of dp {} x cp {} x tp {}: each must be at least 1", dp, cp, tp);
  // In long double: three large factors cannot overflow it.
  const auto ranks = static_cast<long double>(dp) * cp * tp;
  check_usage(ranks == world.size(),
              "a mesh of dp {} x cp {} x tp {} needs {:.0f} ranks, but this job has {}: start it "
              "with `mpirun -np {:.0f}`, or choose dp, cp and tp so that dp x cp x tp = {}",
              dp, cp, tp, ranks, world.size(), ranks, world.size());
  const int tp_rank = world.rank() % tp;
  const int replica = world.rank() / tp, dp_rank = replica / cp, cp_rank = replica % cp;
  auto dp_group = world.split(cp_rank * tp + tp_rank, dp_rank);
  auto cp_group = world.split(dp_rank * tp + tp_rank, cp_rank);
  auto tp_group = world.split(replica, tp_rank);
  auto replicas = world.split(tp_rank, replica);
  return Mesh{world, std::move(dp_group), std::move(cp_group), std::move(tp_group),
              std::move(replicas)};
}

}  // namespace t2r
