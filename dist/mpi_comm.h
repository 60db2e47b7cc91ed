// Ranks as MPI processes, usually on several machines.
#pragma once

#include <mpi.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dist/collective_call.h"
#include "dist/comm.h"
#include "dist/mpi_watchdog.h"

namespace t2r {

/// Large collectives are cut into calls of this many bytes: Open MPI allocates a temporary in each
/// call, and fresh large ones cost 15-20 times the transfer itself. Results depend on the cut (the
/// order of a sum may), so it is a constant.
constexpr std::int64_t kMpiChunkBytes = std::int64_t{1} << 20;

/// MPI from initialisation to MPI_Finalize. When it ends because an exception unwinds the stack,
/// MPI_Finalize is left out: it would wait for ranks that wait for this one, and a process that
/// exits without it makes mpirun end the others.
class MpiSession {
 public:
  /// Calls MPI_Init_thread for a process of which only the main thread makes MPI calls, and tells
  /// the allocator to keep freed memory (glibc's malloc, for the whole process).
  /// `collective_timeout`: see MpiWatchdog.
  explicit MpiSession(double collective_timeout);
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  MpiWatchdog& watchdog() { return *watchdog_; }

 private:
  std::optional<MpiWatchdog> watchdog_;
};

/// All that waits polls under the eyes of the watchdog; results do not depend on it. Calls of one
/// communicator come from one thread at a time. A maximum or minimum over values of which some are
/// NaN is unspecified; a sum is NaN then. A Pending that is dropped without wait() is correct only
/// on the way to abort().
class MpiComm : public Comm {
 public:
  /// Owns `comm`, a duplicate or part of MPI_COMM_WORLD, and keeps the session alive. `group`: a
  /// number that its members share and other communicators do not have.
  MpiComm(MPI_Comm comm, std::shared_ptr<MpiSession> session, std::uint64_t group = 0);
  ~MpiComm() override;

  void all_reduce(Tensor x, ReduceOp op, Queue queue) override;
  std::unique_ptr<Pending> start_all_reduce(Tensor x, ReduceOp op, Queue queue) override;
  std::unique_ptr<Pending> start_reduce_scatter(Tensor in, Tensor out, Queue queue) override;
  std::unique_ptr<Pending> start_all_gather(Tensor in, Tensor out, Queue queue) override;
  void broadcast(Tensor x, int root, Queue queue) override;
  void barrier() override;
  std::unique_ptr<Comm> split(int color, int key) override;
  /// MPI_Abort of all ranks of the job; mpirun exits with `status`.
  [[noreturn]] void abort(int status) override;
  std::string kind() const override { return "mpi"; }

  /// The ranks that share this rank's memory, that is its machine.
  std::unique_ptr<Comm> split_by_host();

 private:
  StartedCall started(const CollectiveCall& call);
  /// Waits for the request that `start` makes by the MPI function `what`.
  template <class Start>
  void complete(const StartedCall& call, const char* what, Start&& start);
  /// One message each way, or one way where `out` or `in` is null.
  void exchange(const StartedCall& call, int partner, const void* out, void* in, int bytes);
  /// Recursive doubling. MPI_Iallreduce takes two to three times as long for a few numbers, and
  /// MPI_Allreduce cannot be watched.
  template <class T>
  void reduce_small(const StartedCall& call, T* x, int count, ReduceOp op);
  /// Returns when all ranks are here.
  void meet(CallKind kind);

  MPI_Comm comm_;
  std::shared_ptr<MpiSession> session_;
  std::uint64_t group_;
  std::vector<int> members_;  // as ranks of the job
  std::int64_t number_ = 0;   // of collectives so far
};

}  // namespace t2r
