// Finds ranks that do not make the same calls, which otherwise hang or corrupt memory.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "dist/collective_call.h"
#include "dist/comm.h"

namespace t2r {

/// Before each collective the ranks agree on what is called: kind, operation, element type, count,
/// root and number. When they do not, every rank throws one sentence that names the ranks and what
/// each called. A rank that gives its communicator up while others go on is found too. Costs one
/// small all_gather a call, and makes the start of a collective wait for the slowest rank. Groups
/// made by split() check as well. What it cannot see: ranks that call on different communicators,
/// and a rank that makes no call at all.
class CheckingComm : public Comm {
 public:
  explicit CheckingComm(std::unique_ptr<Comm> inner);
  /// Agrees with the other ranks that this communicator is over, unless an exception is on its way.
  ~CheckingComm() override;

  void all_reduce(Tensor x, ReduceOp op, Queue queue) override;
  std::unique_ptr<Pending> start_all_reduce(Tensor x, ReduceOp op, Queue queue) override;
  std::unique_ptr<Pending> start_reduce_scatter(Tensor in, Tensor out, Queue queue) override;
  std::unique_ptr<Pending> start_all_gather(Tensor in, Tensor out, Queue queue) override;
  void broadcast(Tensor x, int root, Queue queue) override;
  void barrier() override;
  std::unique_ptr<Comm> split(int color, int key) override;
  [[noreturn]] void abort(int status) override;
  std::string kind() const override { return "checking " + inner_->kind(); }

  Comm& inner() { return *inner_; }

 private:
  void agree(const CollectiveCall& call);

  std::unique_ptr<Comm> inner_;
  std::int64_t number_ = 0;  // of collectives so far
  bool failed_ = false;  // ranks disagreed or a collective failed: no more agreement is possible
};

}  // namespace t2r
