// Memory rates of the kernels that are bound by memory: norms, GELU, dropout, embeddings, rotary
// positions. Bytes are those that must be read and written once; compare with a plain copy, first.
// Threads: OMP_NUM_THREADS.
#include <benchmark/benchmark.h>

#include <vector>

#include "core/base/arena.h"
#include "core/base/random.h"
#include "kernels/activation.h"
#include "kernels/dropout.h"
#include "kernels/elementwise.h"
#include "kernels/embedding.h"
#include "kernels/norm.h"
#include "kernels/rotary.h"

namespace {

using namespace t2r;

/// Tensors for one benchmark, in memory that all benchmarks use one after the other: arguments are
/// rows, columns and whether storage is bf16.
class Matrices {
 public:
  explicit Matrices(const benchmark::State& state)
      : rows(state.range(0)),
        columns(state.range(1)),
        dtype(state.range(2) ? DType::bf16 : DType::f32) {
    memory().reset();
  }

  /// Numbers in [-2, 2] without an order that matters.
  Tensor filled(Shape shape, DType type) {
    const Tensor x = memory().allocate(shape, type);
    for (std::int64_t i = 0; i < x.size(); ++i) {
      const float value = static_cast<float>(i * 7919 % 1021) / 255 - 2;
      if (type == DType::bf16)
        x.as<bf16>()[i] = value;
      else
        x.as<float>()[i] = value;
    }
    return x;
  }
  Tensor matrix() { return filled({rows, columns}, dtype); }
  Tensor vector() { return filled({columns}, dtype); }
  const std::int64_t rows, columns;
  const DType dtype;

 private:
  static Arena& memory() {
    static Arena arena(std::int64_t{1} << 30);
    return arena;
  }
};

std::vector<std::int32_t> ids_for(std::int64_t rows, std::int64_t entries) {
  std::vector<std::int32_t> ids;
  for (std::int64_t row = 0; row < rows; ++row)
    ids.push_back(static_cast<std::int32_t>(random_uniform(2, 3, static_cast<std::uint64_t>(row)) *
                                            static_cast<double>(entries)));
  return ids;
}

void finish(benchmark::State& state, std::int64_t bytes) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * bytes);
}

void plain_copy(benchmark::State& state) {
  Matrices m(state);
  const Tensor x = m.matrix(), y = m.matrix();
  for (auto _ : state) copy({}, y, x);
  finish(state, x.bytes() + y.bytes());
}

void layer_norm(benchmark::State& state) {
  Matrices m(state);
  const Tensor x = m.matrix(), y = m.matrix(), weight = m.vector(), bias = m.vector();
  const Tensor mean = m.filled({m.rows}, DType::f32), rstd = m.filled({m.rows}, DType::f32);
  for (auto _ : state) layer_norm_forward({}, y, mean, rstd, x, weight, bias, 1e-5);
  finish(state, 2 * x.bytes());
}

void layer_norm_gradient(benchmark::State& state) {
  Matrices m(state);
  const Tensor x = m.matrix(), dy = m.matrix(), dx = m.matrix(), y = m.matrix();
  const Tensor weight = m.vector(), bias = m.vector();
  const Tensor mean = m.filled({m.rows}, DType::f32), rstd = m.filled({m.rows}, DType::f32);
  const Tensor dweight = m.filled({m.columns}, DType::f32),
               dbias = m.filled({m.columns}, DType::f32);
  layer_norm_forward({}, y, mean, rstd, x, weight, bias, 1e-5);
  for (auto _ : state) layer_norm_backward({}, dx, dweight, dbias, dy, x, weight, mean, rstd, true);
  finish(state, 4 * x.bytes());
}

void rms_norm(benchmark::State& state) {
  Matrices m(state);
  const Tensor x = m.matrix(), y = m.matrix(), weight = m.vector();
  const Tensor rstd = m.filled({m.rows}, DType::f32);
  for (auto _ : state) rms_norm_forward({}, y, rstd, x, weight, 1e-5);
  finish(state, 2 * x.bytes());
}

void rms_norm_gradient(benchmark::State& state) {
  Matrices m(state);
  const Tensor x = m.matrix(), dy = m.matrix(), dx = m.matrix(), y = m.matrix();
  const Tensor weight = m.vector(), rstd = m.filled({m.rows}, DType::f32);
  const Tensor dweight = m.filled({m.columns}, DType::f32);
  rms_norm_forward({}, y, rstd, x, weight, 1e-5);
  for (auto _ : state) rms_norm_backward({}, dx, dweight, dy, x, weight, rstd, false);
  finish(state, 3 * x.bytes());
}

template <Activation kind>
void activation(benchmark::State& state) {
  Matrices m(state);
  const Tensor x = m.matrix(), y = m.matrix();
  for (auto _ : state) activation_forward({}, kind, y, x);
  finish(state, 2 * x.bytes());
}

template <Activation kind>
void activation_gradient(benchmark::State& state) {
  Matrices m(state);
  const Tensor x = m.matrix(), dy = m.matrix(), dx = m.matrix();
  for (auto _ : state) activation_backward({}, kind, dx, dy, x);
  finish(state, 3 * x.bytes());
}

void swiglu(benchmark::State& state) {
  Matrices m(state);
  const Tensor y = m.matrix(), gate_up = m.filled({m.rows, 2 * m.columns}, m.dtype);
  for (auto _ : state) swiglu_forward({}, y, gate_up);
  finish(state, 3 * y.bytes());
}

void swiglu_gradient(benchmark::State& state) {
  Matrices m(state);
  const Tensor dy = m.matrix(), gate_up = m.filled({m.rows, 2 * m.columns}, m.dtype);
  const Tensor dgate_up = m.filled({m.rows, 2 * m.columns}, m.dtype);
  for (auto _ : state) swiglu_backward({}, dgate_up, dy, gate_up);
  finish(state, 5 * dy.bytes());
}

void dropout_add(benchmark::State& state) {
  Matrices m(state);
  const Tensor x = m.matrix(), residual = m.matrix(), y = m.matrix();
  for (auto _ : state) dropout_add_forward({}, y, x, residual, Dropout{0.1f, 1, 2});
  finish(state, 3 * x.bytes());
}

void residual_add(benchmark::State& state) {
  Matrices m(state);
  const Tensor x = m.matrix(), residual = m.matrix(), y = m.matrix();
  for (auto _ : state) dropout_add_forward({}, y, x, residual, Dropout{});
  finish(state, 3 * x.bytes());
}

void embedding(benchmark::State& state) {
  Matrices m(state);
  const Tensor y = m.matrix(), table = m.filled({8192, m.columns}, m.dtype);
  const Tensor positions = m.filled({256, m.columns}, m.dtype);
  const auto ids = ids_for(m.rows, 8192), places = ids_for(m.rows, 256);
  for (auto _ : state) embedding_forward({}, y, ids.data(), table, 1, places.data(), positions);
  finish(state, 3 * y.bytes());
}

void embedding_gradient(benchmark::State& state) {
  Matrices m(state);
  const Tensor dy = m.matrix(), dtable = m.filled({8192, m.columns}, DType::f32);
  const auto ids = ids_for(m.rows, 8192);
  for (auto _ : state) embedding_backward({}, dtable, Tensor(), ids.data(), nullptr, dy, 1);
  finish(state, dy.bytes() + 2 * dy.size() * size_of(DType::f32));
}

void rotary_turn(benchmark::State& state) {
  Matrices m(state);
  const Tensor x = m.matrix();
  const auto places = ids_for(m.rows, 1024);
  for (auto _ : state) rotary({}, x, places.data(), 64, 10000, false);
  finish(state, 2 * x.bytes());
}

void sizes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"rows", "columns", "bf16"})->UseRealTime()->MinTime(0.1);
  for (int columns : {512, 2048})
    for (int half : {0, 1}) benchmark->Args({2048, columns, half});
}

BENCHMARK(plain_copy)->Apply(sizes);
BENCHMARK(layer_norm)->Apply(sizes);
BENCHMARK(layer_norm_gradient)->Apply(sizes);
BENCHMARK(rms_norm)->Apply(sizes);
BENCHMARK(rms_norm_gradient)->Apply(sizes);
BENCHMARK(activation<Activation::gelu_tanh>)->Name("gelu_tanh")->Apply(sizes);
BENCHMARK(activation_gradient<Activation::gelu_tanh>)->Name("gelu_tanh_gradient")->Apply(sizes);
BENCHMARK(activation<Activation::gelu_erf>)->Name("gelu_erf")->Apply(sizes);
BENCHMARK(activation_gradient<Activation::gelu_erf>)->Name("gelu_erf_gradient")->Apply(sizes);
BENCHMARK(swiglu)->Apply(sizes);
BENCHMARK(swiglu_gradient)->Apply(sizes);
BENCHMARK(dropout_add)->Apply(sizes);
BENCHMARK(residual_add)->Apply(sizes);
BENCHMARK(embedding)->Apply(sizes);
BENCHMARK(embedding_gradient)->Apply(sizes);
BENCHMARK(rotary_turn)->Apply(sizes);

}  // namespace

BENCHMARK_MAIN();
