// Softmax attention, backward: weights are made again from log_sum_exp, tile by tile (Dao et al.
// 2022, algorithm 4), so that nothing of size n x n is kept.
//   P = exp(S - log_sum_exp), M = dropout mask / (1 - rate), D = rowsum(dout * out)
//   dV = (P M)^T dout     dS = P (M (dout V^T) - D)     dQ = scale dS K     dK = scale dS^T Q
#include <omp.h>

#include <vector>

#include "kernels/cpu.h"
#include "kernels/pointwise.h"
#include "kernels/softmax_attention.h"
#include "kernels/softmax_attention_tiles.h"

namespace t2r {
namespace attention {
namespace {

constexpr std::int64_t kTile = 64;   // of queries and of keys
constexpr std::int64_t kGroup = 16;  // rows or keys that a tile that is seen in part is cut into

struct Gradients {
  Tensor dq, dk, dv, dout, out, log_sum_exp;
};

/// The part of the work that one thread does: query rows [query_begin, query_end) of a segment
/// against its keys [key_begin, key_end). It owns, and writes, dq of those rows or dk and dv of
/// those keys, or both. All begins are multiples of kTile, so that tiles, and with them the order
/// of every sum, are the same however the work is cut.
struct Task {
  std::int64_t segment, head;  // key-value head
  std::int64_t query_begin, query_end, key_begin, key_end;
  bool write_dq, write_dkv;
};

template <class A>
struct Scratch {
  A *q, *dout;                            // (kTile, head_dim); q is scaled
  A *keys, *turned_keys, *turned_values;  // (kTile, head_dim), (head_dim, kTile) twice
  A *weights, *dscores;                   // (kTile, kTile): P M; dout V^T, then dS
  A* factors;                             // (kTile)
  A *dq, *dk, *dv;                        // all rows of the task; (kTile, head_dim) twice
  A* row_dots;                            // D, of all rows of the task
};

/// One tile of keys against one of queries.
struct TilePair {
  std::int64_t rows, keys;  // sizes
  std::int64_t row, head;   // first query row in the matrix; query head
  std::int64_t key_begin;   // place of the first key in its segment
  // Row i sees the first `visible` + i keys (from none to all); row 0 all of them where not causal.
  // With a window only the last `window` of these.
  std::int64_t visible, window;

  bool whole() const { return visible >= keys && window == 0; }
  std::int64_t seen(std::int64_t i) const { return std::clamp<std::int64_t>(visible + i, 0, keys); }
  std::int64_t hidden(std::int64_t i) const {
    return window ? std::clamp<std::int64_t>(visible + i - window, 0, keys) : 0;
  }
  /// The first row that sees key j.
  std::int64_t first_row(std::int64_t j) const {
    return std::clamp<std::int64_t>(j + 1 - visible, 0, rows);
  }
};

/// Weights P M and dS of a tile from its scores and dout V^T.
template <class A>
void weights_and_dscores(const Call& call, const Gradients& grads, const TilePair& pair,
                         const Scratch<A>& scratch, const A* row_dots) {
  const A* lse = grads.log_sum_exp.as<A>();
  for (std::int64_t i = 0; i < pair.rows; ++i) {
    A* weight = scratch.weights + i * kTile;
    A* dscore = scratch.dscores + i * kTile;
    const std::int64_t seen = pair.seen(i), first = pair.hidden(i);
    const A shift = lse[(pair.row + i) * grads.log_sum_exp.row_stride + pair.head];
    const A row_dot = row_dots[i];
    if (call.dropout.active()) {
      dropout_factors(scratch.factors, call.dropout, pair.row + i, pair.head, call.shape.heads,
                      pair.key_begin, seen);
#pragma omp simd
      for (std::int64_t j = first; j < seen; ++j) {
        const A p = fast_exp(weight[j] - shift);
        weight[j] = p * scratch.factors[j];
        dscore[j] = p * (scratch.factors[j] * dscore[j] - row_dot);
      }
    } else {
#pragma omp simd
      for (std::int64_t j = first; j < seen; ++j) {
        const A p = fast_exp(weight[j] - shift);
        weight[j] = p;
        dscore[j] = p * (dscore[j] - row_dot);
      }
    }
    std::fill(weight, weight + first, A(0));
    std::fill(dscore, dscore + first, A(0));
    std::fill(weight + seen, weight + pair.keys, A(0));
    std::fill(dscore + seen, dscore + pair.keys, A(0));
  }
}

/// Adds what a tile contributes to dq (rows, head_dim), dk and dv (keys, head_dim).
template <class A>
void run_tile(const Call& call, const Gradients& grads, const TilePair& pair,
              const Scratch<A>& scratch, const A* row_dots, A* dq, bool write_dq, bool write_dkv) {
  const std::int64_t d = call.shape.head_dim;
  const std::int64_t step = pair.whole() ? kTile : kGroup;
  // Rows [r, r + count) see only the first `width` keys.
  for (std::int64_t r = 0; r < pair.rows; r += step) {
    const std::int64_t count = std::min(step, pair.rows - r);
    const std::int64_t width = pair.seen(r + count - 1);
    if (width == 0) continue;
    const std::int64_t padded = round_up(width, tile::kLanes<A>);
    tile_matmul_nn(scratch.weights + r * kTile, kTile, scratch.q + r * d, d, scratch.turned_keys,
                   kTile, count, padded, d, false);
    tile_matmul_nn(scratch.dscores + r * kTile, kTile, scratch.dout + r * d, d,
                   scratch.turned_values, kTile, count, padded, d, false);
  }
  weights_and_dscores(call, grads, pair, scratch, row_dots);
  if (write_dq) {
    for (std::int64_t r = 0; r < pair.rows; r += step) {
      const std::int64_t count = std::min(step, pair.rows - r);
      const std::int64_t width = pair.seen(r + count - 1);
      if (width == 0) continue;
      tile_matmul_nn(dq + r * d, d, scratch.dscores + r * kTile, kTile, scratch.keys, d, count, d,
                     width, true);
    }
  }
  if (write_dkv) {
    // Keys from j on are seen by rows from `first` on only.
    for (std::int64_t j = 0; j < pair.keys; j += step) {
      const std::int64_t count = std::min(step, pair.keys - j);
      const std::int64_t first = pair.first_row(j);
      if (first >= pair.rows) break;
      tile_matmul_tn(scratch.dv + j * d, d, scratch.weights + first * kTile + j, kTile,
                     scratch.dout + first * d, d, count, d, pair.rows - first, true);
      tile_matmul_tn(scratch.dk + j * d, d, scratch.dscores + first * kTile + j, kTile,
                     scratch.q + first * d, d, count, d, pair.rows - first, true);
    }
  }
}

/// Causal: the tile of the first query that sees key k of a segment.
std::int64_t first_query(const Call& call, std::int64_t segment, std::int64_t k) {
  return std::max<std::int64_t>(0, k - call.earlier(segment)) / kTile * kTile;
}

/// The query after the last one that sees key k of a segment.
std::int64_t query_end(const Call& call, std::int64_t segment, std::int64_t k) {
  const std::int64_t queries = call.queries.length(segment);
  if (call.shape.window == 0) return queries;
  return std::clamp<std::int64_t>(k - call.earlier(segment) + call.shape.window, 0, queries);
}

/// Causal: the tile of the first key that query `query` of a segment sees.
std::int64_t first_key_tile(const Call& call, std::int64_t segment, std::int64_t query) {
  return call.first_key(segment, query) / kTile * kTile;
}

template <class T>
void run_task(const Call& call, const Gradients& grads, const Task& task) {
  using A = accumulate_t<T>;
  const std::int64_t d = call.shape.head_dim, group = call.group();
  const std::int64_t rows = task.query_end - task.query_begin;
  const std::int64_t query_row = call.queries.offsets[task.segment];
  const std::int64_t key_row = call.keys.offsets[task.segment];
  const std::int64_t first_head = task.head * group;
  const std::int64_t earlier = call.earlier(task.segment);

  ScratchScope memory;
  Scratch<A> scratch;
  for (A** part : {&scratch.q, &scratch.dout, &scratch.keys, &scratch.turned_keys,
                   &scratch.turned_values, &scratch.dk, &scratch.dv})
    *part = memory.array<A>(kTile * d);
  scratch.weights = memory.array<A>(kTile * kTile);
  scratch.dscores = memory.array<A>(kTile * kTile);
  scratch.factors = memory.array<A>(kTile);
  scratch.dq = memory.array<A>(task.write_dq ? group * rows * d : 0);
  scratch.row_dots = memory.array<A>(group * rows);

  if (task.write_dq) std::fill(scratch.dq, scratch.dq + group * rows * d, A(0));
  for (std::int64_t g = 0; g < group; ++g) {
    for (std::int64_t r = 0; r < rows; ++r) {
      const std::int64_t row = query_row + task.query_begin + r;
      const T* dout = Call::at<T>(grads.dout, row, first_head + g, d);
      const T* out = Call::at<T>(grads.out, row, first_head + g, d);
      A sum = 0;
#pragma omp simd reduction(+ : sum)
      for (std::int64_t c = 0; c < d; ++c) sum += static_cast<A>(dout[c]) * static_cast<A>(out[c]);
      scratch.row_dots[g * rows + r] = sum;
    }
  }

  for (std::int64_t k = task.key_begin; k < task.key_end; k += kTile) {
    const std::int64_t keys = std::min(kTile, task.key_end - k);
    load_tile(scratch.keys, Call::at<T>(call.v, key_row + k, task.head, d), call.v.row_stride, keys,
              d);
    turn_tile(scratch.turned_values, kTile, scratch.keys, keys, d);
    load_tile(scratch.keys, Call::at<T>(call.k, key_row + k, task.head, d), call.k.row_stride, keys,
              d);
    turn_tile(scratch.turned_keys, kTile, scratch.keys, keys, d);
    std::fill(scratch.dk, scratch.dk + keys * d, A(0));
    std::fill(scratch.dv, scratch.dv + keys * d, A(0));
    const std::int64_t start = call.shape.causal
                                   ? std::max(task.query_begin, first_query(call, task.segment, k))
                                   : task.query_begin;
    const std::int64_t end = std::min(task.query_end, query_end(call, task.segment, k + keys - 1));
    for (std::int64_t g = 0; g < group; ++g) {
      for (std::int64_t begin = start; begin < end; begin += kTile) {
        const TilePair pair{.rows = std::min(kTile, task.query_end - begin),
                            .keys = keys,
                            .row = query_row + begin,
                            .head = first_head + g,
                            .key_begin = k,
                            .visible = call.shape.causal ? earlier + begin + 1 - k : keys,
                            .window = call.shape.window};
        const std::int64_t place = g * rows + begin - task.query_begin;
        load_tile(scratch.q, Call::at<T>(call.q, pair.row, pair.head, d), call.q.row_stride,
                  pair.rows, d, static_cast<A>(call.scale));
        load_tile(scratch.dout, Call::at<T>(grads.dout, pair.row, pair.head, d),
                  grads.dout.row_stride, pair.rows, d);
        run_tile(call, grads, pair, scratch, scratch.row_dots + place, scratch.dq + place * d,
                 task.write_dq, task.write_dkv);
      }
    }
    if (task.write_dkv) {
      store_tile(Call::at<T>(grads.dk, key_row + k, task.head, d), grads.dk.row_stride, scratch.dk,
                 keys, d);
      store_tile(Call::at<T>(grads.dv, key_row + k, task.head, d), grads.dv.row_stride, scratch.dv,
                 keys, d);
    }
  }
  if (task.write_dq)
    for (std::int64_t g = 0; g < group; ++g)
      store_tile(Call::at<T>(grads.dq, query_row + task.query_begin, first_head + g, d),
                 grads.dq.row_stride, scratch.dq + g * rows * d, rows, d,
                 static_cast<A>(call.scale));
}

/// The tasks of a call. A whole (segment, key-value head) at a time needs the five matrix products
/// of a tile once; where that leaves threads idle, dq is made apart from dk and dv at the cost of
/// two products more. Both ways add the same numbers in the same order.
std::vector<Task> plan(const Call& call) {
  const std::int64_t whole = call.queries.count * call.shape.key_value_heads;
  const std::int64_t threads = omp_get_max_threads();
  const std::int64_t rounds = (whole + threads - 1) / threads;
  const bool apart = 5 * rounds * threads > 7 * whole;
  std::vector<Task> tasks;
  for (std::int64_t s = 0; s < call.queries.count; ++s) {
    const std::int64_t rows = call.queries.length(s), keys = call.keys.length(s);
    for (std::int64_t head = 0; head < call.shape.key_value_heads; ++head) {
      if (!apart) {
        tasks.push_back({s, head, 0, rows, 0, keys, true, true});
        continue;
      }
      for (std::int64_t begin = 0; begin < rows; begin += kTile) {
        const std::int64_t end = std::min(begin + kTile, rows);
        tasks.push_back({s, head, begin, end, first_key_tile(call, s, begin),
                         call.shape.causal ? call.earlier(s) + end : keys, true, false});
      }
      for (std::int64_t begin = 0; begin < keys; begin += kTile)
        tasks.push_back({s, head, call.shape.causal ? first_query(call, s, begin) : 0, rows, begin,
                         std::min(begin + kTile, keys), false, true});
    }
  }
  return tasks;
}

}  // namespace
}  // namespace attention

void softmax_attention_backward(Queue queue, Tensor dq, Tensor dk, Tensor dv, Tensor dout,
                                Tensor out, Tensor log_sum_exp, Tensor q, Tensor k, Tensor v,
                                const Segments& queries, const Segments& keys,
                                const AttentionShape& shape, double scale, const Dropout& dropout) {
  check_cpu("softmax attention backward", queue, dq, dk, dv, dout, out, log_sum_exp, q, k, v);
  const attention::Call call{q, k, v, queries, keys, shape, scale, dropout};
  attention::check_call(call);
  check_shape(out, q.shape, "attention output");
  check_shape(dout, q.shape, "gradient of the attention output");
  check_shape(dq, q.shape, "gradient of the attention queries");
  check_shape(dk, k.shape, "gradient of the attention keys");
  check_shape(dv, v.shape, "gradient of the attention values");
  check_shape(log_sum_exp, {queries.rows(), shape.heads}, "attention log_sum_exp");
  for (const Tensor& tensor : {dq, dk, dv, dout, out})
    check(tensor.dtype == q.dtype, "attention of {} with an output or gradient of {}",
          name_of(q.dtype), name_of(tensor.dtype));
  check(log_sum_exp.dtype == accumulate_dtype(q.dtype), "attention of {} with log_sum_exp of {}",
        name_of(q.dtype), name_of(log_sum_exp.dtype));

  const attention::Gradients grads{dq, dk, dv, dout, out, log_sum_exp};
  const std::vector<attention::Task> tasks = attention::plan(call);
  const auto count = static_cast<std::int64_t>(tasks.size());
  dispatch(q.dtype, [&]<class T>() {
#pragma omp parallel for schedule(dynamic) if (count > 1 && q.size() + k.size() > kParallelElements)
    for (std::int64_t i = 0; i < count; ++i)
      attention::run_task<T>(call, grads, tasks[static_cast<std::size_t>(i)]);
  });
}

}  // namespace t2r
