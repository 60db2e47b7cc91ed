// Linear attention in chunks: inside a chunk like the masked form, from chunk to chunk by the
// state, so linear in the length and all in matrix products. Backward keeps the state before each
// chunk (k d / chunk numbers a token) and walks the chunks in reverse.
#include "kernels/linear_attention_internal.h"

namespace t2r::linear_attention {
namespace {

// Larger chunks than this gain nothing and cost chunk^2 of scratch.
constexpr std::int64_t kLargestChunk = 256;

std::int64_t chunk_of(const LinearAttentionShape& shape, std::int64_t n) {
  return std::max<std::int64_t>(1, std::min({shape.chunk, kLargestChunk, n}));
}

/// Rows of `from` (n, columns) times weights[row], in `to`.
template <class A>
Rows<const A> weighted_rows(Rows<const A> from, const A* weights, std::int64_t n,
                            std::int64_t columns, A* to) {
  for (std::int64_t i = 0; i < n; ++i) {
    const A* row = from.at(i);
#pragma omp simd
    for (std::int64_t c = 0; c < columns; ++c) to[i * columns + c] = weights[i] * row[c];
  }
  return {to, columns};
}

/// S (k, d) = gamma^n S + sum_i a_i b_i^T over n rows, z = gamma^n z + sum_i z_weights_i a_i (1
/// where null); without `started`, S and z are taken as zero. `weights` (null: 1) multiply a_i.
template <class A>
struct StateUpdate {
  std::int64_t n, k, d;
  bool started;
  A total_decay;
  const A* weights;
  A* weighted;  // scratch (n, k)

  void operator()(A* s, A* z, Rows<const A> a, Rows<const A> b, const A* z_weights) const {
    if (weights) a = weighted_rows(a, weights, n, k, weighted);
    if (!started) {
      std::fill(z, z + k, A(0));
    } else if (weights) {
      scale(s, total_decay, k * d);
      scale(z, total_decay, k);
    }
    tile_matmul_tn(s, d, a.data, a.stride, b.data, b.stride, k, d, n, started);
    for (std::int64_t i = 0; i < n; ++i) add_scaled(z, z_weights ? z_weights[i] : A(1), a.at(i), k);
  }
};

/// S and z of all keys of a unit's head, for cross attention.
template <class A>
void add_keys(A* s, A* z, Rows<const A> key, Rows<const A> value, std::int64_t n, std::int64_t k,
              std::int64_t d) {
  StateUpdate<A>{n, k, d, true, A(1), nullptr, nullptr}(s, z, key, value, nullptr);
}

template <class T>
void cross_forward(const Forward<T>& call, const Unit& unit) {
  using A = accumulate_t<T>;
  const std::int64_t k = call.shape.feature_size, d = call.shape.head_dim;
  const A clamp = static_cast<A>(call.shape.clamp);
  const std::int64_t chunk = chunk_of(call.shape, std::max(unit.queries, unit.keys));
  ScratchScope scratch;
  A* s = scratch.array<A>(unit.group * k * d);
  A* z = scratch.array<A>(unit.group * k);
  A* numerator = scratch.array<A>(chunk * d);
  A* features = scratch.array<A>(chunk * k);
  A* values = scratch.array<A>(chunk * d);
  read_initial(call, unit, s, z);
  for (std::int64_t j0 = 0; j0 < unit.keys; j0 += chunk) {
    const std::int64_t n = std::min(chunk, unit.keys - j0), row = unit.key_begin + j0;
    const Rows<const A> value = load_tile(values, call.v, row, n, unit.value_head * d, d);
    for (std::int64_t g = 0; g < unit.group; ++g)
      add_keys(s + g * k * d, z + g * k,
               load_tile(features, call.k, row, n, (unit.first_head + g) * k, k), value, n, k, d);
  }
  for (std::int64_t g = 0; g < unit.group; ++g) {
    const std::int64_t h = unit.first_head + g;
    for (std::int64_t i0 = 0; i0 < unit.queries; i0 += chunk) {
      const std::int64_t n = std::min(chunk, unit.queries - i0), row = unit.query_begin + i0;
      const Rows<const A> query = load_tile(features, call.q, row, n, h * k, k);
      tile_matmul_nn(numerator, d, query.data, query.stride, s + g * k * d, d, n, d, k, false);
      for (std::int64_t i = 0; i < n; ++i) {
        const A denominator = inner(query.at(i), z + g * k, k);
        *call.denominator.at(row + i, h) = denominator;
        write_output(call.out.at(row + i, h * d), numerator + i * d, denominator, clamp, d);
      }
    }
  }
  write_final(call, unit, s, z);
}

template <class T>
void cross_backward(const Backward<T>& call, const Unit& unit) {
  using A = accumulate_t<T>;
  const std::int64_t k = call.shape.feature_size, d = call.shape.head_dim, kd = k * d;
  const A clamp = static_cast<A>(call.shape.clamp);
  const std::int64_t chunk = chunk_of(call.shape, std::max(unit.queries, unit.keys));
  ScratchScope scratch;
  A* s = scratch.array<A>(kd);
  A* z = scratch.array<A>(k);
  A* turned = scratch.array<A>(kd);
  A* ds = scratch.array<A>(unit.group * kd);
  A* dz = scratch.array<A>(unit.group * k);
  A* d_numerator = scratch.array<A>(chunk * d);
  A* d_denominator = scratch.array<A>(chunk);
  A* features = scratch.array<A>(chunk * k);
  A* values = scratch.array<A>(chunk * d);
  A* d_features = scratch.array<A>(chunk * k);
  A* d_values = scratch.array<A>(chunk * d);
  std::fill(ds, ds + unit.group * kd, A(0));
  std::fill(dz, dz + unit.group * k, A(0));
  for (std::int64_t g = 0; g < unit.group; ++g) {
    const std::int64_t h = unit.first_head + g;
    std::fill(s, s + kd, A(0));
    std::fill(z, z + k, A(0));
    for (std::int64_t j0 = 0; j0 < unit.keys; j0 += chunk) {
      const std::int64_t n = std::min(chunk, unit.keys - j0), row = unit.key_begin + j0;
      add_keys(s, z, load_tile(features, call.k, row, n, h * k, k),
               load_tile(values, call.v, row, n, unit.value_head * d, d), n, k, d);
    }
    tile::transpose(turned, k, s, d, k, d);
    for (std::int64_t i0 = 0; i0 < unit.queries; i0 += chunk) {
      const std::int64_t n = std::min(chunk, unit.queries - i0), row = unit.query_begin + i0;
      const Rows<const A> query = load_tile(features, call.q, row, n, h * k, k);
      const Rows<A> dq{d_features, k};
      for (std::int64_t i = 0; i < n; ++i)
        d_denominator[i] = output_gradient(d_numerator + i * d, call.dout.at(row + i, h * d),
                                           call.out.at(row + i, h * d),
                                           *call.denominator.at(row + i, h), clamp, d);
      tile_matmul_nn(dq.data, dq.stride, d_numerator, d, turned, k, n, k, d, false);
      for (std::int64_t i = 0; i < n; ++i) add_scaled(dq.at(i), d_denominator[i], z, k);
      StateUpdate<A>{n, k, d, true, A(1), nullptr, nullptr}(
          ds + g * kd, dz + g * k, query, Rows<const A>{d_numerator, d}, d_denominator);
      store_tile(call.dq, row, n, h * k, k, dq);
    }
  }
  for (std::int64_t j0 = 0; j0 < unit.keys; j0 += chunk) {
    const std::int64_t n = std::min(chunk, unit.keys - j0), row = unit.key_begin + j0;
    const Rows<const A> value = load_tile(values, call.v, row, n, unit.value_head * d, d);
    const Rows<A> dv{d_values, d};
    for (std::int64_t g = 0; g < unit.group; ++g) {
      const std::int64_t h = unit.first_head + g;
      const Rows<const A> key = load_tile(features, call.k, row, n, h * k, k);
      const Rows<A> dk{d_features, k};
      tile_matmul_nt(dk.data, dk.stride, value.data, value.stride, ds + g * kd, d, n, k, d, false);
      for (std::int64_t j = 0; j < n; ++j) add_scaled(dk.at(j), A(1), dz + g * k, k);
      tile_matmul_nn(dv.data, dv.stride, key.data, key.stride, ds + g * kd, d, n, d, k, g > 0);
      store_tile(call.dk, row, n, h * k, k, dk);
    }
    store_tile(call.dv, row, n, unit.value_head * d, d, dv);
  }
}

template <class T>
void causal_forward(const Forward<T>& call, const Unit& unit) {
  using A = accumulate_t<T>;
  const std::int64_t k = call.shape.feature_size, d = call.shape.head_dim, kd = k * d;
  const A clamp = static_cast<A>(call.shape.clamp);
  const std::int64_t chunk = chunk_of(call.shape, unit.queries);
  ScratchScope scratch;
  A* s = scratch.array<A>(unit.group * kd);
  A* z = scratch.array<A>(unit.group * k);
  A* weights = scratch.array<A>(chunk * chunk);
  A* key_turned = scratch.array<A>(chunk * k);
  A* weighted = scratch.array<A>(chunk * k);
  A* numerator = scratch.array<A>(chunk * d);
  A* denominator = scratch.array<A>(chunk);
  A* queries = scratch.array<A>(chunk * k);
  A* keys = scratch.array<A>(chunk * k);
  A* values = scratch.array<A>(chunk * d);
  auto* powers = scratch.array<Powers<A>>(unit.group);
  for (std::int64_t g = 0; call.gamma && g < unit.group; ++g)
    powers[g] = Powers<A>::make(scratch, call.gamma[unit.first_head + g], chunk, false);
  read_initial(call, unit, s, z);
  bool started = static_cast<bool>(call.initial_s);  // else the state is still zero
  for (std::int64_t i0 = 0; i0 < unit.queries; i0 += chunk) {
    const std::int64_t n = std::min(chunk, unit.queries - i0), row = unit.query_begin + i0;
    const bool last = i0 + n == unit.queries;
    const Rows<const A> value = load_tile(values, call.v, row, n, unit.value_head * d, d);
    for (std::int64_t g = 0; g < unit.group; ++g) {
      const std::int64_t h = unit.first_head + g;
      const Powers<A>* decay = call.gamma ? powers + g : nullptr;
      const Rows<const A> query = load_tile(queries, call.q, row, n, h * k, k);
      const Rows<const A> key = load_tile(keys, call.k, row, n, h * k, k);
      std::fill(denominator, denominator + n, A(0));
      if (started) {
        tile_matmul_nn(numerator, d, query.data, query.stride, s + g * kd, d, n, d, k, false);
        for (std::int64_t i = 0; i < n; ++i) denominator[i] = inner(query.at(i), z + g * k, k);
        for (std::int64_t i = 0; decay && i < n; ++i) {
          denominator[i] *= decay->up[i + 1];
          scale(numerator + i * d, decay->up[i + 1], d);
        }
      }
      tile::transpose(key_turned, n, key.data, key.stride, n, k);
      lower_product(weights, chunk, query, Rows<const A>{key_turned, n}, n, k);
      for (std::int64_t i = 0; i < n; ++i)
        denominator[i] +=
            weigh_causal(weights + i * chunk, decay ? decay->weights(i) : nullptr, i, n);
      lower_times(Rows<A>{numerator, d}, weights, chunk, value, n, d, started);
      for (std::int64_t i = 0; i < n; ++i) {
        *call.denominator.at(row + i, h) = denominator[i];
        write_output(call.out.at(row + i, h * d), numerator + i * d, denominator[i], clamp, d);
      }
      if (!last || call.final_s)
        StateUpdate<A>{n,
                       k,
                       d,
                       started,
                       decay ? decay->up[n] : A(1),
                       decay ? decay->weights(n - 1) : nullptr,
                       weighted}(s + g * kd, z + g * k, key, value, nullptr);
    }
    started = true;
  }
  write_final(call, unit, s, z);
}

/// The working memory of causal_backward for one chunk of one head.
template <class A>
struct BackwardScratch {
  A *weights, *d_weights, *key_turned, *value_turned, *weighted, *d_numerator, *d_denominator;
  A *queries, *keys, *values, *dq, *dk, *dv;

  static BackwardScratch make(ScratchScope& scratch, std::int64_t chunk, std::int64_t k,
                              std::int64_t d) {
    return {scratch.array<A>(chunk * chunk), scratch.array<A>(chunk * chunk),
            scratch.array<A>(chunk * k),     scratch.array<A>(chunk * d),
            scratch.array<A>(chunk * k),     scratch.array<A>(chunk * d),
            scratch.array<A>(chunk),         scratch.array<A>(chunk * k),
            scratch.array<A>(chunk * k),     scratch.array<A>(chunk * d),
            scratch.array<A>(chunk * k),     scratch.array<A>(chunk * k),
            scratch.array<A>(chunk * d)};
  }
};

/// Adds to sum_i slope[i] <a_i, b_i>, the way of dgamma through rows that were multiplied by a
/// power.
template <class A>
double slope_of_rows(const A* slope, Rows<const A> a, Rows<A> b, std::int64_t n, std::int64_t k) {
  A sum = 0;
  for (std::int64_t i = 0; i < n; ++i) sum += slope[i] * inner<A>(a.at(i), b.at(i), k);
  return static_cast<double>(sum);
}

template <class T>
void causal_backward(const Backward<T>& call, const Unit& unit) {
  using A = accumulate_t<T>;
  const std::int64_t k = call.shape.feature_size, d = call.shape.head_dim, kd = k * d;
  const A clamp = static_cast<A>(call.shape.clamp);
  const std::int64_t length = unit.queries, begin = unit.query_begin;
  const std::int64_t chunk = chunk_of(call.shape, length), chunks = (length + chunk - 1) / chunk;
  ScratchScope scratch;
  const auto tiles = BackwardScratch<A>::make(scratch, chunk, k, d);
  A* ds = scratch.array<A>(unit.group * kd);
  A* dz = scratch.array<A>(unit.group * k);
  const std::int64_t state_size = kd + k;  // S, then z; chunk 0 begins with zeros, or `initial`
  A* states = scratch.array<A>(chunks * unit.group * state_size);
  const auto state_before = [&](std::int64_t c, std::int64_t g) {
    return states + (c * unit.group + g) * state_size;
  };
  auto* powers = scratch.array<Powers<A>>(unit.group);
  auto* dgamma = scratch.array<double>(unit.group);
  std::fill(dgamma, dgamma + unit.group, 0.0);
  for (std::int64_t g = 0; call.gamma && g < unit.group; ++g)
    powers[g] = Powers<A>::make(scratch, call.gamma[unit.first_head + g], chunk, call.dgamma);

  const bool with_initial = static_cast<bool>(call.initial_s);
  for (std::int64_t g = 0; with_initial && chunks > 0 && g < unit.group; ++g) {
    Unit head = unit;  // one at a time
    head.first_head += g;
    head.group = 1;
    read_states(call.initial_s, call.initial_z, head, call.shape, state_before(0, g),
                state_before(0, g) + kd);
  }
  read_states(call.dfinal_s, call.dfinal_z, unit, call.shape, ds, dz);

  for (std::int64_t c = 0; c + 1 < chunks; ++c) {
    const std::int64_t row = begin + c * chunk;
    const Rows<const A> value = load_tile(tiles.values, call.v, row, chunk, unit.value_head * d, d);
    for (std::int64_t g = 0; g < unit.group; ++g) {
      const Powers<A>* decay = call.gamma ? powers + g : nullptr;
      A* next = state_before(c + 1, g);
      const bool started = c > 0 || with_initial;
      if (started) std::copy_n(state_before(c, g), state_size, next);
      StateUpdate<A>{chunk,
                     k,
                     d,
                     started,
                     decay ? decay->up[chunk] : A(1),
                     decay ? decay->weights(chunk - 1) : nullptr,
                     tiles.weighted}(
          next, next + kd, load_tile(tiles.keys, call.k, row, chunk, (unit.first_head + g) * k, k),
          value, nullptr);
    }
  }

  for (std::int64_t c = chunks; c-- > 0;) {
    const std::int64_t row = begin + c * chunk, n = std::min(chunk, length - c * chunk);
    const bool first = c == 0 && !with_initial, last = c + 1 == chunks && !call.dfinal_s;
    const Rows<const A> value = load_tile(tiles.values, call.v, row, n, unit.value_head * d, d);
    const Rows<A> dv{tiles.dv, d};
    tile::transpose(tiles.value_turned, n, value.data, value.stride, n, d);
    for (std::int64_t g = 0; g < unit.group; ++g) {
      const std::int64_t h = unit.first_head + g;
      const Powers<A>* decay = call.gamma ? powers + g : nullptr;
      const Rows<const A> query = load_tile(tiles.queries, call.q, row, n, h * k, k);
      const Rows<const A> key = load_tile(tiles.keys, call.k, row, n, h * k, k);
      const Rows<A> dq{tiles.dq, k};
      const Rows<A> dk{tiles.dk, k};
      const Rows<const A> gradient{tiles.d_numerator, d};
      const A *s = state_before(c, g), *z = s + kd;
      A *head_ds = ds + g * kd, *head_dz = dz + g * k;
      for (std::int64_t i = 0; i < n; ++i)
        tiles.d_denominator[i] = output_gradient(
            tiles.d_numerator + i * d, call.dout.at(row + i, h * d), call.out.at(row + i, h * d),
            *call.denominator.at(row + i, h), clamp, d);

      // Inside the chunk: weights w = phi(q) phi(k)^T and their gradient.
      tile::transpose(tiles.key_turned, n, key.data, key.stride, n, k);
      lower_product(tiles.weights, chunk, query, Rows<const A>{tiles.key_turned, n}, n, k);
      lower_product(tiles.d_weights, chunk, gradient, Rows<const A>{tiles.value_turned, n}, n, d);
      for (std::int64_t i = 0; i < n; ++i) {
        A *w = tiles.weights + i * chunk, *dw = tiles.d_weights + i * chunk;
        for (std::int64_t j = 0; j <= i; ++j) dw[j] += tiles.d_denominator[i];
        if (call.dgamma)
          dgamma[g] += static_cast<double>(slope_sum(w, dw, decay->slopes(i), i + 1));
        weigh_causal(w, decay ? decay->weights(i) : nullptr, i, n);
        weigh_causal(dw, decay ? decay->weights(i) : nullptr, i, n);
      }

      // Through the state before the chunk: numerator_i has gamma^(i+1) S^T phi(q_i).
      if (!first) {
        tile_matmul_nt(dq.data, dq.stride, gradient.data, d, s, d, n, k, d, false);
        for (std::int64_t i = 0; i < n; ++i) add_scaled(dq.at(i), tiles.d_denominator[i], z, k);
        if (call.dgamma) dgamma[g] += slope_of_rows(decay->slope + 1, query, dq, n, k);
        for (std::int64_t i = 0; decay && i < n; ++i) scale(dq.at(i), decay->up[i + 1], k);
      }
      lower_times(dq, tiles.d_weights, chunk, key, n, k, !first);

      // Through the state after it: S has gamma^(n-1-j) phi(k_j) v_j^T and gamma^n S before.
      if (!last) {
        tile_matmul_nt(dk.data, dk.stride, value.data, value.stride, head_ds, d, n, k, d, false);
        for (std::int64_t j = 0; j < n; ++j) add_scaled(dk.at(j), A(1), head_dz, k);
        if (call.dgamma) {
          dgamma[g] += slope_of_rows(decay->slopes(n - 1), key, dk, n, k);
          if (!first)
            dgamma[g] += static_cast<double>(decay->slope[n] *
                                             (inner<A>(s, head_ds, kd) + inner<A>(z, head_dz, k)));
        }
        Rows<const A> later = key;
        if (decay) {
          for (std::int64_t j = 0; j < n; ++j) scale(dk.at(j), decay->weights(n - 1)[j], k);
          later = weighted_rows(key, decay->weights(n - 1), n, k, tiles.weighted);
        }
        tile_matmul_nn(dv.data, dv.stride, later.data, later.stride, head_ds, d, n, d, k, g > 0);
      }
      lower_transposed_times(dk, tiles.d_weights, chunk, query, n, k, !last);
      lower_transposed_times(dv, tiles.weights, chunk, gradient, n, d, !last || g > 0);

      if (c > 0 || call.dinitial_s)
        StateUpdate<A>{n,
                       k,
                       d,
                       !last,
                       decay ? decay->up[n] : A(1),
                       decay ? decay->up + 1 : nullptr,
                       tiles.weighted}(head_ds, head_dz, query, gradient, tiles.d_denominator);
      store_tile(call.dq, row, n, h * k, k, dq);
      store_tile(call.dk, row, n, h * k, k, dk);
    }
    store_tile(call.dv, row, n, unit.value_head * d, d, dv);
  }
  write_states(call.dinitial_s, call.dinitial_z, unit, call.shape, ds, dz);
  for (std::int64_t g = 0; call.dgamma && g < unit.group; ++g)
    call.dgamma[unit.segment * call.shape.heads + unit.first_head + g] = dgamma[g];
}

}  // namespace

template <class T>
void chunkwise_forward(const Forward<T>& call, const Unit& unit) {
  if (call.shape.causal)
    causal_forward(call, unit);
  else
    cross_forward(call, unit);
}

template <class T>
void chunkwise_backward(const Backward<T>& call, const Unit& unit) {
  if (call.shape.causal)
    causal_backward(call, unit);
  else
    cross_backward(call, unit);
}

template <class T>
void chunkwise_state(const Forward<T>& call, const Unit& unit) {
  using A = accumulate_t<T>;
  const std::int64_t k = call.shape.feature_size, d = call.shape.head_dim;
  const std::int64_t chunk = chunk_of(call.shape, unit.keys);
  ScratchScope scratch;
  A* s = scratch.array<A>(unit.group * k * d);
  A* z = scratch.array<A>(unit.group * k);
  A* weighted = scratch.array<A>(chunk * k);
  A* keys = scratch.array<A>(chunk * k);
  A* values = scratch.array<A>(chunk * d);
  auto* powers = scratch.array<Powers<A>>(unit.group);
  for (std::int64_t g = 0; call.gamma && g < unit.group; ++g)
    powers[g] = Powers<A>::make(scratch, call.gamma[unit.first_head + g], chunk, false);
  read_initial(call, unit, s, z);
  for (std::int64_t j0 = 0; j0 < unit.keys; j0 += chunk) {
    const std::int64_t n = std::min(chunk, unit.keys - j0), row = unit.key_begin + j0;
    const Rows<const A> value = load_tile(values, call.v, row, n, unit.value_head * d, d);
    for (std::int64_t g = 0; g < unit.group; ++g)
      StateUpdate<A>{n,
                     k,
                     d,
                     true,
                     call.gamma ? powers[g].up[n] : A(1),
                     call.gamma ? powers[g].weights(n - 1) : nullptr,
                     weighted}(s + g * k * d, z + g * k,
                               load_tile(keys, call.k, row, n, (unit.first_head + g) * k, k), value,
                               nullptr);
  }
  write_final(call, unit, s, z);
}

template <class T>
void chunkwise_state_backward(const Backward<T>& call, const Unit& unit) {
  using A = accumulate_t<T>;
  const std::int64_t k = call.shape.feature_size, d = call.shape.head_dim;
  const std::int64_t chunk = chunk_of(call.shape, unit.queries);
  ScratchScope scratch;
  A* ds = scratch.array<A>(unit.group * k * d);
  A* dz = scratch.array<A>(unit.group * k);
  A* weighted = scratch.array<A>(chunk * k);
  A* queries = scratch.array<A>(chunk * k);
  A* d_numerator = scratch.array<A>(chunk * d);
  A* d_denominator = scratch.array<A>(chunk);
  std::fill(ds, ds + unit.group * k * d, A(0));
  std::fill(dz, dz + unit.group * k, A(0));
  for (std::int64_t g = 0; g < unit.group; ++g) {
    const std::int64_t h = unit.first_head + g;
    ScratchScope head_scratch;
    Powers<A> powers;
    if (call.gamma) powers = Powers<A>::make(head_scratch, call.gamma[h], chunk, false);
    for (std::int64_t c = (unit.queries + chunk - 1) / chunk; c-- > 0;) {
      const std::int64_t n = std::min(chunk, unit.queries - c * chunk);
      const std::int64_t row = unit.query_begin + c * chunk;
      for (std::int64_t i = 0; i < n; ++i)
        d_denominator[i] = output_gradient(
            d_numerator + i * d, call.dout.at(row + i, h * d), call.out.at(row + i, h * d),
            *call.denominator.at(row + i, h), static_cast<A>(call.shape.clamp), d);
      StateUpdate<A>{n,
                     k,
                     d,
                     true,
                     call.gamma ? powers.up[n] : A(1),
                     call.gamma ? powers.up + 1 : nullptr,
                     weighted}(ds + g * k * d, dz + g * k,
                               load_tile(queries, call.q, row, n, h * k, k),
                               Rows<const A>{d_numerator, d}, d_denominator);
    }
  }
  write_states(call.dinitial_s, call.dinitial_z, unit, call.shape, ds, dz);
}

template void chunkwise_forward<float>(const Forward<float>&, const Unit&);
template void chunkwise_forward<double>(const Forward<double>&, const Unit&);
template void chunkwise_forward<bf16>(const Forward<bf16>&, const Unit&);
template void chunkwise_backward<float>(const Backward<float>&, const Unit&);
template void chunkwise_backward<double>(const Backward<double>&, const Unit&);
template void chunkwise_backward<bf16>(const Backward<bf16>&, const Unit&);
template void chunkwise_state<float>(const Forward<float>&, const Unit&);
template void chunkwise_state<double>(const Forward<double>&, const Unit&);
template void chunkwise_state<bf16>(const Forward<bf16>&, const Unit&);
template void chunkwise_state_backward<float>(const Backward<float>&, const Unit&);
template void chunkwise_state_backward<double>(const Backward<double>&, const Unit&);
template void chunkwise_state_backward<bf16>(const Backward<bf16>&, const Unit&);

}  // namespace t2r::linear_attention
