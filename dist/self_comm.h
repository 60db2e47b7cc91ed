// The communicator of one rank alone: every collective is already done.
#pragma once

#include <memory>
#include <string>

#include "dist/comm.h"

namespace t2r {

class SelfComm : public Comm {
 public:
  SelfComm() : Comm(0, 1) {}

  void all_reduce(Tensor x, ReduceOp op, Queue queue) override;
  std::unique_ptr<Pending> start_all_reduce(Tensor x, ReduceOp op, Queue queue) override;
  std::unique_ptr<Pending> start_reduce_scatter(Tensor in, Tensor out, Queue queue) override;
  std::unique_ptr<Pending> start_all_gather(Tensor in, Tensor out, Queue queue) override;
  void broadcast(Tensor x, int root, Queue queue) override;
  void barrier() override {}
  std::unique_ptr<Comm> split(int color, int key) override;
  /// Ends the process, after what was printed has been written out.
  [[noreturn]] void abort(int status) override;
  std::string kind() const override { return "self"; }
};

}  // namespace t2r
