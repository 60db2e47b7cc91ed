// Argument checks of all communicators, and the sentence that says who called what.
#include "dist/collective_call.h"

#include <algorithm>
#include <vector>

namespace t2r {
namespace {

std::string_view name_of(ReduceOp op) {
  return op == ReduceOp::sum ? "sum" : op == ReduceOp::max ? "max" : "min";
}

std::string_view name_of(CallKind kind) {
  switch (kind) {
    case CallKind::all_reduce:
      return "all_reduce";
    case CallKind::start_all_reduce:
      return "start_all_reduce";
    case CallKind::reduce_scatter:
      return "reduce_scatter";
    case CallKind::all_gather:
      return "all_gather";
    case CallKind::broadcast:
      return "broadcast";
    case CallKind::barrier:
      return "barrier";
    case CallKind::split:
      return "split";
    case CallKind::end:
      break;
  }
  return "nothing more (it gave the communicator up)";
}

void check_tensor(const Tensor& x, CallKind kind) {
  check(x.device == Device::cpu, "{} of a tensor on a GPU: this communicator works on the CPU",
        name_of(kind));
  check(x.contiguous(), "{} of a strided tensor of shape {}: copy it to a contiguous one first",
        name_of(kind), x.shape.text());
  check(x.data || x.size() == 0, "{} of a tensor of shape {} without memory", name_of(kind),
        x.shape.text());
}

void check_reducible(const Tensor& x, CallKind kind) {
  check_tensor(x, kind);
  check(x.dtype != DType::bf16,
        "{} of {} elements of bf16: sums over ranks are formed in fp32 or fp64 only", name_of(kind),
        x.size());
}

}  // namespace

std::string CollectiveCall::text() const {
  const std::string_view what = name_of(kind);
  switch (kind) {
    case CallKind::all_reduce:
    case CallKind::start_all_reduce:
    case CallKind::reduce_scatter:
      return fmt::format("{}({} of {} {})", what, name_of(op), count, t2r::name_of(dtype));
    case CallKind::all_gather:
      return fmt::format("{}({} {})", what, count, t2r::name_of(dtype));
    case CallKind::broadcast:
      return fmt::format("{}({} {} from rank {})", what, count, t2r::name_of(dtype), root);
    case CallKind::barrier:
    case CallKind::split:
    case CallKind::end:
      break;
  }
  return std::string(what);
}

CollectiveCall all_reduce_call(CallKind kind, const Tensor& x, ReduceOp op) {
  check_reducible(x, kind);
  return {.kind = kind, .op = op, .dtype = x.dtype, .root = 0, .count = x.size()};
}

CollectiveCall reduce_scatter_call(const Tensor& in, const Tensor& out, int size) {
  const CallKind kind = CallKind::reduce_scatter;
  check_reducible(in, kind);
  check_reducible(out, kind);
  check(in.dtype == out.dtype && in.size() == out.size() * size,
        "reduce_scatter over {} ranks from {} {} to {} {}: the input must be {} times the output",
        size, in.size(), t2r::name_of(in.dtype), out.size(), t2r::name_of(out.dtype), size);
  return {.kind = kind, .op = ReduceOp::sum, .dtype = in.dtype, .root = 0, .count = in.size()};
}

CollectiveCall all_gather_call(const Tensor& in, const Tensor& out, int size) {
  const CallKind kind = CallKind::all_gather;
  check_tensor(in, kind);
  check_tensor(out, kind);
  check(in.dtype == out.dtype && out.size() == in.size() * size,
        "all_gather over {} ranks from {} {} to {} {}: the output must be {} times the input", size,
        in.size(), t2r::name_of(in.dtype), out.size(), t2r::name_of(out.dtype), size);
  return {.kind = kind, .op = ReduceOp::sum, .dtype = in.dtype, .root = 0, .count = in.size()};
}

CollectiveCall broadcast_call(const Tensor& x, int root, int size) {
  check_tensor(x, CallKind::broadcast);
  check(0 <= root && root < size, "broadcast from rank {} in a group of {} ranks", root, size);
  return {.kind = CallKind::broadcast,
          .op = ReduceOp::sum,
          .dtype = x.dtype,
          .root = root,
          .count = x.size()};
}

std::string rank_list(std::span<const int> ranks, int most) {
  std::string text;
  int pieces = 0;
  for (std::size_t i = 0; i < ranks.size(); ++pieces) {
    if (pieces == most) return text + fmt::format(" and {} more", ranks.size() - i);
    std::size_t j = i;
    while (j + 1 < ranks.size() && ranks[j + 1] == ranks[j] + 1) ++j;
    text += pieces ? ", " : "";
    text += i == j ? fmt::format("{}", ranks[i]) : fmt::format("{}-{}", ranks[i], ranks[j]);
    i = j + 1;
  }
  return text;
}

std::string describe_disagreement(std::span<const CollectiveCall> calls, std::int64_t number) {
  if (std::all_of(calls.begin(), calls.end(), [&](const auto& c) { return c == calls[0]; }))
    return {};
  std::vector<CollectiveCall> distinct;
  for (const auto& call : calls)
    if (std::find(distinct.begin(), distinct.end(), call) == distinct.end())
      distinct.push_back(call);
  std::string text =
      fmt::format("the {} ranks disagree on collective number {}:", calls.size(), number);
  for (std::size_t i = 0; i < distinct.size(); ++i) {
    if (i == 8) return text + fmt::format(" and {} more kinds of call", distinct.size() - i);
    std::vector<int> ranks;
    for (std::size_t r = 0; r < calls.size(); ++r)
      if (calls[r] == distinct[i]) ranks.push_back(static_cast<int>(r));
    text += fmt::format("{} rank{} {} called {}", i ? "," : "", ranks.size() > 1 ? "s" : "",
                        rank_list(ranks), distinct[i].text());
  }
  return text;
}

}  // namespace t2r
