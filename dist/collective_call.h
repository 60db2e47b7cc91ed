// What a rank asks of a collective, as a value: checked once for every communicator, compared
// between ranks, and written out when they disagree.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "dist/comm.h"

namespace t2r {

enum class CallKind : std::uint8_t {
  all_reduce,
  start_all_reduce,
  reduce_scatter,
  all_gather,
  broadcast,
  barrier,
  split,
  end  // the communicator is given up
};

struct CollectiveCall {
  CallKind kind = CallKind::barrier;
  ReduceOp op = ReduceOp::sum;
  DType dtype = DType::f32;
  int root = 0;
  std::int64_t count = 0;  // elements of the input

  bool operator==(const CollectiveCall&) const = default;
  /// As "all_reduce(sum of 100 fp32)".
  std::string text() const;
};

// Each checks its tensors (contiguous, on the CPU, sizes that fit together, a type that can be
// reduced) and throws one sentence when they are wrong.
CollectiveCall all_reduce_call(CallKind kind, const Tensor& x, ReduceOp op);
CollectiveCall reduce_scatter_call(const Tensor& in, const Tensor& out, int size);
CollectiveCall all_gather_call(const Tensor& in, const Tensor& out, int size);
CollectiveCall broadcast_call(const Tensor& x, int root, int size);

/// As "0-2, 5"; a long list is cut after `most` pieces.
std::string rank_list(std::span<const int> ranks, int most = 8);

/// Empty when all ranks (calls[r] is rank r's) make the same call; else one sentence that names the
/// ranks and what each called.
std::string describe_disagreement(std::span<const CollectiveCall> calls, std::int64_t number);

}  // namespace t2r
