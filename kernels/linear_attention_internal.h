// What the forms of linear attention share: the unpacked arguments of one call, the unit of
// parallel work, powers of the decay and the step that the recurrence and decoding are made of.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "core/base/dtype.h"
#include "kernels/linear_attention.h"
#include "kernels/scratch.h"
#include "kernels/tile_matmul.h"
#include "kernels/tile_rows.h"

namespace t2r::linear_attention {

/// Arguments of forward. States have one row a segment. gamma is null where there is no decay.
template <class T>
struct Forward {
  using A = accumulate_t<T>;
  LinearAttentionShape shape;
  Segments queries, keys;
  Rows<T> out;
  Rows<A> denominator;
  Rows<const T> q, k, v;
  const A* gamma = nullptr;
  Rows<const A> initial_s, initial_z;
  Rows<A> final_s, final_z;
};

/// Arguments of backward. dgamma (segments, heads) is written, not added to, or null.
template <class T>
struct Backward {
  using A = accumulate_t<T>;
  LinearAttentionShape shape;
  Segments queries, keys;
  Rows<T> dq, dk, dv;
  double* dgamma = nullptr;
  Rows<const T> dout, out;
  Rows<const A> denominator;
  Rows<const T> q, k, v;
  const A* gamma = nullptr;
  Rows<const A> initial_s, initial_z, dfinal_s, dfinal_z;
  Rows<A> dinitial_s, dinitial_z;
};

/// The unit of parallel work: the heads that share one value head, in one segment. No two units
/// write the same element, and each is done by one thread in a fixed order.
struct Unit {
  std::int64_t segment, value_head, first_head, group;
  std::int64_t query_begin, queries, key_begin, keys;

  Unit(std::int64_t segment_, std::int64_t value_head_, const LinearAttentionShape& shape,
       const Segments& query_segments, const Segments& key_segments)
      : segment(segment_),
        value_head(value_head_),
        first_head(value_head_ * (shape.heads / shape.value_heads)),
        group(shape.heads / shape.value_heads),
        query_begin(query_segments.offsets[segment_]),
        queries(query_segments.length(segment_)),
        key_begin(key_segments.offsets[segment_]),
        keys(key_segments.length(segment_)) {}
};

template <class T>
void recurrent_forward(const Forward<T>& call, const Unit& unit);
template <class T>
void recurrent_backward(const Backward<T>& call, const Unit& unit);
template <class T>
void masked_forward(const Forward<T>& call, const Unit& unit);
template <class T>
void masked_backward(const Backward<T>& call, const Unit& unit);
template <class T>
void chunkwise_forward(const Forward<T>& call, const Unit& unit);
template <class T>
void chunkwise_backward(const Backward<T>& call, const Unit& unit);
/// What these two read and write of a call: keys, values and the final state; queries, the output,
/// its gradient and the gradient of the initial state.
template <class T>
void chunkwise_state(const Forward<T>& call, const Unit& unit);
template <class T>
void chunkwise_state_backward(const Backward<T>& call, const Unit& unit);

/// out = numerator / max(denominator, clamp); NaN stays NaN.
template <class T, class A>
inline void write_output(T* out, const A* numerator, A denominator, A clamp, std::int64_t n) {
  const A factor = A(1) / (denominator < clamp ? clamp : denominator);
#pragma omp simd
  for (std::int64_t i = 0; i < n; ++i) store(out[i], numerator[i] * factor);
}

/// d_numerator = dout / max(denominator, clamp); returns d_denominator = -(dout . out) /
/// denominator, 0 where the clamp is active.
template <class T, class A>
inline A output_gradient(A* d_numerator, const T* dout, const T* out, A denominator, A clamp,
                         std::int64_t n) {
  const bool clamped = denominator < clamp;
  const A factor = A(1) / (clamped ? clamp : denominator);
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t i = 0; i < n; ++i) {
    const A g = static_cast<A>(dout[i]);
    sum += g * static_cast<A>(out[i]);
    d_numerator[i] = g * factor;
  }
  return clamped ? A(0) : -sum * factor;
}

/// gamma^p for p = 0 .. n by multiplication in double, so that a small gamma ends in clean zeros
/// (no denormal numbers) and nothing is ever divided by a power.
template <class A>
struct Powers {
  std::int64_t n = 0;
  A* up = nullptr;     // up[p] = gamma^p
  A* down = nullptr;   // down[m] = gamma^(n - m): the weights of earlier tokens, in token order
  A* slope = nullptr;  // slope[p] = p gamma^(p - 1), the derivative of up[p]
  A* slope_down = nullptr;

  static Powers make(ScratchScope& scratch, A gamma, std::int64_t n, bool with_slope) {
    Powers powers;
    powers.n = n;
    powers.up = scratch.array<A>(n + 1);
    powers.down = scratch.array<A>(n + 1);
    if (with_slope) {
      powers.slope = scratch.array<A>(n + 1);
      powers.slope_down = scratch.array<A>(n + 1);
    }
    double power = 1, previous = 0;
    for (std::int64_t p = 0; p <= n; ++p) {
      powers.up[p] = powers.down[n - p] = clean(power);
      if (with_slope)
        powers.slope[p] = powers.slope_down[n - p] = clean(static_cast<double>(p) * previous);
      previous = power;
      power *= static_cast<double>(gamma);
      if (power < std::numeric_limits<double>::min()) power = 0;
    }
    return powers;
  }

  /// Weights of the tokens 0 .. i before token i: weights(i)[j] = gamma^(i - j).
  const A* weights(std::int64_t i) const { return down + (n - i); }
  const A* slopes(std::int64_t i) const { return slope_down + (n - i); }

 private:
  static A clean(double value) {
    return value < static_cast<double>(std::numeric_limits<A>::min()) ? A(0)
                                                                      : static_cast<A>(value);
  }
};

// Products with a causal tile, whose upper triangle is zero: rows in blocks, so that most of that
// triangle is neither computed nor read. Within a block the zeros are there (see weigh_causal).
inline constexpr std::int64_t kBlock = 16;

/// w = x y^T, lower blocks only; x (n, depth), y_turned = y^T (depth, n).
template <class A>
inline void lower_product(A* w, std::int64_t ldw, Rows<const A> x, Rows<const A> y_turned,
                          std::int64_t n, std::int64_t depth) {
  for (std::int64_t i = 0; i < n; i += kBlock) {
    const std::int64_t end = std::min(n, i + kBlock);
    tile_matmul_nn(w + i * ldw, ldw, x.at(i), x.stride, y_turned.data, y_turned.stride, end - i,
                   end, depth, false);
  }
}
/// c (n, columns) = w b, or +=
template <class A>
inline void lower_times(Rows<A> c, const A* w, std::int64_t ldw, Rows<const A> b, std::int64_t n,
                        std::int64_t columns, bool accumulate) {
  for (std::int64_t i = 0; i < n; i += kBlock) {
    const std::int64_t end = std::min(n, i + kBlock);
    tile_matmul_nn(c.at(i), c.stride, w + i * ldw, ldw, b.data, b.stride, end - i, columns, end,
                   accumulate);
  }
}
/// c (n, columns) = w^T b, or +=
template <class A>
inline void lower_transposed_times(Rows<A> c, const A* w, std::int64_t ldw, Rows<const A> b,
                                   std::int64_t n, std::int64_t columns, bool accumulate) {
  for (std::int64_t i = 0; i < n; i += kBlock) {
    const std::int64_t end = std::min(n, i + kBlock);
    tile_matmul_tn(c.at(i), c.stride, w + i * ldw + i, ldw, b.at(i), b.stride, end - i, columns,
                   n - i, accumulate);
  }
}

/// Row i of a causal tile: w[j] *= decay[j] for j <= i (decay may be null), 0 from there to the end
/// of the block. Returns the sum of the row.
template <class A>
inline A weigh_causal(A* w, const A* decay, std::int64_t i, std::int64_t n) {
  const std::int64_t block_end = std::min(n, i / kBlock * kBlock + kBlock);
  A sum = 0;
  if (decay) {
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j <= i; ++j) {
      w[j] *= decay[j];
      sum += w[j];
    }
  } else {
#pragma omp simd reduction(+ : sum)
    for (std::int64_t j = 0; j <= i; ++j) sum += w[j];
  }
  for (std::int64_t j = i + 1; j < block_end; ++j) w[j] = 0;
  return sum;
}

/// Sum over j of w[j] dw[j] slope[j]: what a row of a tile adds to dgamma.
template <class A>
inline A slope_sum(const A* w, const A* dw, const A* slope, std::int64_t n) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = 0; j < n; ++j) sum += w[j] * dw[j] * slope[j];
  return sum;
}

/// Columns [0, Vectors * lanes) of S = gamma S + k v^T and of numerator = S^T q.
template <class A, int Vectors>
inline void advance_columns(A* s, A* numerator, const A* q, const A* k, const A* v,
                            std::int64_t feature_size, std::int64_t head_dim, A gamma) {
  constexpr int kWidth = tile::kLanes<A>;
  tile::Vector<A> value[Vectors], sum[Vectors];
#pragma GCC unroll 4
  for (int c = 0; c < Vectors; ++c) {
    value[c] = tile::load(v + c * kWidth);
    sum[c] = tile::Vector<A>{};
  }
  for (std::int64_t r = 0; r < feature_size; ++r) {
    A* row = s + r * head_dim;
    const A key = k[r], query = q[r];
#pragma GCC unroll 4
    for (int c = 0; c < Vectors; ++c) {
      const tile::Vector<A> state = gamma * tile::load(row + c * kWidth) + key * value[c];
      tile::store(row + c * kWidth, state);
      sum[c] += query * state;
    }
  }
#pragma GCC unroll 4
  for (int c = 0; c < Vectors; ++c) tile::store(numerator + c * kWidth, sum[c]);
}

/// One token of one head: S = gamma S + k v^T, z = gamma z + k, numerator (d) = S^T q; returns the
/// denominator z . q. The state is read and written once.
template <class A>
inline A advance(A* s, A* z, A* numerator, const A* q, const A* k, const A* v,
                 std::int64_t feature_size, std::int64_t head_dim, A gamma) {
  constexpr int kWidth = tile::kLanes<A>;
  std::int64_t j = 0;
  for (; head_dim - j >= 4 * kWidth; j += 4 * kWidth)
    advance_columns<A, 4>(s + j, numerator + j, q, k, v + j, feature_size, head_dim, gamma);
  if (head_dim - j >= 2 * kWidth) {
    advance_columns<A, 2>(s + j, numerator + j, q, k, v + j, feature_size, head_dim, gamma);
    j += 2 * kWidth;
  }
  if (head_dim - j >= kWidth) {
    advance_columns<A, 1>(s + j, numerator + j, q, k, v + j, feature_size, head_dim, gamma);
    j += kWidth;
  }
  for (std::int64_t c = j; c < head_dim; ++c) numerator[c] = 0;
  for (std::int64_t r = 0; j < head_dim && r < feature_size; ++r) {
    A* row = s + r * head_dim;
    for (std::int64_t c = j; c < head_dim; ++c) {
      row[c] = gamma * row[c] + k[r] * v[c];
      numerator[c] += q[r] * row[c];
    }
  }
  for (std::int64_t r = 0; r < feature_size; ++r) z[r] = gamma * z[r] + k[r];
  return inner(z, q, feature_size);
}

/// s, z = the states of a unit's heads in `from_s`, `from_z`, or zeros where there are none.
template <class A>
inline void read_states(Rows<const A> from_s, Rows<const A> from_z, const Unit& unit,
                        const LinearAttentionShape& shape, A* s, A* z) {
  const std::int64_t k = shape.feature_size, kd = k * shape.head_dim;
  const std::int64_t h = unit.first_head, count = unit.group;
  if (from_s) {
    convert(s, from_s.at(unit.segment, h * kd), count * kd);
    convert(z, from_z.at(unit.segment, h * k), count * k);
  } else {
    std::fill(s, s + count * kd, A(0));
    std::fill(z, z + count * k, A(0));
  }
}
/// The reverse; nothing happens where there is no place for them.
template <class A>
inline void write_states(Rows<A> to_s, Rows<A> to_z, const Unit& unit,
                         const LinearAttentionShape& shape, const A* s, const A* z) {
  if (!to_s) return;
  const std::int64_t k = shape.feature_size, kd = k * shape.head_dim;
  convert(to_s.at(unit.segment, unit.first_head * kd), s, unit.group * kd);
  convert(to_z.at(unit.segment, unit.first_head * k), z, unit.group * k);
}

template <class T>
inline void read_initial(const Forward<T>& call, const Unit& unit, accumulate_t<T>* s,
                         accumulate_t<T>* z) {
  read_states(call.initial_s, call.initial_z, unit, call.shape, s, z);
}
template <class T>
inline void write_final(const Forward<T>& call, const Unit& unit, const accumulate_t<T>* s,
                        const accumulate_t<T>* z) {
  write_states(call.final_s, call.final_z, unit, call.shape, s, z);
}

}  // namespace t2r::linear_attention
