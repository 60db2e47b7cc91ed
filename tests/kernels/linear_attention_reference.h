// A batch of linear attention and what it must give: sums over all pairs of tokens in double,
// straight from the definition, forward and backward.
#pragma once

#include <numeric>
#include <vector>

#include "kernels/linear_attention.h"
#include "tests/kernels/testing.h"

namespace t2r::test {

inline LinearAttentionShape shape_of(std::int64_t heads, std::int64_t value_heads, std::int64_t k,
                                     std::int64_t d, std::int64_t chunk = 64) {
  LinearAttentionShape shape;
  shape.heads = heads;
  shape.value_heads = value_heads;
  shape.feature_size = k;
  shape.head_dim = d;
  shape.chunk = chunk;
  return shape;
}

/// Offsets of segments with these lengths.
struct Lengths {
  explicit Lengths(const std::vector<std::int64_t>& lengths) : offsets(lengths.size() + 1, 0) {
    std::partial_sum(lengths.begin(), lengths.end(), offsets.begin() + 1);
  }
  Segments segments() const {
    return {static_cast<std::int64_t>(offsets.size()) - 1, offsets.data()};
  }
  std::vector<std::int64_t> offsets;
};

struct LinearCase {
  std::vector<std::int64_t> query_lengths = {};
  std::vector<std::int64_t> key_lengths = {};  // as query_lengths where empty
  LinearAttentionShape shape = {};
  std::vector<double> gamma = {};  // empty: no decay
  bool signed_features = false;    // else >= 0, as relu makes them; signed ones activate the clamp
  bool initial = false;
  DType dtype = DType::f64;
  std::int64_t padding = 5;  // between rows
  std::uint64_t seed = 1;
};

/// Random inputs and poisoned outputs of one case.
struct LinearBatch {
  LinearCase setup;
  LinearAttentionShape shape;
  Lengths queries, keys;
  DType sums;
  Guarded q, k, v, dout, gamma, initial_s, initial_z;
  Guarded out, denominator, final_s, final_z, dq, dk, dv, dgamma;

  explicit LinearBatch(const LinearCase& c)
      : setup(c),
        shape(c.shape),
        queries(c.query_lengths),
        keys(c.key_lengths.empty() ? c.query_lengths : c.key_lengths),
        sums(accumulate_dtype(c.dtype)),
        q(random_tensor({query_rows(), heads() * features()}, c.dtype, c.seed, 1, c.padding)),
        k(random_tensor({key_rows(), heads() * features()}, c.dtype, c.seed + 1, 1, c.padding)),
        v(random_tensor({key_rows(), value_columns()}, c.dtype, c.seed + 2, 1, c.padding)),
        dout(random_tensor({query_rows(), heads() * dim()}, c.dtype, c.seed + 3, 1, c.padding)),
        gamma(poisoned({heads()}, sums)),
        initial_s(random_tensor({count(), heads(), features(), dim()}, sums, c.seed + 4, 1, 0)),
        initial_z(random_tensor({count(), heads(), features()}, sums, c.seed + 5, 1, 0)),
        out(poisoned({query_rows(), heads() * dim()}, c.dtype, c.padding)),
        denominator(poisoned({query_rows(), heads()}, sums, c.padding)),
        final_s(poisoned({count(), heads(), features(), dim()}, sums)),
        final_z(poisoned({count(), heads(), features()}, sums)),
        dq(poisoned({query_rows(), heads() * features()}, c.dtype, c.padding)),
        dk(poisoned({key_rows(), heads() * features()}, c.dtype, c.padding)),
        dv(poisoned({key_rows(), value_columns()}, c.dtype, c.padding)),
        dgamma(poisoned({heads()}, sums)) {
    for (const Tensor& x : {q.tensor(), k.tensor(), initial_z.tensor()})
      each(x, [&](auto row, auto column) {
        const double value = get(x, row, column);
        if (!c.signed_features) set(x, row, column, std::max(0.0, value + 0.3));
      });
    for (std::int64_t h = 0; h < heads() && !c.gamma.empty(); ++h)
      set(gamma, h, 0, c.gamma[static_cast<std::size_t>(h) % c.gamma.size()]);
  }

  std::int64_t heads() const { return setup.shape.heads; }
  std::int64_t features() const { return setup.shape.feature_size; }
  std::int64_t dim() const { return setup.shape.head_dim; }
  std::int64_t count() const { return queries.segments().count; }
  std::int64_t query_rows() const { return queries.segments().rows(); }
  std::int64_t key_rows() const { return keys.segments().rows(); }
  std::int64_t value_columns() const { return setup.shape.value_heads * dim(); }
  Tensor decay() const { return setup.gamma.empty() ? Tensor() : gamma.tensor(); }

  void forward(LinearForm form, bool with_final = true) {
    linear_attention_forward({}, out, denominator, q, k, v, queries.segments(), keys.segments(),
                             shape, decay(),
                             setup.initial ? LinearState{initial_s, initial_z} : LinearState{},
                             with_final ? LinearState{final_s, final_z} : LinearState{}, form);
  }
  /// dgamma starts at 1, to see that it is added to.
  void backward(LinearForm form) {
    if (decay())
      for (std::int64_t h = 0; h < heads(); ++h) set(dgamma, h, 0, 1);
    linear_attention_backward({}, dq, dk, dv, decay() ? dgamma.tensor() : Tensor(), dout, out,
                              denominator, q, k, v, queries.segments(), keys.segments(), shape,
                              decay(), form);
  }
};

/// Results in row order without strides, as values() gives them.
struct LinearReference {
  std::vector<double> out, denominator, final_s, final_z, dq, dk, dv, dgamma;

  explicit LinearReference(const LinearBatch& b) {
    const std::int64_t heads = b.heads(), k = b.features(), d = b.dim();
    const std::int64_t group = heads / b.shape.value_heads;
    const auto zeros = [](std::int64_t n) {
      return std::vector<double>(static_cast<std::size_t>(n), 0.0);
    };
    out = zeros(b.query_rows() * heads * d), denominator = zeros(b.query_rows() * heads);
    final_s = zeros(b.count() * heads * k * d), final_z = zeros(b.count() * heads * k);
    dq = zeros(b.query_rows() * heads * k), dk = zeros(b.key_rows() * heads * k);
    dv = zeros(b.key_rows() * b.value_columns()), dgamma = zeros(heads);
    const auto q = values(b.q), key = values(b.k), v = values(b.v), dout = values(b.dout);
    for (std::int64_t h = 0; h < heads; ++h) {
      dgamma[at(h)] = b.decay() ? 1 : 0;  // as LinearBatch::backward starts it
      for (std::int64_t s = 0; s < b.count(); ++s) head(b, q, key, v, dout, s, h, h / group, k, d);
    }
  }

 private:
  static std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

  void head(const LinearBatch& b, const std::vector<double>& q, const std::vector<double>& key,
            const std::vector<double>& v, const std::vector<double>& dout, std::int64_t s,
            std::int64_t h, std::int64_t value_head, std::int64_t k, std::int64_t d) {
    const std::int64_t heads = b.heads(), value_heads = b.shape.value_heads;
    const double gamma = b.decay() ? get(b.decay(), h, 0) : 1.0;
    const std::int64_t n = b.queries.segments().length(s), m = b.keys.segments().length(s);
    const auto qi = [&](std::int64_t i) { return (b.queries.offsets[at(s)] + i) * heads + h; };
    const auto kj = [&](std::int64_t j) { return (b.keys.offsets[at(s)] + j) * heads + h; };
    const auto vj = [&](std::int64_t j) {
      return (b.keys.offsets[at(s)] + j) * value_heads + value_head;
    };
    // The initial state counts as before the first token; with cross attention there is no order.
    std::vector<double> powers;
    for (std::int64_t p = 0; p <= m; ++p) powers.push_back(std::pow(gamma, p));
    const auto power = [&](std::int64_t p) { return b.shape.causal ? powers[at(p)] : 1.0; };
    for (std::int64_t r = 0; r < k; ++r) {
      const std::int64_t zi = (s * heads + h) * k + r;
      if (b.setup.initial) final_z[at(zi)] = power(m) * get(b.initial_z, s, h * k + r);
      for (std::int64_t j = 0; j < m; ++j)
        final_z[at(zi)] += power(m - 1 - j) * key[at(kj(j) * k + r)];
      for (std::int64_t c = 0; c < d; ++c) {
        double& state = final_s[at(zi * d + c)];
        if (b.setup.initial) state = power(m) * get(b.initial_s, s, (h * k + r) * d + c);
        for (std::int64_t j = 0; j < m; ++j)
          state += power(m - 1 - j) * key[at(kj(j) * k + r)] * v[at(vj(j) * d + c)];
      }
    }
    std::vector<double> numerator(at(d)), d_numerator(at(d));
    for (std::int64_t i = 0; i < n; ++i) {
      double sum = 0;
      std::fill(numerator.begin(), numerator.end(), 0.0);
      for (std::int64_t r = 0; b.setup.initial && r < k; ++r) {
        const double weight = power(i + 1) * q[at(qi(i) * k + r)];
        sum += weight * get(b.initial_z, s, h * k + r);
        for (std::int64_t c = 0; c < d; ++c)
          numerator[at(c)] += weight * get(b.initial_s, s, (h * k + r) * d + c);
      }
      const std::int64_t end = b.shape.causal ? i + 1 : m;
      std::vector<double> products(at(end)), weights(at(end));
      for (std::int64_t j = 0; j < end; ++j) {
        for (std::int64_t r = 0; r < k; ++r)
          products[at(j)] += q[at(qi(i) * k + r)] * key[at(kj(j) * k + r)];
        weights[at(j)] = power(i - j) * products[at(j)];
        sum += weights[at(j)];
        for (std::int64_t c = 0; c < d; ++c)
          numerator[at(c)] += weights[at(j)] * v[at(vj(j) * d + c)];
      }
      denominator[at(qi(i))] = sum;
      const bool clamped = sum < b.shape.clamp;
      const double bounded = clamped ? b.shape.clamp : sum;
      double d_sum = 0;
      for (std::int64_t c = 0; c < d; ++c) {
        const double o = numerator[at(c)] / bounded, g = dout[at(qi(i) * d + c)];
        out[at(qi(i) * d + c)] = o;
        d_numerator[at(c)] = g / bounded;
        d_sum -= clamped ? 0 : g * o / bounded;
      }
      for (std::int64_t j = 0; j < end; ++j) {
        double d_weight = d_sum;
        for (std::int64_t c = 0; c < d; ++c) {
          d_weight += d_numerator[at(c)] * v[at(vj(j) * d + c)];
          dv[at(vj(j) * d + c)] += weights[at(j)] * d_numerator[at(c)];
        }
        if (b.shape.causal && i > j)
          dgamma[at(h)] +=
              static_cast<double>(i - j) * power(i - j - 1) * products[at(j)] * d_weight;
        d_weight *= power(i - j);
        for (std::int64_t r = 0; r < k; ++r) {
          dq[at(qi(i) * k + r)] += d_weight * key[at(kj(j) * k + r)];
          dk[at(kj(j) * k + r)] += d_weight * q[at(qi(i) * k + r)];
        }
      }
    }
  }
};

}  // namespace t2r::test
