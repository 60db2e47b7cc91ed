// Health figures of a swapped layer, from what forward left behind.
#include <cmath>
#include <limits>

#include "kernels/linear_attention_internal.h"

namespace t2r {
namespace {

/// The larger of both; NaN once either is.
double larger(double a, double b) {
  return a > b || std::isnan(a) ? a : b;
}

/// Counts over one head.
struct HeadHealth {
  double max_feature = -std::numeric_limits<double>::infinity();
  double max_denominator = -std::numeric_limits<double>::infinity();
  std::int64_t clamped = 0, dead = 0;
};

template <class T>
HeadHealth health_of_head(const Tensor& queries, const Tensor& keys, const Tensor& denominator,
                          const LinearAttentionShape& shape, std::int64_t h) {
  using A = accumulate_t<T>;
  HeadHealth health;
  const std::int64_t k = shape.feature_size;
  ScratchScope scratch;
  A* largest = scratch.array<A>(k);
  std::fill(largest, largest + k, -std::numeric_limits<A>::infinity());
  for (const Tensor& features : {queries, keys}) {
    for (std::int64_t row = 0; row < features.rows(); ++row) {
      const T* x = features.as<T>() + row * features.row_stride + h * k;
      // Once NaN, a maximum stays NaN: neither side of `>` holds and it is taken over again.
      for (std::int64_t r = 0; r < k; ++r) {
        const A value = static_cast<A>(x[r]);
        largest[r] = largest[r] >= value || largest[r] != largest[r] ? largest[r] : value;
      }
    }
  }
  for (std::int64_t r = 0; r < k; ++r) {
    health.max_feature = larger(health.max_feature, static_cast<double>(largest[r]));
    health.dead += largest[r] <= A(0);
  }
  for (std::int64_t row = 0; row < denominator.rows(); ++row) {
    const A value = denominator.as<A>()[row * denominator.row_stride + h];
    health.max_denominator = larger(health.max_denominator, static_cast<double>(value));
    health.clamped += value < static_cast<A>(shape.clamp);
  }
  return health;
}

}  // namespace

LinearAttentionHealth linear_attention_health(Tensor query_features, Tensor key_features,
                                              Tensor denominator,
                                              const LinearAttentionShape& shape) {
  const std::int64_t heads = shape.heads, k = shape.feature_size;
  check_shape(query_features, {query_features.rows(), heads * k}, "query features");
  check_shape(key_features, {key_features.rows(), heads * k}, "key features");
  check_shape(denominator, {query_features.rows(), heads}, "the denominator");
  check(key_features.dtype == query_features.dtype &&
            denominator.dtype == accumulate_dtype(query_features.dtype),
        "linear attention health: features of {} and {} with denominators of {}",
        name_of(query_features.dtype), name_of(key_features.dtype), name_of(denominator.dtype));
  LinearAttentionHealth health;
  if (heads * k == 0 || query_features.rows() + key_features.rows() == 0) return health;
  ScratchScope scratch;
  HeadHealth* parts = scratch.array<HeadHealth>(heads);
  dispatch(query_features.dtype, [&]<class T>() {
#pragma omp parallel for schedule(static)
    for (std::int64_t h = 0; h < heads; ++h)
      parts[h] = health_of_head<T>(query_features, key_features, denominator, shape, h);
  });
  HeadHealth total;
  for (std::int64_t h = 0; h < heads; ++h) {
    total.max_feature = larger(total.max_feature, parts[h].max_feature);
    total.max_denominator = larger(total.max_denominator, parts[h].max_denominator);
    total.clamped += parts[h].clamped;
    total.dead += parts[h].dead;
  }
  health.max_feature = total.max_feature;
  health.dead_feature_share = static_cast<double>(total.dead) / static_cast<double>(heads * k);
  if (denominator.size() > 0) {
    health.max_denominator = total.max_denominator;
    health.clamped_share =
        static_cast<double>(total.clamped) / static_cast<double>(denominator.size());
  }
  return health;
}

}  // namespace t2r
