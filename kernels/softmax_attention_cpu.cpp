// Softmax attention, forward: tiles of queries against tiles of keys with an online softmax.
#include <cmath>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/pointwise.h"
#include "kernels/softmax_attention.h"
#include "kernels/softmax_attention_tiles.h"

namespace t2r {
namespace attention {

void check_call(const Call& call) {
  const AttentionShape& shape = call.shape;
  check(shape.heads > 0 && shape.key_value_heads > 0 && shape.head_dim > 0 &&
            shape.heads % shape.key_value_heads == 0,
        "attention with {} heads, {} key-value heads and a head size of {}: all must be positive, "
        "and key-value heads divide heads",
        shape.heads, shape.key_value_heads, shape.head_dim);
  check(call.queries.count == call.keys.count,
        "attention of {} query segments to {} key segments: the numbers must be equal",
        call.queries.count, call.keys.count);
  check_shape(call.q, {call.queries.rows(), shape.heads * shape.head_dim}, "attention queries");
  const Shape key_shape{call.keys.rows(), shape.key_value_heads * shape.head_dim};
  check_shape(call.k, key_shape, "attention keys");
  check_shape(call.v, key_shape, "attention values");
  check(call.k.dtype == call.q.dtype && call.v.dtype == call.q.dtype,
        "attention of {} queries to {} keys and {} values: the types must be equal",
        name_of(call.q.dtype), name_of(call.k.dtype), name_of(call.v.dtype));
  check(shape.window >= 0 && (shape.causal || shape.window == 0),
        "attention with a window of {}: it is for causal attention, and at least 1", shape.window);
  check(call.dropout.rate >= 0 && call.dropout.rate < 1,
        "attention dropout of {}: choose a rate in [0, 1)", call.dropout.rate);
  for (std::int64_t s = 0; s < call.queries.count; ++s) {
    check(!shape.causal || call.queries.length(s) <= call.keys.length(s),
          "causal attention of {} queries to {} keys in segment {}: there must be a key for each",
          call.queries.length(s), call.keys.length(s), s);
    check(!call.dropout.active() || call.keys.length(s) <= kDropoutKeys,
          "attention dropout on {} keys in segment {}: at most {} are supported",
          call.keys.length(s), s, kDropoutKeys);
  }
}

namespace {

constexpr std::int64_t kQueryTile = 128;  // rows of a task
constexpr std::int64_t kKeyTile = 128;
constexpr std::int64_t kRowGroup = 12;  // rows whose scores are alive at a time, in the L1 cache

/// A tile of queries, `begin` rows into its segment, of all heads that read key-value head `head`.
struct Task {
  std::int64_t segment, begin, head;
};

/// What a task keeps of its (group * rows) query rows between key tiles.
template <class A>
struct RowStates {
  A *q, *sums;          // (group * rows, head_dim): scaled queries; weighted values so far
  A *maximum, *weight;  // (group * rows): largest score and sum of exp(score - largest) so far
};

/// Rows [r, r + count) of a task's head `head`, which see `visible` keys of the tile and, when
/// causal, one more each row, or of these the last within the window: scores, softmax, weighted
/// values.
template <class A>
void attend(const Call& call, RowStates<A> rows, std::int64_t at, std::int64_t count,
            std::int64_t row, std::int64_t head, const A* turned_keys, const A* values,
            std::int64_t key_begin, std::int64_t keys, std::int64_t visible, A* scores,
            A* factors) {
  const std::int64_t d = call.shape.head_dim;
  const std::int64_t width =
      std::min(keys, call.shape.causal ? visible + count - 1 : keys);  // of the last row
  const auto hidden = [&](std::int64_t i) {  // keys of the tile that the window has left behind
    return call.shape.window ? std::clamp<std::int64_t>(visible + i - call.shape.window, 0, width)
                             : 0;
  };
  if (width <= 0 || hidden(0) >= width) return;
  const std::int64_t first = hidden(0) / tile::kLanes<A> * tile::kLanes<A>;
  A* sums = rows.sums + at * d;
  tile_matmul_nn(scores + first, kKeyTile, rows.q + at * d, d, turned_keys + first, kKeyTile, count,
                 round_up(width - first, tile::kLanes<A>), d, false);
  for (std::int64_t i = 0; i < count; ++i) {
    A* line = scores + i * kKeyTile;
    const std::int64_t seen =
        call.shape.causal ? std::clamp<std::int64_t>(visible + i, 0, width) : width;
    const std::int64_t begin = std::min(hidden(i), seen);
    std::fill(line + first, line + begin, A(0));
    std::fill(line + seen, line + width, A(0));
    if (seen == begin) continue;
    const A factor =
        online_softmax(line + begin, seen - begin, rows.maximum[at + i], rows.weight[at + i]);
    if (factor != A(1)) {
#pragma omp simd
      for (std::int64_t c = 0; c < d; ++c) sums[i * d + c] *= factor;
    }
    if (call.dropout.active()) {
      dropout_factors(factors, call.dropout, row + i, head, call.shape.heads, key_begin, seen);
#pragma omp simd
      for (std::int64_t j = begin; j < seen; ++j) line[j] *= factors[j];
    }
  }
  tile_matmul_nn(sums, d, scores + first, kKeyTile, values + first * d, d, count, d, width - first,
                 true);
}

template <class T>
void run_task(const Call& call, const Tensor& out, const Tensor& log_sum_exp, const Task& task) {
  using A = accumulate_t<T>;
  const std::int64_t d = call.shape.head_dim, group = call.group();
  const std::int64_t rows = std::min(kQueryTile, call.queries.length(task.segment) - task.begin);
  const std::int64_t row = call.queries.offsets[task.segment] + task.begin;
  const std::int64_t key_row = call.keys.offsets[task.segment];
  const std::int64_t earlier = call.earlier(task.segment);
  const std::int64_t key_count =
      call.shape.causal ? earlier + task.begin + rows : call.keys.length(task.segment);
  const std::int64_t first_head = task.head * group, states = group * rows;

  ScratchScope scratch;
  const RowStates<A> state{scratch.array<A>(states * d), scratch.array<A>(states * d),
                           scratch.array<A>(states), scratch.array<A>(states)};
  A* tile = scratch.array<A>(kKeyTile * d);  // keys, then values
  A* turned_keys = scratch.array<A>(kKeyTile * d);
  A* scores = scratch.array<A>(kRowGroup * kKeyTile);
  A* factors = scratch.array<A>(kKeyTile);

  for (std::int64_t g = 0; g < group; ++g)
    load_tile(state.q + g * rows * d, Call::at<T>(call.q, row, first_head + g, d),
              call.q.row_stride, rows, d, static_cast<A>(call.scale));
  std::fill(state.sums, state.sums + states * d, A(0));
  std::fill(state.maximum, state.maximum + states, -std::numeric_limits<A>::infinity());
  std::fill(state.weight, state.weight + states, A(0));

  for (std::int64_t begin = call.first_key(task.segment, task.begin) / kKeyTile * kKeyTile;
       begin < key_count; begin += kKeyTile) {
    const std::int64_t keys = std::min(kKeyTile, key_count - begin);
    load_tile(tile, Call::at<T>(call.k, key_row + begin, task.head, d), call.k.row_stride, keys, d);
    turn_tile(turned_keys, kKeyTile, tile, keys, d);
    load_tile(tile, Call::at<T>(call.v, key_row + begin, task.head, d), call.v.row_stride, keys, d);
    for (std::int64_t g = 0; g < group; ++g)
      for (std::int64_t r = 0; r < rows; r += kRowGroup)
        attend(call, state, g * rows + r, std::min(kRowGroup, rows - r), row + r, first_head + g,
               turned_keys, tile, begin, keys, earlier + task.begin + r + 1 - begin, scores,
               factors);
  }

  A* lse = log_sum_exp.as<A>();
  for (std::int64_t g = 0; g < group; ++g) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t i = g * rows + r;
      const A weight = state.weight[i];  // 0 only where there are no keys
      store_tile(Call::at<T>(out, row + r, first_head + g, d), d, state.sums + i * d, 1, d,
                 weight == A(0) ? A(0) : A(1) / weight);
      lse[(row + r) * log_sum_exp.row_stride + first_head + g] =
          weight == A(0) ? A(0) : state.maximum[i] + std::log(weight);
    }
  }
}

}  // namespace
}  // namespace attention

void softmax_attention_forward(Queue queue, Tensor out, Tensor log_sum_exp, Tensor q, Tensor k,
                               Tensor v, const Segments& queries, const Segments& keys,
                               const AttentionShape& shape, double scale, const Dropout& dropout) {
  check_cpu("softmax attention", queue, out, log_sum_exp, q, k, v);
  using attention::kQueryTile;
  const attention::Call call{q, k, v, queries, keys, shape, scale, dropout};
  attention::check_call(call);
  check_shape(out, q.shape, "attention output");
  check_shape(log_sum_exp, {queries.rows(), shape.heads}, "attention log_sum_exp");
  check(out.dtype == q.dtype && log_sum_exp.dtype == accumulate_dtype(q.dtype),
        "attention of {} queries with an output of {} and log_sum_exp of {}", name_of(q.dtype),
        name_of(out.dtype), name_of(log_sum_exp.dtype));

  std::vector<attention::Task> tasks;
  for (std::int64_t s = 0; s < queries.count; ++s)
    for (std::int64_t head = 0; head < shape.key_value_heads; ++head)
      for (std::int64_t begin = 0; begin < queries.length(s); begin += kQueryTile)
        tasks.push_back({s, begin, head});
  const auto count = static_cast<std::int64_t>(tasks.size());
  dispatch(q.dtype, [&]<class T>() {
#pragma omp parallel for schedule(dynamic) if (count > 1 && q.size() + k.size() > kParallelElements)
    for (std::int64_t i = 0; i < count; ++i)
      attention::run_task<T>(call, out, log_sum_exp, tasks[static_cast<std::size_t>(i)]);
  });
}

}  // namespace t2r
