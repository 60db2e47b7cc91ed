// Ranks as threads of one process, so that everything about ranks is tested without a launcher,
// under sanitizers, in milliseconds.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "dist/comm.h"

namespace t2r {

/// Runs `rank_main` on `size` ranks, each a thread, and returns when all have ended. Sums are
/// formed in the order of the ranks. When a rank throws, collectives of the others that can no
/// longer complete throw too, and the first exception is thrown again here: nothing hangs. The same
/// holds for a rank that returns while others wait for it, for ranks whose calls do not match, for
/// a Pending that is dropped without wait(), and for abort(), which throws.
void run_ranks(int size, const std::function<void(Comm&)>& rank_main);

struct ThreadGroup;      // the ranks of one communicator
struct ThreadOperation;  // one collective, from its first rank's arrival to its end

/// What run_ranks() gives to its ranks.
class ThreadComm : public Comm {
 public:
  ThreadComm(std::shared_ptr<ThreadGroup> group, int rank);
  ~ThreadComm() override;

  void all_reduce(Tensor x, ReduceOp op, Queue queue) override;
  std::unique_ptr<Pending> start_all_reduce(Tensor x, ReduceOp op, Queue queue) override;
  std::unique_ptr<Pending> start_reduce_scatter(Tensor in, Tensor out, Queue queue) override;
  std::unique_ptr<Pending> start_all_gather(Tensor in, Tensor out, Queue queue) override;
  void broadcast(Tensor x, int root, Queue queue) override;
  void barrier() override;
  std::unique_ptr<Comm> split(int color, int key) override;
  /// Throws here and makes every other rank's collectives throw.
  [[noreturn]] void abort(int status) override;
  std::string kind() const override { return "threads"; }

 private:
  std::shared_ptr<ThreadGroup> group_;
  std::int64_t next_ = 0;  // number of this rank's next collective
};

}  // namespace t2r
