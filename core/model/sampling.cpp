#include "core/model/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/base/random.h"

namespace t2r {
namespace {

template <class A>
std::int32_t sample(const A* logits, std::int64_t vocab, const SamplingOptions& options,
                    std::uint64_t sequence, std::uint64_t position) {
  const auto best = static_cast<std::int32_t>(std::max_element(logits, logits + vocab) - logits);
  if (options.temperature == 0) return best;

  const auto weight = [&](std::int64_t i) {
    return std::exp((static_cast<double>(logits[i]) - static_cast<double>(logits[best])) /
                    options.temperature);
  };
  if ((options.top_k == 0 || options.top_k >= vocab) && options.top_p == 1) {  // nothing to sort
    std::vector<double> weights(static_cast<std::size_t>(vocab));
    double total = 0;
    for (std::int64_t i = 0; i < vocab; ++i)
      total += weights[static_cast<std::size_t>(i)] = weight(i);
    double draw = total * random_uniform(options.seed, sequence, position);
    for (std::int64_t i = 0; i < vocab; ++i)
      if ((draw -= weights[static_cast<std::size_t>(i)]) < 0) return static_cast<std::int32_t>(i);
    return best;
  }

  std::vector<std::int32_t> order(static_cast<std::size_t>(vocab));
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](std::int32_t a, std::int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  };
  std::size_t candidates = order.size();
  if (options.top_k > 0 && options.top_k < vocab) {
    candidates = static_cast<std::size_t>(options.top_k);
    std::partial_sort(order.begin(), order.begin() + options.top_k, order.end(), before);
  } else {
    std::sort(order.begin(), order.end(), before);
  }
  std::vector<double> weights(candidates);
  double total = 0;
  for (std::size_t i = 0; i < candidates; ++i) total += weights[i] = weight(order[i]);
  // The nucleus: the fewest candidates whose share is at least top_p.
  double kept = 0;
  std::size_t last = 0;
  while (last < candidates) {
    kept += weights[last++];
    if (kept >= options.top_p * total) break;
  }
  double draw = kept * random_uniform(options.seed, sequence, position);
  for (std::size_t i = 0; i < last; ++i)
    if ((draw -= weights[i]) < 0) return order[i];
  return order[last - 1];
}

}  // namespace

std::int32_t sample_token(Tensor logits, std::int64_t row, const SamplingOptions& options,
                          std::uint64_t sequence, std::uint64_t position) {
  check_usage(options.temperature >= 0 && std::isfinite(options.temperature),
              "temperature is {}: it must be 0 (greedy) or above", options.temperature);
  check_usage(options.top_k >= 0, "top-k is {}: it must be 0 (all) or above", options.top_k);
  check_usage(options.top_p > 0 && options.top_p <= 1, "top-p is {}: it must be in (0, 1]",
              options.top_p);
  return dispatch(logits.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    return sample(logits.as<A>() + row * logits.row_stride, logits.columns_count(), options,
                  sequence, position);
  });
}

}  // namespace t2r
