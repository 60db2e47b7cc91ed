// From the process that mpirun or srun started (or nobody did) to its communicator and its share of
// the machine.
//
// Failure on many ranks: MPI cannot go on without one of them, so an error in any rank must end
// all. main catches once, prints, and calls Comm::abort(status), which ends every rank within a
// second and makes mpirun exit with that status. A rank that dies (killed, out of memory, a crash)
// is noticed by mpirun, which ends the others; under srun use --kill-on-bad-exit. A rank that hangs
// is noticed by the ranks that wait for it (MpiWatchdog).
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "dist/comm.h"

namespace t2r {

/// What the environment says about how this process was started.
struct Launch {
  std::string launcher;  // "mpirun", "mpiexec (MPICH)", "srun" or "another launcher"; empty: none
  int size = 1;          // number of ranks; 0 when the launcher does not say
  bool process_management = true;  // false: srun without PMI or PMIx, where MPI cannot start
};

using GetEnv = std::function<const char*(const char*)>;

/// Reads the variables that Open MPI, MPICH, PMIx and Slurm set for the processes they start.
/// `get_env`: std::getenv, or another table in tests.
Launch detect_launch(const GetEnv& get_env);

/// Throws one sentence unless MPI counts as many ranks as the launcher started. They differ when
/// the launcher belongs to another MPI than this program: each process would then be rank 0 of 1,
/// and N jobs would overwrite one another's files.
void check_launched_size(const Launch& launch, int mpi_size);

/// The communicator of all ranks of this job. Without a launcher: one rank, MPI is never touched.
/// With one: MPI, which ends with the last communicator made from this one. `checking`: calls are
/// compared between ranks before each collective (CheckingComm). `collective_timeout`: seconds
/// after which MPI ranks that wait at a collective look for the ones that have not arrived, and
/// end the job (MpiWatchdog); 0: never. One call a process.
std::unique_ptr<Comm> make_world_comm(bool checking, double collective_timeout = 0);

/// Where a rank runs.
struct RankPlace {
  int local_rank = 0, local_size = 1;  // among the ranks on the same machine
  std::string host;
  /// Processors for this rank: those of its affinity mask, each divided by the number of local
  /// ranks that share it, and within the container's limit. At least 1.
  int cores = 1;
};

/// Collective over `world`. Threads of one process count as ranks of one machine.
RankPlace rank_place(Comm& world);

/// Threads that this rank should use: OMP_NUM_THREADS where set, else its cores. So both a bound
/// rank (its mask) and unbound ones (the machine divided by the local ranks) neither idle nor
/// compete.
int default_threads(const RankPlace& place);

}  // namespace t2r
