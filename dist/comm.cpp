// Small values that ranks agree on, on top of the collectives of tensors.
#include "dist/comm.h"

#include <cmath>
#include <cstring>
#include <vector>

namespace t2r {

double Comm::all_reduce_value(double value, ReduceOp op) {
  all_reduce(Tensor(&value, {1}, DType::f64), op, Queue{});
  return value;
}

std::int64_t Comm::all_reduce_value(std::int64_t value, ReduceOp op) {
  const double result = all_reduce_value(static_cast<double>(value), op);
  check(std::abs(result) < 0x1p53,
        "an all_reduce over {} ranks of the whole number {} gave {}, beyond the 2^53 that is exact",
        size(), value, result);
  return static_cast<std::int64_t>(result);
}

std::string Comm::broadcast_text(const std::string& text, int root) {
  auto length = static_cast<double>(text.size());
  broadcast(Tensor(&length, {1}, DType::f64), root, Queue{});
  const auto bytes = static_cast<std::size_t>(length);
  // A broadcast moves bits whatever they mean: two characters travel as one 16-bit element.
  std::vector<bf16> packed((bytes + 1) / 2);
  if (rank() == root && bytes > 0) std::memcpy(packed.data(), text.data(), bytes);
  broadcast(Tensor(packed.data(), {static_cast<std::int64_t>(packed.size())}, DType::bf16), root,
            Queue{});
  std::string result(bytes, '\0');
  if (bytes > 0) std::memcpy(result.data(), packed.data(), bytes);
  return result;
}

}  // namespace t2r
