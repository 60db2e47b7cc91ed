// Launch detection by environment variables, MPI start, and counting of processors.
#include "dist/launcher.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <string_view>
#include <vector>

#include "dist/checking_comm.h"
#include "dist/mpi_comm.h"
#include "dist/self_comm.h"

namespace t2r {
namespace {

/// The whole number that `text` begins with, or `otherwise`.
int leading_number(const char* text, int otherwise) {
  if (!text) return otherwise;
  int value = 0;
  const std::string_view view(text);
  const auto result = std::from_chars(view.data(), view.data() + view.size(), value);
  return result.ec == std::errc() ? value : otherwise;
}

/// Processors that the control group grants (both versions), or infinity.
double container_limit() {
  double limit = std::numeric_limits<double>::infinity();
  double quota = 0, period = 0;
  if (std::ifstream v2("/sys/fs/cgroup/cpu.max"); v2 >> quota >> period) limit = quota / period;
  std::ifstream v1_quota("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream v1_period("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  if (v1_quota >> quota && v1_period >> period && quota > 0) limit = quota / period;
  return limit > 0 ? limit : std::numeric_limits<double>::infinity();
}

/// The processors that local ranks may run on, one mask a rank; this rank's share of its own.
int own_cores(Comm& local) {
  cpu_set_t mine;
  CPU_ZERO(&mine);
  if (sched_getaffinity(0, sizeof mine, &mine) != 0) {  // more processors than the mask has bits
    for (long i = 0; i < std::min<long>(CPU_SETSIZE, sysconf(_SC_NPROCESSORS_ONLN)); ++i)
      CPU_SET(i, &mine);
  }
  constexpr auto width = static_cast<std::int64_t>(sizeof mine / sizeof(double));
  std::vector<cpu_set_t> masks(static_cast<std::size_t>(local.size()));
  local.all_gather(Tensor(&mine, {width}, DType::f64),
                   Tensor(masks.data(), {width * local.size()}, DType::f64), Queue{});
  double share = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mine)) continue;
    int sharing = 0;
    for (const cpu_set_t& mask : masks) sharing += CPU_ISSET(cpu, &mask) ? 1 : 0;
    share += 1.0 / sharing;
  }
  share = std::min(share, container_limit() / local.size());
  return std::max(1, static_cast<int>(share + 1e-6));
}

}  // namespace

Launch detect_launch(const GetEnv& get_env) {
  // mpirun inside a Slurm job is seen first: its ranks inherit Slurm's variables too.
  if (const int n = leading_number(get_env("OMPI_COMM_WORLD_SIZE"), 0); n > 0)
    return {.launcher = "mpirun", .size = n};
  if (const int n = leading_number(get_env("PMI_SIZE"), 0); n > 0)
    return {.launcher = "mpiexec (MPICH)", .size = n};
  const bool managed = get_env("PMIX_RANK") || get_env("PMI_RANK") || get_env("PMI_FD");
  // Batch scripts have SLURM_PROCID too; only the tasks of a step have a step.
  if (get_env("SLURM_STEP_ID") && get_env("SLURM_PROCID")) {
    const int tasks =
        leading_number(get_env("SLURM_STEP_NUM_TASKS"), leading_number(get_env("SLURM_NTASKS"), 1));
    if (tasks > 1) return {.launcher = "srun", .size = tasks, .process_management = managed};
    return {};
  }
  if (get_env("PMIX_RANK")) return {.launcher = "another launcher", .size = 0};
  return {};
}

void check_launched_size(const Launch& launch, int mpi_size) {
  check_usage(launch.size == 0 || launch.size == mpi_size,
              "{} started {} processes, but MPI counts {} rank{}: the launcher belongs to another "
              "MPI than this program; use the mpirun of the MPI it was built with ({})",
              launch.launcher, launch.size, mpi_size, mpi_size == 1 ? "" : "s",
              launch.launcher == "srun" ? "or srun --mpi=pmix" : "see `mpirun --version`");
}

std::unique_ptr<Comm> make_world_comm(bool checking, double collective_timeout) {
  const Launch launch = detect_launch([](const char* name) { return std::getenv(name); });
  std::unique_ptr<Comm> world;
  if (launch.launcher.empty()) {
    world = std::make_unique<SelfComm>();
  } else {
    check_usage(launch.process_management,
                "srun started {} tasks without a way for MPI to connect them: use "
                "`srun --mpi=pmix`",
                launch.size);
    auto session = std::make_shared<MpiSession>(collective_timeout);
    MPI_Comm all = MPI_COMM_NULL;
    MPI_Comm_dup(MPI_COMM_WORLD, &all);
    world = std::make_unique<MpiComm>(all, std::move(session));
    check_launched_size(launch, world->size());
  }
  if (checking) world = std::make_unique<CheckingComm>(std::move(world));
  return world;
}

RankPlace rank_place(Comm& world) {
  Comm* plain = &world;
  if (auto* checked = dynamic_cast<CheckingComm*>(plain)) plain = &checked->inner();
  std::unique_ptr<Comm> local;
  if (auto* mpi = dynamic_cast<MpiComm*>(plain))
    local = mpi->split_by_host();
  else
    local = plain->split(0, plain->rank());
  char host[HOST_NAME_MAX + 1] = "";
  gethostname(host, sizeof host - 1);
  return {.local_rank = local->rank(),
          .local_size = local->size(),
          .host = host,
          .cores = own_cores(*local)};
}

int default_threads(const RankPlace& place) {
  const int asked = leading_number(std::getenv("OMP_NUM_THREADS"), 0);
  return asked > 0 ? asked : place.cores;
}

}  // namespace t2r
