// What summing gradients costs: blocking, and by the reducer while the processor computes. Run as
//   mpirun -np 2 all_reduce_bench [most MiB] [bucket KiB]
// Prints a table on rank 0; each figure is of the fastest of 15 rounds, and the slowest rank's.
// "backward" is the computation with the reducer's work in it, "exposed" what finish() waits for
// after it.
#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>

#include "core/base/arena.h"
#include "core/base/log.h"
#include "dist/gradient_reducer.h"
#include "dist/launcher.h"

namespace {

constexpr int kRounds = 15, kLayers = 64;

double now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

/// The figures that `f` returns, each the slowest rank's, of the round whose first figure is least:
/// neighbours on the machine only ever add time.
template <std::size_t N>
std::array<double, N> best(t2r::Comm& comm, const std::function<std::array<double, N>()>& f) {
  std::array<double, N> result{};
  for (int round = 0; round < kRounds; ++round) {
    comm.barrier();
    std::array<double, N> figures = f();
    for (double& figure : figures) figure = comm.all_reduce_value(figure, t2r::ReduceOp::max);
    if (round == 0 || figures[0] < result[0]) result = figures;
  }
  return result;
}

/// Stands for the backward pass of one layer: arithmetic in registers for about `seconds`.
void compute(double seconds) {
  volatile float sink = 0;
  float x = 1;
  for (const double end = now() + seconds; now() < end;)
    for (int i = 0; i < 1000; ++i) x = x * 0.999f + 0.001f;
  sink = x;
  (void)sink;
}

}  // namespace

int main(int count, char** arguments) {
  const std::int64_t most = (count > 1 ? std::atoll(arguments[1]) : 64) << 20;
  const std::int64_t bucket = (count > 2 ? std::atoll(arguments[2]) : 4096) << 10;
  const auto world = t2r::make_world_comm(false);
  t2r::log_rank(world->rank(), world->size());
  try {
    t2r::check_usage(most > 0 && bucket > 0, "sizes must be positive whole numbers");
    t2r::Arena arena(most);
    const t2r::Tensor all = arena.allocate({most / 4}, t2r::DType::f32);
    std::fill_n(all.as<float>(), all.size(), 0.0f);
    if (world->rank() == 0)
      std::printf(
          "%d ranks, buckets of %lld KiB; compute: %d layers that take as long as blocking\n"
          "%10s %12s %8s %12s %12s %12s\n",
          world->size(), static_cast<long long>(bucket >> 10), kLayers, "bytes", "blocking us",
          "GB/s", "backward us", "reducer us", "exposed us");
    for (std::int64_t bytes = 1 << 10; bytes <= most; bytes *= 4) {
      const t2r::Tensor x = all.row_range(0, bytes / 4);
      const auto [blocking] = best<1>(*world, [&] {
        const double begin = now();
        world->all_reduce(x, t2r::ReduceOp::sum, {});
        return std::array{now() - begin};
      });
      t2r::GradientReducer reducer(*world, x, bucket, {});
      const double layer_seconds = blocking / kLayers;
      const auto [whole, backward, exposed] = best<3>(*world, [&] {
        const double exposed_before = reducer.exposed_seconds();
        const double begin = now();
        for (int layer = kLayers - 1; layer >= 0; --layer) {
          compute(layer_seconds);
          reducer.ready(x.size() * layer / kLayers);
        }
        const double middle = now();
        reducer.finish();
        return std::array{now() - begin, middle - begin,
                          reducer.exposed_seconds() - exposed_before};
      });
      if (world->rank() == 0)
        std::printf("%10lld %12.1f %8.2f %12.1f %12.1f %12.1f\n", static_cast<long long>(bytes),
                    blocking * 1e6, bytes / blocking * 1e-9, backward * 1e6, whole * 1e6,
                    exposed * 1e6);
    }
  } catch (const t2r::Error& e) {
    t2r::warn("{}", e.what());
    world->abort(e.status());
  }
  return 0;
}
