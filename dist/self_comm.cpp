// One rank: arguments are checked as with many ranks, so that a wrong call fails here already.
#include "dist/self_comm.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "dist/collective_call.h"

namespace t2r {
namespace {

class Done : public Pending {
 public:
  void wait() override {}
  bool test() override { return true; }
};

void copy(const Tensor& in, const Tensor& out) {
  if (in.size() > 0) std::memmove(out.data, in.data, static_cast<std::size_t>(in.bytes()));
}

}  // namespace

void SelfComm::all_reduce(Tensor x, ReduceOp op, Queue) {
  all_reduce_call(CallKind::all_reduce, x, op);
}

std::unique_ptr<Pending> SelfComm::start_all_reduce(Tensor x, ReduceOp op, Queue) {
  all_reduce_call(CallKind::start_all_reduce, x, op);
  return std::make_unique<Done>();
}

std::unique_ptr<Pending> SelfComm::start_reduce_scatter(Tensor in, Tensor out, Queue) {
  reduce_scatter_call(in, out, 1);
  copy(in, out);
  return std::make_unique<Done>();
}

std::unique_ptr<Pending> SelfComm::start_all_gather(Tensor in, Tensor out, Queue) {
  all_gather_call(in, out, 1);
  copy(in, out);
  return std::make_unique<Done>();
}

void SelfComm::broadcast(Tensor x, int root, Queue) {
  broadcast_call(x, root, 1);
}

std::unique_ptr<Comm> SelfComm::split(int, int) {
  return std::make_unique<SelfComm>();
}

void SelfComm::abort(int status) {
  std::fflush(nullptr);
  std::_Exit(status);
}

}  // namespace t2r
