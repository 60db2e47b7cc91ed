// Speed of linear attention: forward and backward of every form in tokens/s and GFLOP/s, feature
// maps in tokens/s, the decoding step in bytes/s of state.
#include <benchmark/benchmark.h>
#include <omp.h>

#include <cstdint>
#include <vector>

#include "core/base/arena.h"
#include "core/base/random.h"
#include "kernels/feature_map.h"
#include "kernels/linear_attention.h"

namespace t2r {
namespace {

constexpr std::int64_t kTokens = 4096, kHeads = 8;

/// Uniform random numbers in [0, 1): as features they are what relu leaves.
Tensor random_tensor(Arena& arena, Shape shape, DType dtype) {
  const Tensor x = arena.allocate(shape, dtype);
  dispatch(dtype, [&]<class T>() {
    for (std::int64_t i = 0, size = x.size(); i < size; ++i)
      x.as<T>()[i] =
          static_cast<T>(to_uniform(random_bits(1, 2, static_cast<std::uint64_t>(i))[0]));
  });
  return x;
}

LinearAttentionShape shape_of(std::int64_t k, std::int64_t d) {
  LinearAttentionShape shape;
  shape.heads = shape.value_heads = kHeads;
  shape.feature_size = k;
  shape.head_dim = d;
  return shape;
}

void count(benchmark::State& state, std::int64_t tokens, double operations_a_token) {
  const double done = static_cast<double>(tokens * state.iterations());
  state.counters["tokens/s"] = benchmark::Counter(done, benchmark::Counter::kIsRate);
  if (operations_a_token > 0)
    state.counters["FLOP/s"] =
        benchmark::Counter(done * operations_a_token, benchmark::Counter::kIsRate);
}

/// About kTokens tokens in segments of length n. Operations are counted as the recurrence needs
/// them, 4 k d a token and head forward and 10 k d backward, whatever the form really does.
void attention(benchmark::State& state, DType dtype, LinearForm form, bool backward, bool decay) {
  const std::int64_t n = state.range(0), k = state.range(1), d = state.range(2);
  omp_set_num_threads(static_cast<int>(state.range(3)));
  const std::int64_t count_segments = std::max<std::int64_t>(1, kTokens / n);
  std::vector<std::int64_t> offsets;
  for (std::int64_t s = 0; s <= count_segments; ++s) offsets.push_back(s * n);
  const Segments segments{count_segments, offsets.data()};
  const std::int64_t rows = segments.rows();
  const LinearAttentionShape shape = shape_of(k, d);
  const DType sums = accumulate_dtype(dtype);
  Arena arena(std::int64_t{1} << 32);
  const Tensor q = random_tensor(arena, {rows, kHeads * k}, dtype);
  const Tensor key = random_tensor(arena, {rows, kHeads * k}, dtype);
  const Tensor v = random_tensor(arena, {rows, kHeads * d}, dtype);
  const Tensor dout = random_tensor(arena, {rows, kHeads * d}, dtype);
  const Tensor out = random_tensor(arena, {rows, kHeads * d}, dtype);
  const Tensor denominator = random_tensor(arena, {rows, kHeads}, sums);
  const Tensor dq = random_tensor(arena, {rows, kHeads * k}, dtype);
  const Tensor dk = random_tensor(arena, {rows, kHeads * k}, dtype);
  const Tensor dv = random_tensor(arena, {rows, kHeads * d}, dtype);
  const Tensor gamma = decay ? random_tensor(arena, {kHeads}, sums) : Tensor();
  const Tensor dgamma = decay ? random_tensor(arena, {kHeads}, sums) : Tensor();
  for (auto _ : state) {
    linear_attention_forward({}, out, denominator, q, key, v, segments, segments, shape, gamma, {},
                             {}, form);
    if (backward)
      linear_attention_backward({}, dq, dk, dv, dgamma, dout, out, denominator, q, key, v, segments,
                                segments, shape, gamma, form);
  }
  count(state, rows, static_cast<double>(kHeads * k * d * (backward ? 14 : 4)));
}

/// The decoding step; bytes are those of the states, read and written once.
void step(benchmark::State& state, DType dtype) {
  const std::int64_t batch = state.range(0), k = state.range(1), d = state.range(2);
  omp_set_num_threads(static_cast<int>(state.range(3)));
  const DType sums = accumulate_dtype(dtype);
  Arena arena(std::int64_t{1} << 30);
  const LinearAttentionShape shape = shape_of(k, d);
  const LinearState states{random_tensor(arena, {batch, kHeads, k, d}, sums),
                           random_tensor(arena, {batch, kHeads, k}, sums)};
  const Tensor q = random_tensor(arena, {batch, kHeads * k}, dtype);
  const Tensor key = random_tensor(arena, {batch, kHeads * k}, dtype);
  const Tensor v = random_tensor(arena, {batch, kHeads * d}, dtype);
  const Tensor out = random_tensor(arena, {batch, kHeads * d}, dtype);
  for (auto _ : state) linear_attention_step({}, out, states, q, key, v, shape);
  count(state, batch, static_cast<double>(kHeads * k * d * 4));
  state.SetBytesProcessed(state.iterations() * 2 * (states.s.bytes() + states.z.bytes()));
}

void feature_map(benchmark::State& state, DType dtype, FeatureMap kind, bool backward) {
  const std::int64_t k = state.range(0), d = state.range(1);
  omp_set_num_threads(static_cast<int>(state.range(2)));
  Arena arena(std::int64_t{1} << 30);
  const DType sums = accumulate_dtype(dtype);
  const bool rfa = kind == FeatureMap::rfa;
  const Shape weight_shape{kHeads, rfa ? k / 2 : k, d};
  const Shape bias_shape = rfa ? Shape{kHeads} : Shape{kHeads, k};
  const Tensor x = random_tensor(arena, {kTokens, kHeads * d}, dtype);
  const Tensor y = random_tensor(arena, {kTokens, kHeads * k}, dtype);
  const FeatureMapWeights weights{kind, random_tensor(arena, weight_shape, dtype),
                                  random_tensor(arena, bias_shape, dtype)};
  const FeatureMapWeights dweights{kind, random_tensor(arena, weight_shape, sums),
                                   random_tensor(arena, bias_shape, sums)};
  const Tensor dx = random_tensor(arena, x.shape, dtype);
  for (auto _ : state) {
    feature_map_forward({}, y, x, weights, kHeads, kHeads, 0.125);
    if (backward) feature_map_backward({}, dx, dweights, y, y, x, weights, kHeads, kHeads, 0.125);
  }
  count(state, kTokens, static_cast<double>(kHeads * k * d * (backward ? 6 : 2)));
}

void register_all() {
  const std::pair<LinearForm, const char*> forms[] = {{LinearForm::recurrent, "recurrent"},
                                                      {LinearForm::masked, "masked"},
                                                      {LinearForm::chunkwise, "chunkwise"}};
  const std::pair<std::int64_t, std::int64_t> sizes[] = {{32, 64}, {4, 64}, {32, 128}, {4, 128}};
  for (DType dtype : {DType::f32, DType::bf16})
    for (auto [form, name] : forms)
      for (bool backward : {false, true})
        for (bool decay : {false, true}) {
          auto* bench = benchmark::RegisterBenchmark(
              fmt::format("{}/{}/{}{}", backward ? "forward_backward" : "forward", name_of(dtype),
                          name, decay ? "/decay" : "")
                  .c_str(),
              attention, dtype, form, backward, decay);
          for (auto [k, d] : sizes)
            for (std::int64_t n : {64, 128, 256, 512, 1024, 2048})
              for (std::int64_t threads : {1, 2}) bench->Args({n, k, d, threads});
          bench->ArgNames({"n", "k", "d", "threads"})->UseRealTime()->Unit(benchmark::kMicrosecond);
        }
  for (DType dtype : {DType::f32, DType::bf16}) {
    benchmark::RegisterBenchmark(fmt::format("step/{}", name_of(dtype)).c_str(), step, dtype)
        ->ArgNames({"batch", "k", "d", "threads"})
        ->ArgsProduct({{1, 16, 256}, {32}, {64}, {1, 2}})
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond);
    for (auto [kind, name] : {std::pair{FeatureMap::t2r, "t2r"}, {FeatureMap::rfa, "rfa"}})
      for (bool backward : {false, true})
        benchmark::RegisterBenchmark(
            fmt::format("feature_map{}/{}/{}", backward ? "_backward" : "", name_of(dtype), name)
                .c_str(),
            feature_map, dtype, kind, backward)
            ->ArgNames({"k", "d", "threads"})
            ->ArgsProduct({{4, 32}, {64}, {1, 2}})
            ->UseRealTime()
            ->Unit(benchmark::kMicrosecond);
  }
}

}  // namespace
}  // namespace t2r

int main(int argc, char** argv) {
  t2r::register_all();
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
