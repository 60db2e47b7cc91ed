// The cases of tests/dist on real ranks, and the ways a job of several ranks ends. Run under
// mpirun:
//   mpi_comm_ranks [cases | disagree | throw | exit | differ | outside] [checking]
#include <chrono>
#include <cstdlib>
#include <string>
#include <thread>

#include "core/base/log.h"
#include "dist/launcher.h"
#include "dist/mesh.h"
#include "tests/dist/comm_cases.h"

namespace {

void run(t2r::Comm& world, const std::string& what) {
  if (what == "cases") {
    t2r::cases::all_cases(world);
    const t2r::Mesh mesh = t2r::make_mesh(world, world.size(), 1);
    t2r::check(mesh.dp->size() == world.size() && mesh.tp->size() == 1, "the mesh");
    const t2r::RankPlace place = t2r::rank_place(world);
    t2r::check(place.local_size == world.size() && place.local_rank == world.rank(),
               "rank {} of {} is local rank {} of {} on {}", world.rank(), world.size(),
               place.local_rank, place.local_size, place.host);
    t2r::info("{} ranks, {} cores a rank, {} threads", world.size(), place.cores,
              t2r::default_threads(place));
  } else if (what == "disagree") {
    world.all_reduce_value(1.0, world.rank() ? t2r::ReduceOp::max : t2r::ReduceOp::sum);
  } else if (what == "throw") {
    t2r::check(world.rank() != 1, "rank 1 fails on purpose");
    world.barrier();
  } else if (what == "exit") {
    if (world.rank() == 1) std::_Exit(3);
    world.barrier();
  } else if (what == "differ") {
    double x = 0;
    if (world.rank() == 0)
      world.barrier();
    else
      world.broadcast(t2r::Tensor(&x, {1}, t2r::DType::f64), 0, t2r::Queue{});
  } else if (what == "outside") {
    // Rank 0 waits for rank 1 alone, which waits for all, among them rank 2, which hangs.
    const auto pair = world.split(world.rank() / 2, world.rank());
    if (world.rank() == 0) pair->barrier();
    if (world.rank() == 1) world.barrier();
    std::this_thread::sleep_for(std::chrono::hours(1));
  } else {
    t2r::fail_usage("unknown part '{}': choose cases, disagree, throw, exit, differ or outside",
                    what);
  }
}

}  // namespace

int main(int count, char** arguments) {
  const std::string what = count > 1 ? arguments[1] : "cases";
  const bool checking = count > 2 && std::string(arguments[2]) == "checking";
  try {
    const double timeout = what == "differ" || what == "outside" ? 1 : 0;
    const auto world = t2r::make_world_comm(checking, timeout);
    t2r::log_rank(world->rank(), world->size());
    try {
      run(*world, what);
    } catch (const t2r::Error& e) {
      t2r::warn("{}", e.what());
      world->abort(e.status());
    }
    t2r::info("passed: {} on {} ranks of {}", what, world->size(), world->kind());
  } catch (const t2r::Error& e) {
    t2r::warn("{}", e.what());
    return e.status();
  }
  return 0;
}
