// Softmax attention, one decoding step: reads the key-value cache once, at memory speed.
#include <cmath>

#include "kernels/cpu.h"
#include "kernels/pointwise.h"
#include "kernels/softmax_attention.h"
#include "kernels/softmax_attention_tiles.h"

namespace t2r {
namespace attention {
namespace {

constexpr std::int64_t kBlock = 512;     // keys between two online softmax steps
constexpr std::int64_t kConverted = 32;  // values converted at a time: they stay in the L1 cache

struct Step {
  Tensor out, key_cache, value_cache, q, k, v;
  const std::int64_t* lengths;
  AttentionShape shape;
  double scale;
};

/// scores (group, kBlock) = q (group, d) keys^T, for keys (count, d), contiguous. Reads rows in
/// order: the processor's prefetching follows that, and not several rows side by side (half the
/// speed); all heads of the group meet a key while it is in the L1 cache.
template <class T, class A>
void dots(A* scores, const A* q, const T* keys, std::int64_t group, std::int64_t d,
          std::int64_t count) {
  constexpr int W = tile::kLanes<A>;
  const std::int64_t whole = d / W * W;
  std::int64_t j = 0;
  for (; j + W <= count; j += W) {
    const T* key = keys + j * d;
    for (std::int64_t g = 0; g < group; ++g) {
      const A* query = q + g * d;
      A* score = scores + g * kBlock + j;
      // One vector of partial sums a key; then lane r of the result is the sum over vector r.
      tile::Vector<A> sum[W] = {};
#pragma GCC unroll 16
      for (int r = 0; r < W; ++r)
        for (std::int64_t c = 0; c < whole; c += W)
          sum[r] += tile::load(query + c) * load_as<A>(key + r * d + c);
      tile::store(score, tile::sum_lanes<A>(sum));
      for (int r = 0; r < W; ++r)
        for (std::int64_t c = whole; c < d; ++c)
          score[r] += query[c] * static_cast<A>(key[r * d + c]);
    }
  }
  for (; j < count; ++j) {
    for (std::int64_t g = 0; g < group; ++g) {
      A sum = 0;
      for (std::int64_t c = 0; c < d; ++c) sum += q[g * d + c] * static_cast<A>(keys[j * d + c]);
      scores[g * kBlock + j] = sum;
    }
  }
}

/// sums (group, d) += weights (group, kBlock) values, for values (count, d), contiguous.
template <class T, class A>
void add_weighted(A* sums, const A* weights, const T* values, A* buffer, std::int64_t group,
                  std::int64_t d, std::int64_t count) {
  if constexpr (std::is_same_v<T, A>) {
    tile_matmul_nn(sums, d, weights, kBlock, values, d, group, d, count, true);
  } else {
    for (std::int64_t j = 0; j < count; j += kConverted) {
      const std::int64_t part = std::min(kConverted, count - j);
      load_tile(buffer, values + j * d, part * d, 1, part * d);
      tile_matmul_nn(sums, d, weights + j, kBlock, buffer, d, group, d, part, true);
    }
  }
}

/// Key-value head `head` of sequence `b`: appends to the caches, then attends.
template <class T>
void run_task(const Step& step, std::int64_t b, std::int64_t head) {
  using A = accumulate_t<T>;
  const std::int64_t d = step.shape.head_dim, group = step.shape.heads / step.shape.key_value_heads;
  const std::int64_t capacity = step.key_cache.shape[2];
  const std::int64_t place = step.shape.window ? step.lengths[b] % capacity : step.lengths[b];
  const std::int64_t length = std::min(step.lengths[b], capacity - 1);  // entries but the new one
  T* key_cache = Call::at<T>(step.key_cache, b, head, capacity * d);
  T* value_cache = Call::at<T>(step.value_cache, b, head, capacity * d);
  std::copy_n(Call::at<T>(step.k, b, head, d), d, key_cache + place * d);
  std::copy_n(Call::at<T>(step.v, b, head, d), d, value_cache + place * d);

  ScratchScope scratch;
  A* q = scratch.array<A>(group * d);
  A* sums = scratch.array<A>(group * d);  // weighted values so far
  A* maximum = scratch.array<A>(group);
  A* weight = scratch.array<A>(group);  // sum of exp(score - maximum) so far
  A* scores = scratch.array<A>(group * kBlock);
  A* buffer = scratch.array<A>(kConverted * d);
  load_tile(q, Call::at<T>(step.q, b, head * group, d), group * d, 1, group * d,
            static_cast<A>(step.scale));
  std::fill(sums, sums + group * d, A(0));
  std::fill(maximum, maximum + group, -std::numeric_limits<A>::infinity());
  std::fill(weight, weight + group, A(0));

  for (std::int64_t begin = 0; begin <= length; begin += kBlock) {
    const std::int64_t count = std::min(kBlock, length + 1 - begin);
    dots(scores, q, key_cache + begin * d, group, d, count);
    for (std::int64_t g = 0; g < group; ++g) {
      const A factor = online_softmax(scores + g * kBlock, count, maximum[g], weight[g]);
#pragma omp simd
      for (std::int64_t c = 0; c < d; ++c) sums[g * d + c] *= factor;
    }
    add_weighted(sums, scores, value_cache + begin * d, buffer, group, d, count);
  }
  for (std::int64_t g = 0; g < group; ++g)
    store_tile(Call::at<T>(step.out, b, head * group + g, d), d, sums + g * d, 1, d,
               A(1) / weight[g]);
}

}  // namespace
}  // namespace attention

void softmax_attention_step(Queue queue, Tensor out, Tensor key_cache, Tensor value_cache, Tensor q,
                            Tensor k, Tensor v, const std::int64_t* lengths,
                            const AttentionShape& shape, double scale) {
  check_cpu("softmax attention step", queue, out, key_cache, value_cache, q, k, v);
  check(shape.heads > 0 && shape.key_value_heads > 0 && shape.head_dim > 0 &&
            shape.heads % shape.key_value_heads == 0,
        "attention with {} heads, {} key-value heads and a head size of {}: all must be positive, "
        "and key-value heads divide heads",
        shape.heads, shape.key_value_heads, shape.head_dim);
  const std::int64_t batch = q.rows(), d = shape.head_dim;
  const std::int64_t capacity = key_cache.shape[2];
  check_shape(q, {batch, shape.heads * d}, "attention query");
  check_shape(out, q.shape, "attention output");
  check_shape(k, {batch, shape.key_value_heads * d}, "attention key");
  check_shape(v, k.shape, "attention value");
  check_shape(key_cache, {batch, shape.key_value_heads, capacity, d}, "key cache");
  check_shape(value_cache, key_cache.shape, "value cache");
  for (const Tensor& tensor : {out, key_cache, value_cache, k, v})
    check(tensor.dtype == q.dtype, "attention step of a {} query with {} beside it",
          name_of(q.dtype), name_of(tensor.dtype));
  check(shape.window == 0 || shape.window == capacity,
        "an attention step with a window of {} and caches of {} entries: they must be equal",
        shape.window, capacity);
  std::int64_t reads = 0;  // elements of the caches
  for (std::int64_t b = 0; b < batch; ++b) {
    check(lengths[b] >= 0 && (shape.window > 0 || lengths[b] < capacity),
          "sequence {} holds {} tokens and its key-value cache {}: make the cache larger", b,
          lengths[b], capacity);
    reads += 2 * std::min(lengths[b] + 1, capacity) * k.columns_count();
  }

  const attention::Step step{out, key_cache, value_cache, q, k, v, lengths, shape, scale};
  const std::int64_t tasks = batch * shape.key_value_heads;
  dispatch(q.dtype, [&]<class T>() {
#pragma omp parallel for schedule(dynamic) if (tasks > 1 && reads > kParallelElements)
    for (std::int64_t i = 0; i < tasks; ++i)
      attention::run_task<T>(step, i / shape.key_value_heads, i % shape.key_value_heads);
  });
}

}  // namespace t2r
