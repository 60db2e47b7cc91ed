// The likeliest tokens of rows against sorting everything in double.
#include "kernels/top_log_probabilities.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "core/base/error.h"
#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

TEST(TopLogProbabilities, EqualSortingEverything) {
  for (DType dtype : {DType::f64, DType::f32})
    for (std::int64_t columns : {1, 2, 31, 1024, 1025, 5000})
      for (std::int64_t count : {1, 2, 6, 40}) {
        SCOPED_TRACE(testing::Message() << name_of(dtype) << " " << count << " of " << columns);
        const Guarded logits = random_tensor({3, columns}, dtype, 7, 4, 3);
        // Equal logits, and ones far from 0, whose exp alone would overflow.
        for (std::int64_t j = 0; j < columns; j += 3) set(logits, 1, j, 1.5);
        for (std::int64_t j = 0; j < columns; ++j) set(logits, 2, j, get(logits, 2, j) + 2000);
        const auto wanted = static_cast<std::int32_t>(columns / 2);
        const auto tops = top_log_probabilities(Queue{}, logits, count, wanted);
        ASSERT_EQ(tops.size(), 3u);
        for (std::int64_t row = 0; row < 3; ++row) {
          const TopTokens& top = tops[static_cast<std::size_t>(row)];
          std::vector<std::int32_t> order(static_cast<std::size_t>(columns));
          std::iota(order.begin(), order.end(), 0);
          std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
            return get(logits, row, a) > get(logits, row, b);
          });
          double total = 0;
          const double most = get(logits, row, order[0]);
          for (std::int64_t j = 0; j < columns; ++j) total += std::exp(get(logits, row, j) - most);
          const double normalizer = most + std::log(total);
          const double limit = dtype == DType::f64 ? 1e-11 : 1e-5;
          order.resize(static_cast<std::size_t>(std::min(count, columns)));
          EXPECT_EQ(top.tokens, order) << "row " << row;
          ASSERT_EQ(top.log_probabilities.size(), order.size());
          for (std::size_t i = 0; i < order.size(); ++i)
            EXPECT_NEAR(top.log_probabilities[i], get(logits, row, order[i]) - normalizer, limit);
          EXPECT_NEAR(top.wanted_log_probability, get(logits, row, wanted) - normalizer, limit);
          EXPECT_NEAR(log_probability(logits, row, top, wanted),
                      get(logits, row, wanted) - normalizer, limit);
        }
      }
}

TEST(TopLogProbabilities, ATokenRuledOutIsLast) {
  const Guarded logits = random_tensor({1, 4}, DType::f64, 3);
  set(logits, 0, 2, -std::numeric_limits<double>::infinity());
  const auto top = top_log_probabilities(Queue{}, logits, 4, 2)[0];
  EXPECT_EQ(top.tokens.back(), 2);
  EXPECT_EQ(top.wanted_log_probability, -std::numeric_limits<double>::infinity());
}

TEST(TopLogProbabilities, BadInputFails) {
  const Guarded logits = random_tensor({2, 4}, DType::f32, 3);
  EXPECT_THROW(top_log_probabilities(Queue{}, logits, 0, 1), Error);
  EXPECT_THROW(top_log_probabilities(Queue{}, logits, 1, 4), Error);
  EXPECT_THROW(top_log_probabilities(Queue{}, logits, 1, -1), Error);
  for (double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    const Guarded broken = random_tensor({2, 4}, DType::f32, 3);
    set(broken, 1, 2, bad);
    EXPECT_THROW(top_log_probabilities(Queue{}, broken, 1, 0), Error) << bad;
  }
}

}  // namespace
}  // namespace t2r::test
