// Linear attention on the CPU: checks the arguments, picks a form and runs it over all (segment,
// value head) in parallel.
#include "kernels/linear_attention_internal.h"

namespace t2r {
namespace {

using namespace linear_attention;

void check_columns(const Tensor& x, DType dtype, std::int64_t rows, std::int64_t columns,
                   const char* what) {
  check(x.shape.rank() == 2 && x.shape[0] == rows && x.shape[1] == columns && x.dtype == dtype,
        "linear attention: {} is {} {}, expected {} ({}, {})", what, name_of(x.dtype),
        x.shape.text(), name_of(dtype), rows, columns);
}

void check_sizes(const LinearAttentionShape& shape) {
  check(shape.heads > 0 && shape.value_heads > 0 && shape.heads % shape.value_heads == 0 &&
            shape.feature_size > 0 && shape.head_dim > 0 && shape.chunk > 0 && shape.clamp > 0,
        "linear attention: {} heads, {} value heads (must divide the heads), feature size {}, head "
        "dimension {}, chunk {}, clamp {}: all must be positive",
        shape.heads, shape.value_heads, shape.feature_size, shape.head_dim, shape.chunk,
        shape.clamp);
}

void check_device(const Queue& queue) {
  check(queue.device == Device::cpu, "linear attention: no kernel for this device in this build");
}

void check_segments(const Segments& segments, std::int64_t rows, const char* what) {
  check(segments.rows() == rows && (segments.count == 0 || segments.offsets[0] == 0),
        "linear attention: the segments of the {} cover {} rows of {}", what, segments.rows(),
        rows);
  for (std::int64_t s = 0; s < segments.count; ++s)
    check(segments.length(s) >= 0, "linear attention: segment {} of the {} has the length {}", s,
          what, segments.length(s));
}

/// Segments and decay, for forward and backward; feature and value sizes are checked by shape.
void check_call(const Tensor& q, const Tensor& k, const Tensor& v, const Segments& queries,
                const Segments& keys, const LinearAttentionShape& shape, const Tensor& gamma) {
  check_sizes(shape);
  check_segments(queries, q.rows(), "queries");
  check_segments(keys, k.rows(), "keys");
  check(queries.count == keys.count,
        "linear attention: {} segments of queries and {} of keys, expected as many", queries.count,
        keys.count);
  for (std::int64_t s = 0; shape.causal && s < queries.count; ++s)
    check(queries.length(s) == keys.length(s),
          "causal linear attention: segment {} has {} queries and {} keys, expected as many", s,
          queries.length(s), keys.length(s));
  check_columns(q, q.dtype, queries.rows(), shape.heads * shape.feature_size, "query features");
  check_columns(k, q.dtype, keys.rows(), shape.heads * shape.feature_size, "key features");
  check_columns(v, q.dtype, keys.rows(), shape.value_heads * shape.head_dim, "values");
  if (!gamma) return;
  check(shape.causal, "linear attention: a decay needs causal attention");
  check(gamma.dtype == accumulate_dtype(q.dtype) && gamma.size() == shape.heads,
        "linear attention: gamma is {} {}, expected one {} a head for {} heads",
        name_of(gamma.dtype), gamma.shape.text(), name_of(accumulate_dtype(q.dtype)), shape.heads);
  for (std::int64_t h = 0; h < shape.heads; ++h) {
    const double value = gamma.dtype == DType::f64 ? gamma.as<double>()[h] : gamma.as<float>()[h];
    check(value > 0 && value <= 1, "linear attention: the decay of head {} is {}, not in (0, 1]", h,
          value);
  }
}

void check_state(const LinearState& state, std::int64_t count, const LinearAttentionShape& shape,
                 DType dtype, const char* what) {
  const Shape s{count, shape.heads, shape.feature_size, shape.head_dim};
  const Shape z{count, shape.heads, shape.feature_size};
  check(state.s.shape == s && state.z.shape == z && state.s.dtype == accumulate_dtype(dtype) &&
            state.z.dtype == accumulate_dtype(dtype),
        "linear attention: the {} state is {} {} and {}, expected {} {} and {}", what,
        name_of(state.s.dtype), state.s.shape.text(), state.z.shape.text(),
        name_of(accumulate_dtype(dtype)), s.text(), z.text());
}

void check_ends(const LinearEnds& ends, LinearForm form, std::int64_t count,
                const LinearAttentionShape& shape, DType dtype) {
  if (!ends.initial.s && !ends.dfinal.s && !ends.dinitial.s) return;
  check(shape.causal && form != LinearForm::masked,
        "linear attention: gradients of states need causal attention, recurrent or in chunks");
  check(!ends.dinitial.s || ends.initial.s,
        "linear attention: the gradient of an initial state without the state");
  if (ends.initial.s) check_state(ends.initial, count, shape, dtype, "initial");
  if (ends.dfinal.s) check_state(ends.dfinal, count, shape, dtype, "gradient of the final");
  if (ends.dinitial.s) check_state(ends.dinitial, count, shape, dtype, "gradient of the initial");
}

/// Of a state that may be empty.
template <class A, class Where>
void point_at(Where& s, Where& z, const LinearState& state) {
  if (!state.s) return;
  s = rows_of<A>(state.s);
  z = rows_of<A>(state.z);
}

// `automatic` is chunkwise, measured fastest or equal for k 4 and 32, d 64 and 128 and lengths from
// 4 to 2048 (masked equals it up to one chunk), in chunks of 32, the best for all of these; shorter
// segments are a few steps of the recurrence.
constexpr std::int64_t kAutomaticChunk = 32, kShortLength = 4;

LinearForm choose(LinearForm form, const Segments& queries, LinearAttentionShape& shape) {
  if (form != LinearForm::automatic) return form;
  shape.chunk = std::min(shape.chunk, kAutomaticChunk);
  return queries.rows() < kShortLength * queries.count ? LinearForm::recurrent
                                                       : LinearForm::chunkwise;
}

// Below this many multiply-adds a second thread costs more than it saves.
constexpr std::int64_t kParallelWork = 1 << 17;

/// Calls body(unit) for every (segment, value head), in parallel where that pays.
template <class Body>
void for_each_unit(const LinearAttentionShape& shape, const Segments& queries, const Segments& keys,
                   const Body& body) {
  const std::int64_t units = queries.count * shape.value_heads;
  const std::int64_t work =
      (queries.rows() + keys.rows()) * shape.heads * shape.feature_size * shape.head_dim;
#pragma omp parallel for schedule(dynamic) if (units > 1 && work >= kParallelWork)
  for (std::int64_t i = 0; i < units; ++i)
    body(Unit(i / shape.value_heads, i % shape.value_heads, shape, queries, keys));
}

}  // namespace

void linear_attention_forward(Queue queue, Tensor out, Tensor denominator, Tensor query_features,
                              Tensor key_features, Tensor v, const Segments& queries,
                              const Segments& keys, const LinearAttentionShape& shape, Tensor gamma,
                              LinearState initial, LinearState final, LinearForm form) {
  check_device(queue);
  check_call(query_features, key_features, v, queries, keys, shape, gamma);
  const DType dtype = query_features.dtype;
  check_columns(out, dtype, queries.rows(), shape.heads * shape.head_dim, "the output");
  check_columns(denominator, accumulate_dtype(dtype), queries.rows(), shape.heads,
                "the denominator");
  if (initial.s) check_state(initial, queries.count, shape, dtype, "initial");
  if (final.s) check_state(final, queries.count, shape, dtype, "final");
  LinearAttentionShape chosen = shape;
  form = choose(form, queries, chosen);
  dispatch(dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    Forward<T> call{.shape = chosen,
                    .queries = queries,
                    .keys = keys,
                    .out = rows_of<T>(out),
                    .denominator = rows_of<A>(denominator),
                    .q = rows_of<const T>(query_features),
                    .k = rows_of<const T>(key_features),
                    .v = rows_of<const T>(v),
                    .gamma = gamma ? gamma.as<A>() : nullptr,
                    .initial_s = {},
                    .initial_z = {},
                    .final_s = {},
                    .final_z = {}};
    point_at<const A>(call.initial_s, call.initial_z, initial);
    point_at<A>(call.final_s, call.final_z, final);
    for_each_unit(shape, queries, keys, [&](const Unit& unit) {
      if (form == LinearForm::recurrent)
        recurrent_forward(call, unit);
      else if (form == LinearForm::masked)
        masked_forward(call, unit);
      else
        chunkwise_forward(call, unit);
    });
  });
}

void linear_attention_backward(Queue queue, Tensor dquery_features, Tensor dkey_features, Tensor dv,
                               Tensor dgamma, Tensor dout, Tensor out, Tensor denominator,
                               Tensor query_features, Tensor key_features, Tensor v,
                               const Segments& queries, const Segments& keys,
                               const LinearAttentionShape& shape, Tensor gamma, LinearForm form,
                               const LinearEnds& ends) {
  check_device(queue);
  check_call(query_features, key_features, v, queries, keys, shape, gamma);
  const DType dtype = query_features.dtype;
  const std::int64_t features = shape.heads * shape.feature_size;
  check_columns(dquery_features, dtype, queries.rows(), features, "the gradient of the queries");
  check_columns(dkey_features, dtype, keys.rows(), features, "the gradient of the keys");
  check_columns(dv, dtype, keys.rows(), shape.value_heads * shape.head_dim,
                "the gradient of the values");
  for (const Tensor& x : {dout, out})
    check_columns(x, dtype, queries.rows(), shape.heads * shape.head_dim,
                  "the output or its gradient");
  check_columns(denominator, accumulate_dtype(dtype), queries.rows(), shape.heads,
                "the denominator");
  check(!dgamma || (gamma && dgamma.dtype == gamma.dtype && dgamma.size() == shape.heads),
        "linear attention: the gradient of gamma is {} {} for {} heads{}", name_of(dgamma.dtype),
        dgamma.shape.text(), shape.heads, gamma ? "" : ", without a gamma");
  check_ends(ends, form, queries.count, shape, dtype);
  LinearAttentionShape chosen = shape;
  form = choose(form, queries, chosen);
  ScratchScope scratch;
  const std::int64_t parts = dgamma ? queries.count * shape.heads : 0;
  double* dgamma_parts = scratch.array<double>(parts);  // (segments, heads)
  dispatch(dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    Backward<T> call{};
    call.shape = chosen;
    call.queries = queries;
    call.keys = keys;
    call.dq = rows_of<T>(dquery_features);
    call.dk = rows_of<T>(dkey_features);
    call.dv = rows_of<T>(dv);
    call.dgamma = dgamma ? dgamma_parts : nullptr;
    call.dout = rows_of<const T>(dout);
    call.out = rows_of<const T>(out);
    call.denominator = rows_of<const A>(denominator);
    call.q = rows_of<const T>(query_features);
    call.k = rows_of<const T>(key_features);
    call.v = rows_of<const T>(v);
    call.gamma = gamma ? gamma.as<A>() : nullptr;
    point_at<const A>(call.initial_s, call.initial_z, ends.initial);
    point_at<const A>(call.dfinal_s, call.dfinal_z, ends.dfinal);
    point_at<A>(call.dinitial_s, call.dinitial_z, ends.dinitial);
    for_each_unit(shape, queries, keys, [&](const Unit& unit) {
      if (form == LinearForm::recurrent)
        recurrent_backward(call, unit);
      else if (form == LinearForm::masked)
        masked_backward(call, unit);
      else
        chunkwise_backward(call, unit);
    });
    for (std::int64_t h = 0; dgamma && h < shape.heads; ++h) {
      double sum = 0;
      for (std::int64_t s = 0; s < queries.count; ++s) sum += dgamma_parts[s * shape.heads + h];
      dgamma.as<A>()[h] += static_cast<A>(sum);
    }
  });
}

void linear_attention_state(Queue queue, LinearState state, Tensor key_features, Tensor v,
                            const Segments& keys, const LinearAttentionShape& shape, Tensor gamma) {
  check_device(queue);
  check_call(key_features, key_features, v, keys, keys, shape, gamma);
  const DType dtype = key_features.dtype;
  check_state(state, keys.count, shape, dtype, "final");
  LinearAttentionShape chosen = shape;
  choose(LinearForm::automatic, keys, chosen);
  dispatch(dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    Forward<T> call{};
    call.shape = chosen;
    call.keys = keys;
    call.k = rows_of<const T>(key_features);
    call.v = rows_of<const T>(v);
    call.gamma = gamma ? gamma.as<A>() : nullptr;
    point_at<A>(call.final_s, call.final_z, state);
    for_each_unit(shape, keys, keys, [&](const Unit& unit) { chunkwise_state(call, unit); });
  });
}

void linear_attention_state_backward(Queue queue, LinearState dinitial, Tensor dout, Tensor out,
                                     Tensor denominator, Tensor query_features,
                                     const Segments& queries, const LinearAttentionShape& shape,
                                     Tensor gamma) {
  check_device(queue);
  const DType dtype = query_features.dtype;
  LinearAttentionShape of_queries = shape;  // dout lies as values with a head each would
  of_queries.value_heads = shape.heads;
  check_call(query_features, query_features, dout, queries, queries, of_queries, gamma);
  check_columns(out, dtype, queries.rows(), shape.heads * shape.head_dim, "the output");
  check_columns(denominator, accumulate_dtype(dtype), queries.rows(), shape.heads,
                "the denominator");
  check_state(dinitial, queries.count, shape, dtype, "gradient of the initial");
  LinearAttentionShape chosen = shape;
  choose(LinearForm::automatic, queries, chosen);
  dispatch(dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    Backward<T> call{};
    call.shape = chosen;
    call.queries = queries;
    call.dout = rows_of<const T>(dout);
    call.out = rows_of<const T>(out);
    call.denominator = rows_of<const A>(denominator);
    call.q = rows_of<const T>(query_features);
    call.gamma = gamma ? gamma.as<A>() : nullptr;
    point_at<A>(call.dinitial_s, call.dinitial_z, dinitial);
    for_each_unit(shape, queries, queries,
                  [&](const Unit& unit) { chunkwise_state_backward(call, unit); });
  });
}

void linear_attention_step(Queue queue, Tensor out, LinearState state, Tensor query_features,
                           Tensor key_features, Tensor v, const LinearAttentionShape& shape,
                           Tensor gamma, Tensor denominator) {
  check_device(queue);
  check_sizes(shape);
  const DType dtype = query_features.dtype;
  const std::int64_t batch = query_features.rows(), heads = shape.heads;
  const std::int64_t k = shape.feature_size, d = shape.head_dim, group = heads / shape.value_heads;
  check_columns(query_features, dtype, batch, heads * k, "query features");
  check_columns(key_features, dtype, batch, heads * k, "key features");
  check_columns(v, dtype, batch, shape.value_heads * d, "values");
  check_columns(out, dtype, batch, heads * d, "the output");
  check_state(state, batch, shape, dtype, "decoding");
  if (denominator)
    check_columns(denominator, accumulate_dtype(dtype), batch, heads, "the denominator");
  check(!gamma || (gamma.dtype == accumulate_dtype(dtype) && gamma.size() == heads),
        "linear attention: gamma is {} {}, expected one {} a head for {} heads",
        name_of(gamma.dtype), gamma.shape.text(), name_of(accumulate_dtype(dtype)), heads);
  dispatch(dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    const auto q = rows_of<const T>(query_features), keys = rows_of<const T>(key_features),
               values = rows_of<const T>(v);
    const auto outputs = rows_of<T>(out);
    const auto states = rows_of<A>(state.s), sums = rows_of<A>(state.z);
    const A* decay = gamma ? gamma.as<A>() : nullptr;
    const A clamp = static_cast<A>(shape.clamp);
#pragma omp parallel if (batch * heads * k * d >= kParallelWork / 4)
    {
      ScratchScope scratch;
      A* numerator = scratch.array<A>(d);
      A* query_scratch = scratch.array<A>(k);
      A* key_scratch = scratch.array<A>(k);
      A* value_scratch = scratch.array<A>(d);
#pragma omp for schedule(static)
      for (std::int64_t i = 0; i < batch * heads; ++i) {
        const std::int64_t b = i / heads, h = i % heads;
        const A sum = advance(states.at(b, h * k * d), sums.at(b, h * k), numerator,
                              load_tile(query_scratch, q, b, 1, h * k, k).data,
                              load_tile(key_scratch, keys, b, 1, h * k, k).data,
                              load_tile(value_scratch, values, b, 1, h / group * d, d).data, k, d,
                              decay ? decay[h] : A(1));
        write_output(outputs.at(b, h * d), numerator, sum, clamp, d);
        if (denominator) denominator.as<A>()[b * denominator.row_stride + h] = sum;
      }
    }
  });
}

}  // namespace t2r
