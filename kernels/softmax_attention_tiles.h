// What the three parts of softmax attention on the CPU (forward, backward, decoding step) share:
// the call's tensors, scratch of each thread, loading of tiles, one online softmax row, dropout.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "core/base/dtype.h"
#include "core/base/tensor.h"
#include "kernels/dropout.h"
#include "kernels/scratch.h"
#include "kernels/segments.h"
#include "kernels/softmax_attention.h"
#include "kernels/tile_matmul.h"
#include "kernels/vector_math.h"

namespace t2r::attention {

/// Inputs that forward and backward have in common.
struct Call {
  Tensor q, k, v;
  Segments queries, keys;
  AttentionShape shape;
  double scale = 1;
  Dropout dropout;

  std::int64_t group() const { return shape.heads / shape.key_value_heads; }
  /// Causal: keys of a segment before its first query's own.
  std::int64_t earlier(std::int64_t segment) const {
    return keys.length(segment) - queries.length(segment);
  }
  /// Causal: the first key of a segment that query `query` of it sees.
  std::int64_t first_key(std::int64_t segment, std::int64_t query) const {
    if (shape.window == 0) return 0;
    return std::max<std::int64_t>(0, earlier(segment) + query + 1 - shape.window);
  }
  /// First element of `head` in row `row` of a matrix whose rows hold heads side by side.
  template <class T>
  static T* at(const Tensor& x, std::int64_t row, std::int64_t head, std::int64_t head_dim) {
    return static_cast<T*>(x.data) + row * x.row_stride + head * head_dim;
  }
};

/// Throws unless shapes, types and segments fit together.
void check_call(const Call& call);

/// Key positions of one (row, head) get counters of their own for dropout: segments are no longer.
inline constexpr std::int64_t kDropoutKeys = std::int64_t{1} << 20;

inline std::int64_t round_up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

/// kLanes elements as A.
template <class A, class T>
tile::Vector<A> load_as(const T* from) {
  if constexpr (std::is_same_v<T, bf16>) {
    typedef std::uint16_t Halves __attribute__((vector_size(tile::kVectorBytes / 2)));
    typedef std::uint32_t Words __attribute__((vector_size(tile::kVectorBytes)));
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    return std::bit_cast<tile::Vector<A>>(__builtin_convertvector(halves, Words) << 16);
  } else {
    return tile::load(from);
  }
}

/// to (rows, columns), contiguous, = factor * from, whose rows lie `stride` apart.
template <class T, class A>
void load_tile(A* to, const T* from, std::int64_t stride, std::int64_t rows, std::int64_t columns,
               A factor = 1) {
  for (std::int64_t i = 0; i < rows; ++i) {
    A* out = to + i * columns;
    const T* in = from + i * stride;
    std::int64_t c = 0;
    for (; c + tile::kLanes<A> <= columns; c += tile::kLanes<A>)
      tile::store(out + c, load_as<A>(in + c) * factor);
    for (; c < columns; ++c) out[c] = static_cast<A>(in[c]) * factor;
  }
}

/// to, rows `stride` apart, = factor * from (rows, columns), contiguous.
template <class T, class A>
void store_tile(T* to, std::int64_t stride, const A* from, std::int64_t rows, std::int64_t columns,
                A factor = 1) {
  for (std::int64_t i = 0; i < rows; ++i) {
    T* out = to + i * stride;
    const A* in = from + i * columns;
#pragma omp simd
    for (std::int64_t c = 0; c < columns; ++c) {
      if constexpr (std::is_same_v<T, bf16>)
        out[c].bits = bf16(in[c] * factor).bits;  // g++ 12 vectorises the bits, not the struct
      else
        out[c] = in[c] * factor;
    }
  }
}

/// to (columns, width) = from (rows, columns), contiguous, transposed; columns from `rows` up to
/// the next whole vector are zero.
template <class A>
void turn_tile(A* to, std::int64_t width, const A* from, std::int64_t rows, std::int64_t columns) {
  tile::transpose(to, width, from, columns, rows, columns);
  const std::int64_t end = std::min(width, round_up(rows, tile::kLanes<A>));
  if (end > rows)
    for (std::int64_t c = 0; c < columns; ++c)
      std::fill(to + c * width + rows, to + c * width + end, A{});
}

/// One row of the online softmax (Milakov and Gimelshein 2018): scores[0, count) become
/// exp(score - maximum); `maximum` and `sum` take them in. Returns the factor by which what was
/// summed under the old maximum has to be multiplied.
template <class A>
A online_softmax(A* scores, std::int64_t count, A& maximum, A& sum) {
  A top = maximum;
#pragma omp simd reduction(max : top)
  for (std::int64_t j = 0; j < count; ++j) top = scores[j] > top ? scores[j] : top;
  A total = 0;
#pragma omp simd reduction(+ : total)
  for (std::int64_t j = 0; j < count; ++j) {
    scores[j] = fast_exp(scores[j] - top);
    total += scores[j];
  }
  const A factor = maximum == top ? A(1) : fast_exp(maximum - top);
  sum = sum * factor + total;
  maximum = top;
  return factor;
}

/// The dropout of one (query row, head), where heads may lie on several ranks: factors[j] = 1 / (1
/// - rate), or 0 where key `begin` + j is dropped. `begin` is a multiple of 4; `factors` has room
/// for `count` rounded up to 64.
template <class A>
void dropout_factors(A* factors, const Dropout& dropout, std::int64_t row, std::int64_t head,
                     std::int64_t heads, std::int64_t begin, std::int64_t count) {
  // Philox (core/base/random.h) on vectors of counters, in 64-bit lanes that hold 32-bit words:
  // loops over random_bits() come out several times slower.
  using Words = tile::Vector<std::uint64_t>;
  constexpr int W = tile::kLanes<std::uint64_t>;
  constexpr int kCounters = 16;  // each for four neighbouring elements
  const Words low = Words{} + 0xFFFFFFFFu;
  Words steps;
  for (int lane = 0; lane < W; ++lane) steps[lane] = static_cast<std::uint64_t>(lane);
  const std::int64_t id = dropout.row_ids ? dropout.row_ids[row] : row;
  const std::int64_t whole = dropout.whole_columns ? dropout.whole_columns : heads;
  const std::int64_t pair = id * whole + dropout.first_column + head;
  const auto first = static_cast<std::uint64_t>(pair * (kDropoutKeys / 4) + begin / 4);
  const auto threshold = static_cast<std::uint32_t>(std::ceil(dropout.rate * 0x1p24f)) << 8;
  const A kept = static_cast<A>(1 / (1 - static_cast<double>(dropout.rate)));
  for (std::int64_t j = 0; j < count; j += 4 * kCounters) {
    std::uint32_t bits[4][kCounters];
    for (int part = 0; part < kCounters; part += W) {
      const Words counter = steps + (first + static_cast<std::uint64_t>(j / 4 + part));
      Words c0 = counter & low, c1 = counter >> 32;
      Words c2 = Words{} + (dropout.stream & 0xFFFFFFFFu), c3 = Words{} + (dropout.stream >> 32);
      auto key0 = static_cast<std::uint32_t>(dropout.seed);
      auto key1 = static_cast<std::uint32_t>(dropout.seed >> 32);
      for (int round = 0; round < 10; ++round) {
        const Words a = c0 * std::uint64_t{0xD2511F53u}, b = c2 * std::uint64_t{0xCD9E8D57u};
        c0 = (b >> 32) ^ c1 ^ std::uint64_t{key0};
        c1 = b & low;
        c2 = (a >> 32) ^ c3 ^ std::uint64_t{key1};
        c3 = a & low;
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
      }
      for (int lane = 0; lane < W; ++lane) {
        bits[0][part + lane] = static_cast<std::uint32_t>(c0[lane]);
        bits[1][part + lane] = static_cast<std::uint32_t>(c1[lane]);
        bits[2][part + lane] = static_cast<std::uint32_t>(c2[lane]);
        bits[3][part + lane] = static_cast<std::uint32_t>(c3[lane]);
      }
    }
#pragma omp simd
    for (int i = 0; i < kCounters; ++i) {
      factors[j + 4 * i] = bits[0][i] >= threshold ? kept : A(0);
      factors[j + 4 * i + 1] = bits[1][i] >= threshold ? kept : A(0);
      factors[j + 4 * i + 2] = bits[2][i] >= threshold ? kept : A(0);
      factors[j + 4 * i + 3] = bits[3][i] >= threshold ? kept : A(0);
    }
  }
}

}  // namespace t2r::attention
