// Rotary position embedding on the CPU. Sines and cosines cost far more than the rotation, so those
// of the first positions are computed once and kept.
#include <bit>
#include <cmath>
#include <vector>

#include "kernels/cpu.h"
#include "kernels/pointwise.h"
#include "kernels/rotary.h"

namespace t2r {
namespace {

// Positions with kept angles; those beyond (endless decoding) are computed row by row.
constexpr std::int64_t kMaxKept = 16384;

/// turn[i] = cos, turn[half + i] = sin of position * theta^(-2i/d), d = 2 * half.
template <class A>
void fill_turn(A* turn, std::int64_t position, std::int64_t half, double theta) {
  for (std::int64_t i = 0; i < half; ++i) {
    const double frequency = std::pow(theta, -static_cast<double>(i) / static_cast<double>(half));
    const double angle = static_cast<double>(position) * frequency;
    turn[i] = static_cast<A>(std::cos(angle));
    turn[half + i] = static_cast<A>(std::sin(angle));
  }
}

/// The turns of positions 0, 1, ... for one (half, theta), grown on demand.
template <class A>
struct KeptTurns {
  std::int64_t half = 0, positions = 0;
  double theta = 0;
  std::vector<A> turns;

  void reserve(std::int64_t wanted, std::int64_t half_, double theta_) {
    if (half != half_ || theta != theta_) {
      half = half_;
      theta = theta_;
      positions = 0;
    }
    if (wanted <= positions) return;
    wanted = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(wanted)));
    turns.resize(static_cast<std::size_t>(wanted * 2 * half));
#pragma omp parallel for schedule(static) if (wanted * half >= kParallelElements)
    for (std::int64_t p = positions; p < wanted; ++p)
      fill_turn(turns.data() + p * 2 * half, p, half, theta);
    positions = wanted;
  }
};

}  // namespace

void rotary(Queue queue, Tensor x, const std::int32_t* position_ids, std::int64_t head_dim,
            double theta, bool inverse) {
  check_cpu("rotary", queue, x);
  check(head_dim > 0 && head_dim % 2 == 0,
        "rotary positions for heads of size {}: the size must be even", head_dim);
  check(theta > 0, "rotary positions with theta {}: it must be positive", theta);
  check(x.shape.rank() == 2 && x.shape[1] % head_dim == 0,
        "rotary positions on the shape {}: expected (rows, heads * {})", x.shape.text(), head_dim);
  const std::int64_t rows = x.shape[0], heads = x.shape[1] / head_dim, half = head_dim / 2;
  std::int64_t last = -1;  // the largest position whose turn is kept
  for (std::int64_t row = 0; row < rows; ++row) {
    check(position_ids[row] >= 0, "the negative position {} in row {}", position_ids[row], row);
    if (position_ids[row] < kMaxKept) last = std::max<std::int64_t>(last, position_ids[row]);
  }
  dispatch(x.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    static thread_local KeptTurns<A> kept;
    kept.reserve(last + 1, half, theta);
    const A* const turns = kept.turns.data();
    T* const x0 = x.as<T>();
    const A sign = inverse ? A{-1} : A{1};
#pragma omp parallel if (rows * x.shape[1] >= kParallelElements)
    {
      std::vector<A> far(static_cast<std::size_t>(head_dim));  // a position beyond the kept ones
#pragma omp for schedule(static)
      for (std::int64_t row = 0; row < rows; ++row) {
        const A* turn = far.data();
        if (position_ids[row] < kMaxKept)
          turn = turns + position_ids[row] * head_dim;
        else
          fill_turn(far.data(), position_ids[row], half, theta);
        const A* const cosine = turn;
        const A* const sine = turn + half;
        for (std::int64_t head = 0; head < heads; ++head) {
          T* const low = x0 + row * x.row_stride + head * head_dim;
          T* const high = low + half;
#pragma omp simd
          for (std::int64_t i = 0; i < half; ++i) {
            const A a = static_cast<A>(low[i]), b = static_cast<A>(high[i]);
            const A s = sign * sine[i];
            store(low[i], a * cosine[i] - b * s);
            store(high[i], b * cosine[i] + a * s);
          }
        }
      }
    }
  });
}

}  // namespace t2r
