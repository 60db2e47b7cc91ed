// Linear attention as the recurrence it is, token by token. The plainest form: the reference for
// the others, and what decoding does.
#include "kernels/linear_attention_internal.h"

namespace t2r::linear_attention {
namespace {

/// numerator (d) = S^T q
template <class A>
void read_state(A* numerator, const A* s, const A* q, std::int64_t k, std::int64_t d) {
  std::fill(numerator, numerator + d, A(0));
  for (std::int64_t r = 0; r < k; ++r) add_scaled(numerator, q[r], s + r * d, d);
}

/// S += a b^T
template <class A>
void add_outer(A* s, const A* a, const A* b, std::int64_t k, std::int64_t d) {
  for (std::int64_t r = 0; r < k; ++r) add_scaled(s + r * d, a[r], b, d);
}

/// y (k) = S x + factor z
template <class A>
void state_times(A* y, const A* s, const A* x, const A* z, A factor, std::int64_t k,
                 std::int64_t d) {
  for (std::int64_t r = 0; r < k; ++r) y[r] = inner(s + r * d, x, d) + factor * z[r];
}

/// The vectors that one token needs, in the accumulation type.
template <class A>
struct Token {
  A *q, *k, *v, *numerator, *dq, *dk;
  Token(ScratchScope& scratch, std::int64_t feature_size, std::int64_t head_dim)
      : q(scratch.array<A>(feature_size)),
        k(scratch.array<A>(feature_size)),
        v(scratch.array<A>(head_dim)),
        numerator(scratch.array<A>(head_dim)),
        dq(scratch.array<A>(feature_size)),
        dk(scratch.array<A>(feature_size)) {}
};

}  // namespace

template <class T>
void recurrent_forward(const Forward<T>& call, const Unit& unit) {
  using A = accumulate_t<T>;
  const std::int64_t k = call.shape.feature_size, d = call.shape.head_dim;
  const A clamp = static_cast<A>(call.shape.clamp);
  ScratchScope scratch;
  A* s = scratch.array<A>(unit.group * k * d);
  A* z = scratch.array<A>(unit.group * k);
  const Token<A> token(scratch, k, d);
  read_initial(call, unit, s, z);
  if (!call.shape.causal) {
    for (std::int64_t t = unit.key_begin; t < unit.key_begin + unit.keys; ++t) {
      convert(token.v, call.v.at(t, unit.value_head * d), d);
      for (std::int64_t g = 0; g < unit.group; ++g) {
        convert(token.k, call.k.at(t, (unit.first_head + g) * k), k);
        add_outer(s + g * k * d, token.k, token.v, k, d);
        add_scaled(z + g * k, A(1), token.k, k);
      }
    }
  }
  for (std::int64_t t = unit.query_begin; t < unit.query_begin + unit.queries; ++t) {
    if (call.shape.causal) convert(token.v, call.v.at(t, unit.value_head * d), d);
    for (std::int64_t g = 0; g < unit.group; ++g) {
      const std::int64_t h = unit.first_head + g;
      A* state = s + g * k * d;
      A denominator;
      convert(token.q, call.q.at(t, h * k), k);
      if (call.shape.causal) {
        convert(token.k, call.k.at(t, h * k), k);
        denominator = advance(state, z + g * k, token.numerator, token.q, token.k, token.v, k, d,
                              call.gamma ? call.gamma[h] : A(1));
      } else {
        read_state(token.numerator, state, token.q, k, d);
        denominator = inner(z + g * k, token.q, k);
      }
      *call.denominator.at(t, h) = denominator;
      write_output(call.out.at(t, h * d), token.numerator, denominator, clamp, d);
    }
  }
  write_final(call, unit, s, z);
}

namespace {

/// Causal: S_t is rebuilt on the way forward for dq, then dS_t on the way back for dk and dv. For
/// dgamma the derivative of the state by gamma runs along: S'_t = gamma S'_{t-1} + S_{t-1}.
template <class T>
void causal_backward(const Backward<T>& call, const Unit& unit) {
  using A = accumulate_t<T>;
  const std::int64_t k = call.shape.feature_size, d = call.shape.head_dim, kd = k * d;
  const A clamp = static_cast<A>(call.shape.clamp);
  ScratchScope scratch;
  A* s = scratch.array<A>(unit.group * kd);
  A* z = scratch.array<A>(unit.group * k);
  const Token<A> token(scratch, k, d);
  A* dv = scratch.array<A>(d);
  A* slope_s = scratch.array<A>(call.dgamma ? kd : 0);
  A* slope_z = scratch.array<A>(call.dgamma ? k : 0);
  const std::int64_t begin = unit.query_begin, end = begin + unit.queries;
  for (std::int64_t g = 0; g < unit.group; ++g) {
    const std::int64_t h = unit.first_head + g;
    const A gamma = call.gamma ? call.gamma[h] : A(1);
    Unit head = unit;  // one at a time
    head.first_head = h;
    head.group = 1;
    read_states(call.initial_s, call.initial_z, head, call.shape, s, z);
    if (call.dgamma) {
      std::fill(slope_s, slope_s + kd, A(0));
      std::fill(slope_z, slope_z + k, A(0));
    }
    double dgamma = 0;
    for (std::int64_t t = begin; t < end; ++t) {
      convert(token.q, call.q.at(t, h * k), k);
      convert(token.k, call.k.at(t, h * k), k);
      convert(token.v, call.v.at(t, unit.value_head * d), d);
      if (call.dgamma) {
        for (std::int64_t i = 0; i < kd; ++i) slope_s[i] = gamma * slope_s[i] + s[i];
        for (std::int64_t i = 0; i < k; ++i) slope_z[i] = gamma * slope_z[i] + z[i];
      }
      advance(s, z, token.numerator, token.q, token.k, token.v, k, d, gamma);
      A* d_numerator = token.numerator;
      const A d_denominator =
          output_gradient(d_numerator, call.dout.at(t, h * d), call.out.at(t, h * d),
                          *call.denominator.at(t, h), clamp, d);
      if (call.dgamma) {
        state_times(token.dq, slope_s, d_numerator, slope_z, d_denominator, k, d);
        dgamma += static_cast<double>(inner(token.dq, token.q, k));
      }
      state_times(token.dq, s, d_numerator, z, d_denominator, k, d);
      convert(call.dq.at(t, h * k), token.dq, k);
    }
    if (call.dgamma && call.dfinal_s) {
      read_states(call.dfinal_s, call.dfinal_z, head, call.shape, s, z);
      dgamma += static_cast<double>(inner<A>(slope_s, s, kd) + inner<A>(slope_z, z, k));
    }
    if (call.dgamma) call.dgamma[unit.segment * call.shape.heads + h] = dgamma;
  }
  read_states(call.dfinal_s, call.dfinal_z, unit, call.shape, s, z);  // from here on dS and dz
  for (std::int64_t t = end; t-- > begin;) {
    std::fill(dv, dv + d, A(0));
    convert(token.v, call.v.at(t, unit.value_head * d), d);
    for (std::int64_t g = 0; g < unit.group; ++g) {
      const std::int64_t h = unit.first_head + g;
      A* ds = s + g * kd;
      A* dz = z + g * k;
      convert(token.q, call.q.at(t, h * k), k);
      convert(token.k, call.k.at(t, h * k), k);
      if (call.gamma && t + 1 < end) {
        scale(ds, call.gamma[h], kd);
        scale(dz, call.gamma[h], k);
      }
      const A d_denominator =
          output_gradient(token.numerator, call.dout.at(t, h * d), call.out.at(t, h * d),
                          *call.denominator.at(t, h), clamp, d);
      add_outer(ds, token.q, token.numerator, k, d);
      add_scaled(dz, d_denominator, token.q, k);
      state_times(token.dk, ds, token.v, dz, A(1), k, d);
      convert(call.dk.at(t, h * k), token.dk, k);
      for (std::int64_t r = 0; r < k; ++r) add_scaled(dv, token.k[r], ds + r * d, d);
    }
    convert(call.dv.at(t, unit.value_head * d), dv, d);
  }
  for (std::int64_t g = 0; call.gamma && begin < end && g < unit.group; ++g) {
    scale(s + g * kd, call.gamma[unit.first_head + g], kd);
    scale(z + g * k, call.gamma[unit.first_head + g], k);
  }
  write_states(call.dinitial_s, call.dinitial_z, unit, call.shape, s, z);
}

/// Not causal: one state for all queries, one gradient of it for all keys.
template <class T>
void cross_backward(const Backward<T>& call, const Unit& unit) {
  using A = accumulate_t<T>;
  const std::int64_t k = call.shape.feature_size, d = call.shape.head_dim, kd = k * d;
  const A clamp = static_cast<A>(call.shape.clamp);
  ScratchScope scratch;
  A* s = scratch.array<A>(kd);
  A* z = scratch.array<A>(k);
  A* ds = scratch.array<A>(unit.group * kd);
  A* dz = scratch.array<A>(unit.group * k);
  const Token<A> token(scratch, k, d);
  A* dv = scratch.array<A>(d);
  const std::int64_t key_end = unit.key_begin + unit.keys;
  std::fill(ds, ds + unit.group * kd, A(0));
  std::fill(dz, dz + unit.group * k, A(0));
  for (std::int64_t g = 0; g < unit.group; ++g) {
    const std::int64_t h = unit.first_head + g;
    std::fill(s, s + kd, A(0));
    std::fill(z, z + k, A(0));
    for (std::int64_t t = unit.key_begin; t < key_end; ++t) {
      convert(token.k, call.k.at(t, h * k), k);
      convert(token.v, call.v.at(t, unit.value_head * d), d);
      add_outer(s, token.k, token.v, k, d);
      add_scaled(z, A(1), token.k, k);
    }
    for (std::int64_t t = unit.query_begin; t < unit.query_begin + unit.queries; ++t) {
      convert(token.q, call.q.at(t, h * k), k);
      const A d_denominator =
          output_gradient(token.numerator, call.dout.at(t, h * d), call.out.at(t, h * d),
                          *call.denominator.at(t, h), clamp, d);
      state_times(token.dq, s, token.numerator, z, d_denominator, k, d);
      convert(call.dq.at(t, h * k), token.dq, k);
      add_outer(ds + g * kd, token.q, token.numerator, k, d);
      add_scaled(dz + g * k, d_denominator, token.q, k);
    }
  }
  for (std::int64_t t = unit.key_begin; t < key_end; ++t) {
    std::fill(dv, dv + d, A(0));
    convert(token.v, call.v.at(t, unit.value_head * d), d);
    for (std::int64_t g = 0; g < unit.group; ++g) {
      const std::int64_t h = unit.first_head + g;
      convert(token.k, call.k.at(t, h * k), k);
      state_times(token.dk, ds + g * kd, token.v, dz + g * k, A(1), k, d);
      convert(call.dk.at(t, h * k), token.dk, k);
      for (std::int64_t r = 0; r < k; ++r) add_scaled(dv, token.k[r], ds + g * kd + r * d, d);
    }
    convert(call.dv.at(t, unit.value_head * d), dv, d);
  }
}

}  // namespace

template <class T>
void recurrent_backward(const Backward<T>& call, const Unit& unit) {
  if (call.shape.causal)
    causal_backward(call, unit);
  else
    cross_backward(call, unit);
}

template void recurrent_forward<float>(const Forward<float>&, const Unit&);
template void recurrent_forward<double>(const Forward<double>&, const Unit&);
template void recurrent_forward<bf16>(const Forward<bf16>&, const Unit&);
template void recurrent_backward<float>(const Backward<float>&, const Unit&);
template void recurrent_backward<double>(const Backward<double>&, const Unit&);
template void recurrent_backward<bf16>(const Backward<bf16>&, const Unit&);

}  // namespace t2r::linear_attention
