// The agreement itself: an all_gather of one fixed-size record, which matches whatever the ranks
// are about to call.
#include "dist/checking_comm.h"

#include <array>
#include <cstdlib>
#include <exception>
#include <vector>

#include "core/base/log.h"

namespace t2r {
namespace {

using Record = std::array<double, 6>;

Record to_record(const CollectiveCall& call, std::int64_t number) {
  return {static_cast<double>(number),     static_cast<double>(call.kind),
          static_cast<double>(call.op),    static_cast<double>(call.dtype),
          static_cast<double>(call.count), static_cast<double>(call.root)};
}

CollectiveCall to_call(const Record& record) {
  return {.kind = static_cast<CallKind>(static_cast<int>(record[1])),
          .op = static_cast<ReduceOp>(static_cast<int>(record[2])),
          .dtype = static_cast<DType>(static_cast<int>(record[3])),
          .root = static_cast<int>(record[5]),
          .count = static_cast<std::int64_t>(record[4])};
}

}  // namespace

CheckingComm::CheckingComm(std::unique_ptr<Comm> inner)
    : Comm(inner->rank(), inner->size()), inner_(std::move(inner)) {}

CheckingComm::~CheckingComm() {
  if (failed_ || std::uncaught_exceptions() > 0) return;
  try {
    CollectiveCall call;
    call.kind = CallKind::end;
    agree(call);
  } catch (const std::exception& e) {
    warn("{}", e.what());
  }
}

void CheckingComm::agree(const CollectiveCall& call) {
  constexpr auto width = static_cast<std::int64_t>(std::tuple_size_v<Record>);
  Record mine = to_record(call, number_);
  std::vector<Record> records(static_cast<std::size_t>(size()));
  failed_ = true;  // until shown otherwise
  inner_->all_gather(Tensor(mine.data(), {width}, DType::f64),
                     Tensor(records.data(), {size() * width}, DType::f64), Queue{});
  std::vector<CollectiveCall> calls;
  bool same_number = true;
  for (const Record& record : records) {
    calls.push_back(to_call(record));
    same_number = same_number && record[0] == mine[0];
  }
  const std::string disagreement = describe_disagreement(calls, number_);
  check(disagreement.empty(), "{}", disagreement);
  check(same_number, "the ranks count different numbers of collectives ({} on rank {})", number_,
        rank());
  failed_ = false;
  ++number_;
}

void CheckingComm::all_reduce(Tensor x, ReduceOp op, Queue queue) {
  agree(all_reduce_call(CallKind::all_reduce, x, op));
  inner_->all_reduce(x, op, queue);
}

std::unique_ptr<Pending> CheckingComm::start_all_reduce(Tensor x, ReduceOp op, Queue queue) {
  agree(all_reduce_call(CallKind::start_all_reduce, x, op));
  return inner_->start_all_reduce(x, op, queue);
}

std::unique_ptr<Pending> CheckingComm::start_reduce_scatter(Tensor in, Tensor out, Queue queue) {
  agree(reduce_scatter_call(in, out, size()));
  return inner_->start_reduce_scatter(in, out, queue);
}

std::unique_ptr<Pending> CheckingComm::start_all_gather(Tensor in, Tensor out, Queue queue) {
  agree(all_gather_call(in, out, size()));
  return inner_->start_all_gather(in, out, queue);
}

void CheckingComm::broadcast(Tensor x, int root, Queue queue) {
  agree(broadcast_call(x, root, size()));
  inner_->broadcast(x, root, queue);
}

void CheckingComm::barrier() {
  agree(CollectiveCall{});
  inner_->barrier();
}

std::unique_ptr<Comm> CheckingComm::split(int color, int key) {
  CollectiveCall call;
  call.kind = CallKind::split;
  agree(call);
  return std::make_unique<CheckingComm>(inner_->split(color, key));
}

void CheckingComm::abort(int status) {
  failed_ = true;
  inner_->abort(status);
  std::_Exit(status);  // never reached
}

}  // namespace t2r
