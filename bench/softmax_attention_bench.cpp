// Speed of softmax attention: forward and backward in GFLOP/s, the decoding step in bytes/s.
#include <benchmark/benchmark.h>
#include <omp.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "core/base/arena.h"
#include "kernels/softmax_attention.h"

namespace t2r {
namespace {

constexpr std::int64_t kTokens = 2048, kHeads = 8, kHeadDim = 64;

/// A tensor of numbers in [-0.5, 0.5) without pattern enough to matter, quickly made.
Tensor scattered_tensor(Arena& arena, Shape shape, DType dtype) {
  const Tensor x = arena.allocate(shape, dtype);
  dispatch(dtype, [&]<class T>() {
    for (std::int64_t i = 0; i < x.size(); ++i) {
      const std::uint32_t bits = static_cast<std::uint32_t>(i) * 2654435761u;
      x.as<T>()[i] = static_cast<T>(static_cast<float>(bits) * 0x1p-32f - 0.5f);
    }
  });
  return x;
}

/// 2048 tokens in segments of `length`, causal, q, k and v as column ranges of one matrix.
/// Operations counted: only pairs of tokens that see each other.
void attention(benchmark::State& state, DType dtype, bool backward, float rate) {
  const std::int64_t length = state.range(0);
  omp_set_num_threads(static_cast<int>(state.range(1)));
  Arena arena(std::int64_t{256} << 20);
  const std::int64_t width = kHeads * kHeadDim;
  const Tensor qkv = scattered_tensor(arena, {kTokens, 3 * width}, dtype);
  const Tensor dqkv = scattered_tensor(arena, {kTokens, 3 * width}, dtype);
  const Tensor out = scattered_tensor(arena, {kTokens, width}, dtype);
  const Tensor dout = scattered_tensor(arena, {kTokens, width}, dtype);
  const Tensor log_sum_exp = arena.allocate({kTokens, kHeads}, accumulate_dtype(dtype));
  const auto part = [&](const Tensor& x, int i) {
    return x.column_range(i * width, (i + 1) * width);
  };
  std::vector<std::int64_t> offsets;
  for (std::int64_t row = 0; row <= kTokens; row += length) offsets.push_back(row);
  const Segments segments{kTokens / length, offsets.data()};
  const AttentionShape shape{kHeads, kHeads, kHeadDim, true};
  const Dropout dropout{rate, 1, 2, nullptr};
  const double scale = 1 / std::sqrt(static_cast<double>(kHeadDim));
  const auto forward = [&] {
    softmax_attention_forward({}, out, log_sum_exp, part(qkv, 0), part(qkv, 1), part(qkv, 2),
                              segments, segments, shape, scale, dropout);
  };
  forward();
  for (auto _ : state) {
    if (backward)
      softmax_attention_backward({}, part(dqkv, 0), part(dqkv, 1), part(dqkv, 2), dout, out,
                                 log_sum_exp, part(qkv, 0), part(qkv, 1), part(qkv, 2), segments,
                                 segments, shape, scale, dropout);
    else
      forward();
  }
  const double pairs = static_cast<double>(kTokens) * static_cast<double>(length + 1) / 2;
  const double products = backward ? 5 : 2;
  state.counters["FLOP/s"] = benchmark::Counter(
      products * 2 * pairs * static_cast<double>(width) * static_cast<double>(state.iterations()),
      benchmark::Counter::kIsRate);
}

/// One step of 16 sequences that hold `length` tokens each; bytes are those of both caches.
void step(benchmark::State& state, DType dtype, std::int64_t key_value_heads) {
  const std::int64_t length = state.range(0), batch = 16;
  omp_set_num_threads(static_cast<int>(state.range(1)));
  Arena arena(std::int64_t{1} << 30);
  const Shape cache{batch, key_value_heads, length, kHeadDim};
  const Tensor key_cache = scattered_tensor(arena, cache, dtype);
  const Tensor value_cache = scattered_tensor(arena, cache, dtype);
  const Tensor q = scattered_tensor(arena, {batch, kHeads * kHeadDim}, dtype);
  const Tensor k = scattered_tensor(arena, {batch, key_value_heads * kHeadDim}, dtype);
  const Tensor out = scattered_tensor(arena, {batch, kHeads * kHeadDim}, dtype);
  const std::vector<std::int64_t> lengths(static_cast<std::size_t>(batch), length - 1);
  const AttentionShape shape{kHeads, key_value_heads, kHeadDim, true};
  for (auto _ : state)
    softmax_attention_step({}, out, key_cache, value_cache, q, k, k, lengths.data(), shape, 0.125);
  state.SetBytesProcessed(state.iterations() * (key_cache.bytes() + value_cache.bytes()));
}

void lengths_and_threads(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"length", "threads"})->ArgsProduct({{256, 1024}, {1, 2}})->UseRealTime();
}
void step_lengths_and_threads(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"length", "threads"})->ArgsProduct({{512, 4096}, {1, 2}})->UseRealTime();
}

BENCHMARK_CAPTURE(attention, forward_fp32, DType::f32, false, 0.0f)->Apply(lengths_and_threads);
BENCHMARK_CAPTURE(attention, backward_fp32, DType::f32, true, 0.0f)->Apply(lengths_and_threads);
BENCHMARK_CAPTURE(attention, forward_bf16, DType::bf16, false, 0.0f)->Apply(lengths_and_threads);
BENCHMARK_CAPTURE(attention, backward_bf16, DType::bf16, true, 0.0f)->Apply(lengths_and_threads);
BENCHMARK_CAPTURE(attention, forward_dropout, DType::f32, false, 0.1f)->Apply(lengths_and_threads);
BENCHMARK_CAPTURE(attention, backward_dropout, DType::f32, true, 0.1f)->Apply(lengths_and_threads);
BENCHMARK_CAPTURE(step, fp32, DType::f32, 8)->Apply(step_lengths_and_threads);
BENCHMARK_CAPTURE(step, fp32_grouped, DType::f32, 2)->Apply(step_lengths_and_threads);
BENCHMARK_CAPTURE(step, bf16, DType::bf16, 8)->Apply(step_lengths_and_threads);

}  // namespace
}  // namespace t2r

BENCHMARK_MAIN();
