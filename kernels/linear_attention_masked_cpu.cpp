// Linear attention as softmax attention computes it, phi(q) phi(k)^T times v under the causal mask,
// in tiles: quadratic in the length but without a state. Only tiles of the weights ever exist.
#include "kernels/linear_attention_internal.h"

namespace t2r::linear_attention {
namespace {

constexpr std::int64_t kTile = 64;

/// Weights (rows, columns) of the queries from i0 on for the keys from j0 on, a tile below the
/// diagonal or, with cross attention, any: multiplied by gamma^(i - j) where there is a decay.
template <class A>
void weigh_full(A* w, const Powers<A>* powers, std::int64_t i0, std::int64_t j0, std::int64_t rows,
                std::int64_t columns) {
  if (!powers) return;
  for (std::int64_t i = 0; i < rows; ++i) {
    const A* decay = powers->weights(i0 + i) + j0;
#pragma omp simd
    for (std::int64_t j = 0; j < columns; ++j) w[i * kTile + j] *= decay[j];
  }
}

template <class A>
A row_sum(const A* w, std::int64_t n) {
  A sum = 0;
#pragma omp simd reduction(+ : sum)
  for (std::int64_t j = 0; j < n; ++j) sum += w[j];
  return sum;
}

/// The transposes of all tiles of `rows` (n, columns), one behind the other: turned_tile gives one.
template <class A>
A* turn_tiles(ScratchScope& scratch, Rows<const A> rows, std::int64_t n, std::int64_t columns) {
  A* turned = scratch.array<A>(n * columns);
  for (std::int64_t j0 = 0; j0 < n; j0 += kTile) {
    const std::int64_t count = std::min(kTile, n - j0);
    tile::transpose(turned + j0 * columns, count, rows.at(j0), rows.stride, count, columns);
  }
  return turned;
}
template <class A>
Rows<const A> turned_tile(const A* turned, std::int64_t j0, std::int64_t n, std::int64_t columns) {
  return {turned + j0 * columns, std::min(kTile, n - j0)};
}

/// Adds the keys' contribution to the state: S = gamma^n S + sum_j gamma^(n-1-j) k_j v_j^T.
template <class A>
void close_state(A* s, A* z, Rows<const A> key, Rows<const A> value, std::int64_t n, std::int64_t k,
                 std::int64_t d, const Powers<A>* powers, ScratchScope& scratch) {
  if (n == 0) return;
  if (powers) {
    A* weighted = scratch.array<A>(n * k);
    for (std::int64_t j = 0; j < n; ++j)
      for (std::int64_t r = 0; r < k; ++r)
        weighted[j * k + r] = key.at(j)[r] * powers->weights(n - 1)[j];
    key = {weighted, k};
    scale(s, powers->up[n], k * d);
    scale(z, powers->up[n], k);
  }
  tile_matmul_tn(s, d, key.data, key.stride, value.data, value.stride, k, d, n, true);
  for (std::int64_t j = 0; j < n; ++j) add_scaled(z, A(1), key.at(j), k);
}

}  // namespace

template <class T>
void masked_forward(const Forward<T>& call, const Unit& unit) {
  using A = accumulate_t<T>;
  const std::int64_t k = call.shape.feature_size, d = call.shape.head_dim;
  const std::int64_t n = unit.queries, m = unit.keys;
  const bool causal = call.shape.causal, with_initial = static_cast<bool>(call.initial_s);
  const A clamp = static_cast<A>(call.shape.clamp);
  ScratchScope scratch;
  A* s = scratch.array<A>(unit.group * k * d);
  A* z = scratch.array<A>(unit.group * k);
  if (with_initial || call.final_s) read_initial(call, unit, s, z);
  const Rows<const A> value =
      load_tile(scratch.array<A>(m * d), call.v, unit.key_begin, m, unit.value_head * d, d);
  for (std::int64_t g = 0; g < unit.group; ++g) {
    const std::int64_t h = unit.first_head + g;
    ScratchScope head_scratch;
    A* weights = head_scratch.array<A>(kTile * kTile);
    A* numerator = head_scratch.array<A>(kTile * d);
    A denominator[kTile];
    Powers<A> table;
    if (call.gamma) table = Powers<A>::make(head_scratch, call.gamma[h], n, false);
    const Powers<A>* powers = call.gamma ? &table : nullptr;
    const Rows<const A> key =
        load_tile(head_scratch.array<A>(m * k), call.k, unit.key_begin, m, h * k, k);
    const A* key_turned = turn_tiles(head_scratch, key, m, k);
    A* query_scratch = head_scratch.array<A>(kTile * k);
    for (std::int64_t i0 = 0; i0 < n; i0 += kTile) {
      const std::int64_t rows = std::min(kTile, n - i0);
      const Rows<const A> query =
          load_tile(query_scratch, call.q, unit.query_begin + i0, rows, h * k, k);
      std::fill(denominator, denominator + rows, A(0));
      if (with_initial) {
        tile_matmul_nn(numerator, d, query.data, query.stride, s + g * k * d, d, rows, d, k, false);
        for (std::int64_t i = 0; i < rows; ++i) {
          const A factor = powers ? powers->up[i0 + i + 1] : A(1);
          denominator[i] = factor * inner(query.at(i), z + g * k, k);
          scale(numerator + i * d, factor, d);
        }
      } else {
        std::fill(numerator, numerator + rows * d, A(0));
      }
      const std::int64_t last = causal ? i0 + 1 : m;
      for (std::int64_t j0 = 0; j0 < last; j0 += kTile) {
        const std::int64_t columns = std::min(kTile, m - j0);
        const Rows<const A> turned = turned_tile(key_turned, j0, m, k);
        const Rows<const A> values{value.at(j0), value.stride};
        if (causal && j0 == i0) {
          lower_product(weights, kTile, query, turned, rows, k);
          for (std::int64_t i = 0; i < rows; ++i)
            denominator[i] +=
                weigh_causal(weights + i * kTile, powers ? powers->weights(i) : nullptr, i, rows);
          lower_times(Rows<A>{numerator, d}, weights, kTile, values, rows, d, true);
        } else {
          tile_matmul_nn(weights, kTile, query.data, query.stride, turned.data, turned.stride, rows,
                         columns, k, false);
          weigh_full(weights, powers, i0, j0, rows, columns);
          for (std::int64_t i = 0; i < rows; ++i)
            denominator[i] += row_sum(weights + i * kTile, columns);
          tile_matmul_nn(numerator, d, weights, kTile, values.data, values.stride, rows, d, columns,
                         true);
        }
      }
      for (std::int64_t i = 0; i < rows; ++i) {
        const std::int64_t row = unit.query_begin + i0 + i;
        *call.denominator.at(row, h) = denominator[i];
        write_output(call.out.at(row, h * d), numerator + i * d, denominator[i], clamp, d);
      }
    }
    if (call.final_s)
      close_state(s + g * k * d, z + g * k, key, value, m, k, d, powers, head_scratch);
  }
  write_final(call, unit, s, z);
}

template <class T>
void masked_backward(const Backward<T>& call, const Unit& unit) {
  using A = accumulate_t<T>;
  const std::int64_t k = call.shape.feature_size, d = call.shape.head_dim;
  const std::int64_t n = unit.queries, m = unit.keys;
  const bool causal = call.shape.causal;
  const A clamp = static_cast<A>(call.shape.clamp);
  ScratchScope scratch;
  const Rows<const A> value =
      load_tile(scratch.array<A>(m * d), call.v, unit.key_begin, m, unit.value_head * d, d);
  const Rows<A> dv{scratch.array<A>(m * d), d};
  const A* value_turned = turn_tiles(scratch, value, m, d);
  for (std::int64_t j = 0; j < m; ++j) std::fill(dv.at(j), dv.at(j) + d, A(0));
  for (std::int64_t g = 0; g < unit.group; ++g) {
    const std::int64_t h = unit.first_head + g;
    ScratchScope head_scratch;
    A* weights = head_scratch.array<A>(kTile * kTile);
    A* d_weights = head_scratch.array<A>(kTile * kTile);
    Powers<A> table;
    if (call.gamma) table = Powers<A>::make(head_scratch, call.gamma[h], n, call.dgamma != nullptr);
    const Powers<A>* powers = call.gamma ? &table : nullptr;
    const Rows<const A> query =
        load_tile(head_scratch.array<A>(n * k), call.q, unit.query_begin, n, h * k, k);
    const Rows<const A> key =
        load_tile(head_scratch.array<A>(m * k), call.k, unit.key_begin, m, h * k, k);
    const Rows<A> dq{head_scratch.array<A>(n * k), k};
    const Rows<A> dk{head_scratch.array<A>(m * k), k};
    const A* key_turned = turn_tiles(head_scratch, key, m, k);
    A* d_numerator = head_scratch.array<A>(n * d);
    A* d_denominator = head_scratch.array<A>(n);
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t row = unit.query_begin + i;
      d_denominator[i] =
          output_gradient(d_numerator + i * d, call.dout.at(row, h * d), call.out.at(row, h * d),
                          *call.denominator.at(row, h), clamp, d);
      std::fill(dq.at(i), dq.at(i) + k, A(0));
    }
    for (std::int64_t j = 0; j < m; ++j) std::fill(dk.at(j), dk.at(j) + k, A(0));
    double dgamma = 0;
    for (std::int64_t j0 = 0; j0 < m; j0 += kTile) {
      const std::int64_t columns = std::min(kTile, m - j0);
      const Rows<const A> keys{key.at(j0), key.stride};
      const Rows<const A> keys_turned = turned_tile(key_turned, j0, m, k);
      const Rows<const A> values_turned = turned_tile(value_turned, j0, m, d);
      const Rows<A> dkeys{dk.at(j0), dk.stride}, dvalues{dv.at(j0), dv.stride};
      for (std::int64_t i0 = causal ? j0 : 0; i0 < n; i0 += kTile) {
        const std::int64_t rows = std::min(kTile, n - i0);
        const Rows<const A> queries{query.at(i0), query.stride};
        const Rows<const A> gradient{d_numerator + i0 * d, d};
        const Rows<A> dqueries{dq.at(i0), dq.stride};
        if (causal && i0 == j0) {
          lower_product(weights, kTile, queries, keys_turned, rows, k);
          lower_product(d_weights, kTile, gradient, values_turned, rows, d);
          for (std::int64_t i = 0; i < rows; ++i) {
            A *w = weights + i * kTile, *dw = d_weights + i * kTile;
            for (std::int64_t j = 0; j <= i; ++j) dw[j] += d_denominator[i0 + i];
            if (call.dgamma)
              dgamma += static_cast<double>(slope_sum(w, dw, powers->slopes(i), i + 1));
            const A* decay = powers ? powers->weights(i) : nullptr;
            weigh_causal(w, decay, i, rows);
            weigh_causal(dw, decay, i, rows);
          }
          lower_times(dqueries, d_weights, kTile, keys, rows, k, true);
          lower_transposed_times(dkeys, d_weights, kTile, queries, rows, k, true);
          lower_transposed_times(dvalues, weights, kTile, gradient, rows, d, true);
        } else {
          tile_matmul_nn(weights, kTile, queries.data, queries.stride, keys_turned.data,
                         keys_turned.stride, rows, columns, k, false);
          tile_matmul_nn(d_weights, kTile, gradient.data, d, values_turned.data,
                         values_turned.stride, rows, columns, d, false);
          for (std::int64_t i = 0; i < rows; ++i) {
            A *w = weights + i * kTile, *dw = d_weights + i * kTile;
            for (std::int64_t j = 0; j < columns; ++j) dw[j] += d_denominator[i0 + i];
            if (call.dgamma)
              dgamma += static_cast<double>(slope_sum(w, dw, powers->slopes(i0 + i) + j0, columns));
          }
          weigh_full(weights, powers, i0, j0, rows, columns);
          weigh_full(d_weights, powers, i0, j0, rows, columns);
          tile_matmul_nn(dqueries.data, dqueries.stride, d_weights, kTile, keys.data, keys.stride,
                         rows, k, columns, true);
          tile_matmul_tn(dkeys.data, dkeys.stride, d_weights, kTile, queries.data, queries.stride,
                         columns, k, rows, true);
          tile_matmul_tn(dvalues.data, dvalues.stride, weights, kTile, gradient.data, d, columns, d,
                         rows, true);
        }
      }
    }
    if (call.dgamma) call.dgamma[unit.segment * call.shape.heads + h] = dgamma;
    store_tile(call.dq, unit.query_begin, n, h * k, k, dq);
    store_tile(call.dk, unit.key_begin, m, h * k, k, dk);
  }
  store_tile(call.dv, unit.key_begin, m, unit.value_head * d, d, dv);
}

template void masked_forward<float>(const Forward<float>&, const Unit&);
template void masked_forward<double>(const Forward<double>&, const Unit&);
template void masked_forward<bf16>(const Forward<bf16>&, const Unit&);
template void masked_backward<float>(const Backward<float>&, const Unit&);
template void masked_backward<double>(const Backward<double>&, const Unit&);
template void masked_backward<bf16>(const Backward<bf16>&, const Unit&);

}  // namespace t2r::linear_attention
