// Softmax attention against plain loops in double: every form of forward, backward and step.
#include "kernels/softmax_attention.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "kernels/dropout.h"
#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

/// One attention problem: sizes and segments.
struct Form {
  std::string name;
  std::int64_t heads = 1, key_value_heads = 1, head_dim = 8;
  bool causal = true;
  std::vector<std::int64_t> query_lengths, key_lengths;  // keys empty: as queries
  float dropout = 0;
  std::int64_t window = 0;
};

/// A problem with its tensors, all column ranges of wider matrices, and the kernels run on it.
class Problem {
 public:
  Problem(const Form& form, DType dtype, std::uint64_t seed)
      : form_(form),
        query_offsets_(offsets(form.query_lengths)),
        key_offsets_(offsets(form.key_lengths.empty() ? form.query_lengths : form.key_lengths)),
        queries{static_cast<std::int64_t>(query_offsets_.size()) - 1, query_offsets_.data()},
        keys{static_cast<std::int64_t>(key_offsets_.size()) - 1, key_offsets_.data()},
        shape{form.heads, form.key_value_heads, form.head_dim, form.causal, form.window},
        scale(1 / std::sqrt(static_cast<double>(form.head_dim))),
        q(random_tensor({queries.rows(), form.heads * form.head_dim}, dtype, seed, 1, 5)),
        k(random_tensor({keys.rows(), form.key_value_heads * form.head_dim}, dtype, seed + 1, 1,
                        3)),
        v(random_tensor(k.tensor().shape, dtype, seed + 2, 1, 7)),
        dout(random_tensor(q.tensor().shape, dtype, seed + 3, 1, 2)),
        out(q.tensor().shape, dtype, 11),
        log_sum_exp({queries.rows(), form.heads}, accumulate_dtype(dtype), 1),
        dq(q.tensor().shape, dtype, 1),
        dk(k.tensor().shape, dtype, 2),
        dv(k.tensor().shape, dtype, 3) {
    for (std::int64_t row = 0; row < queries.rows(); ++row) row_ids_.push_back(1000 + 3 * row);
    dropout = {form.dropout, 77, 5, row_ids_.data()};
  }

  void forward() {
    softmax_attention_forward({}, out, log_sum_exp, q, k, v, queries, keys, shape, scale, dropout);
  }
  void backward() {
    softmax_attention_backward({}, dq, dk, dv, dout, out, log_sum_exp, q, k, v, queries, keys,
                               shape, scale, dropout);
  }

  static std::vector<std::int64_t> offsets(const std::vector<std::int64_t>& lengths) {
    std::vector<std::int64_t> result{0};
    for (std::int64_t length : lengths) result.push_back(result.back() + length);
    return result;
  }

 private:
  Form form_;
  std::vector<std::int64_t> query_offsets_, key_offsets_, row_ids_;

 public:
  Segments queries, keys;
  AttentionShape shape;
  double scale;
  Dropout dropout;
  Guarded q, k, v, dout, out, log_sum_exp, dq, dk, dv;
};

struct Reference {
  std::vector<double> out, log_sum_exp, dq, dk, dv;
};

/// 1 / (1 - rate) or 0, by the counters that the header documents.
double dropout_factor(const Problem& p, std::int64_t row, std::int64_t head, std::int64_t key) {
  if (!p.dropout.active()) return 1;
  const std::int64_t e = (p.dropout.row_ids[row] * p.shape.heads + head) * (1 << 20) + key;
  const auto counter = static_cast<std::uint64_t>(e) / 4;
  const auto bits = random_bits(p.dropout.seed, p.dropout.stream, counter);
  const bool kept = to_uniform(bits[static_cast<std::size_t>(e % 4)]) >= p.dropout.rate;
  return kept ? 1 / (1 - static_cast<double>(p.dropout.rate)) : 0;
}

Reference reference(const Problem& p) {
  const std::int64_t d = p.shape.head_dim, group = p.shape.heads / p.shape.key_value_heads;
  Reference r;
  const auto width = static_cast<std::size_t>(p.shape.heads * d);
  const auto key_width = static_cast<std::size_t>(p.shape.key_value_heads * d);
  r.out.assign(static_cast<std::size_t>(p.queries.rows()) * width, 0);
  r.dq = r.out;
  r.log_sum_exp.assign(static_cast<std::size_t>(p.queries.rows() * p.shape.heads), 0);
  r.dk.assign(static_cast<std::size_t>(p.keys.rows()) * key_width, 0);
  r.dv = r.dk;
  for (std::int64_t s = 0; s < p.queries.count; ++s)
    for (std::int64_t head = 0; head < p.shape.heads; ++head)
      for (std::int64_t i = 0; i < p.queries.length(s); ++i) {
        const std::int64_t row = p.queries.offsets[s] + i, first = p.keys.offsets[s];
        const std::int64_t earlier = p.keys.length(s) - p.queries.length(s);
        const std::int64_t count = p.shape.causal ? earlier + i + 1 : p.keys.length(s);
        if (count == 0) continue;
        const std::int64_t begin =
            p.shape.window ? std::max<std::int64_t>(0, count - p.shape.window) : 0;
        const auto key_at = [&](std::int64_t j, std::int64_t c) {
          return static_cast<std::size_t>(first + j) * key_width +
                 static_cast<std::size_t>(head / group * d + c);
        };
        const auto at = [&](std::int64_t c) {
          return static_cast<std::size_t>(row) * width + static_cast<std::size_t>(head * d + c);
        };
        std::vector<double> weight;
        double total = 0;
        for (std::int64_t j = 0; j < count; ++j) {
          double score = 0;
          for (std::int64_t c = 0; c < d; ++c)
            score += get(p.q, row, head * d + c) * get(p.k, first + j, head / group * d + c);
          weight.push_back(j < begin ? 0 : std::exp(score * p.scale));
          total += weight.back();
        }
        r.log_sum_exp[static_cast<std::size_t>(row * p.shape.heads + head)] = std::log(total);
        std::vector<double> dweight;
        double row_dot = 0;
        for (std::int64_t j = 0; j < count; ++j) {
          double& w = weight[static_cast<std::size_t>(j)];
          w /= total;
          const double factor = dropout_factor(p, row, head, j);
          double sum = 0;
          for (std::int64_t c = 0; c < d; ++c) {
            const double value = get(p.v, first + j, head / group * d + c);
            r.out[at(c)] += w * factor * value;
            sum += get(p.dout, row, head * d + c) * value;
            r.dv[key_at(j, c)] += w * factor * get(p.dout, row, head * d + c);
          }
          dweight.push_back(sum * factor);
          row_dot += w * sum * factor;
        }
        for (std::int64_t j = 0; j < count; ++j) {
          const auto index = static_cast<std::size_t>(j);
          const double dscore = weight[index] * (dweight[index] - row_dot) * p.scale;
          for (std::int64_t c = 0; c < d; ++c) {
            r.dq[at(c)] += dscore * get(p.k, first + j, head / group * d + c);
            r.dk[key_at(j, c)] += dscore * get(p.q, row, head * d + c);
          }
        }
      }
  return r;
}

std::vector<Form> forms() {
  std::vector<Form> result;
  for (std::int64_t n : {31, 32, 33, 65, 130, 257})
    for (bool causal : {true, false})
      result.push_back({"one segment", 2, 2, 8, causal, {n}, {}, 0});
  for (std::int64_t d : {1, 4, 64, 80}) result.push_back({"head size", 2, 1, d, true, {67}, {}, 0});
  result.push_back({"no segment", 2, 1, 8, true, {}, {}, 0});
  result.push_back({"only empty segments", 2, 1, 8, false, {0, 0}, {0, 0}, 0});
  result.push_back({"ragged", 4, 4, 8, true, {0, 1, 70, 0, 2, 33, 128, 0}, {}, 0});
  result.push_back({"grouped", 6, 2, 16, true, {70, 1, 131}, {}, 0});
  result.push_back({"cross", 2, 2, 16, false, {65, 3, 0, 1, 40}, {130, 1, 17, 0, 300}, 0});
  result.push_back({"cross grouped", 4, 1, 20, false, {1, 100}, {257, 64}, 0});
  result.push_back({"dropout", 2, 1, 8, true, {1, 130, 66}, {}, 0.25f});
  for (std::int64_t earlier : {1, 15, 63, 64, 65, 127, 200})
    result.push_back({"last queries", 2, 1, 8, true, {70}, {70 + earlier}, 0});
  result.push_back({"last queries, ragged",
                    4,
                    2,
                    16,
                    true,
                    {0, 1, 70, 33, 5, 130, 0, 129},
                    {9, 130, 70, 100, 69, 301, 0, 150},
                    0});
  result.push_back({"last queries, dropout", 2, 1, 8, true, {1, 130, 66}, {3, 190, 167}, 0.25f});
  result.push_back({"cross dropout", 2, 2, 64, false, {31, 70}, {131, 5}, 0.1f});
  for (std::int64_t window : {2, 3, 16, 63, 64, 65, 128, 300})
    for (std::int64_t earlier : {0, 5, 64, 200})
      result.push_back({"window " + std::to_string(window),
                        4,
                        2,
                        8,
                        true,
                        {0, 1, 150, 17, 290},
                        {earlier, 1 + earlier, 150 + earlier, 17 + earlier, 290 + earlier},
                        0,
                        window});
  result.push_back({"window, dropout", 2, 1, 20, true, {1, 130, 66}, {3, 190, 167}, 0.25f, 33});
  return result;
}

std::string text(const Form& form, const char* what) {
  return form.name + (form.causal ? " causal " : " ") + what;
}

TEST(SoftmaxAttention, MatchesPlainLoops) {
  std::uint64_t seed = 100;
  for (const Form& form : forms())
    for (DType dtype : kAllDTypes) {
      Problem p(form, dtype, seed += 10);
      const Reference expected = reference(p);
      p.forward();
      expect_close(p.out, expected.out, text(form, "out"));
      expect_close(p.log_sum_exp, expected.log_sum_exp, text(form, "log_sum_exp"));
      p.backward();
      expect_close(p.dq, expected.dq, text(form, "dq"));
      expect_close(p.dk, expected.dk, text(form, "dk"));
      expect_close(p.dv, expected.dv, text(form, "dv"));
    }
}

TEST(SoftmaxAttention, GradientsAreCentralDifferences) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);  // thousands of tiny problems
  std::uint64_t seed = 5000;
  for (const Form& form : {Form{"causal", 2, 1, 4, true, {1, 0, 7, 67}, {}, 0},
                           Form{"cross", 2, 2, 3, false, {5, 2}, {9, 66}, 0},
                           Form{"dropout", 2, 1, 4, true, {3, 20}, {}, 0.3f},
                           Form{"window", 2, 1, 4, true, {3, 0, 21, 68}, {}, 0, 5}}) {
    Problem p(form, DType::f64, seed += 10);
    p.forward();
    p.backward();
    const auto loss = [&] {
      p.forward();
      return dot(p.out, p.dout);
    };
    expect_gradient(p.q, p.dq, loss, text(form, "q"));
    expect_gradient(p.k, p.dk, loss, text(form, "k"));
    expect_gradient(p.v, p.dv, loss, text(form, "v"));
  }
  omp_set_num_threads(before);
}

TEST(SoftmaxAttention, QueriesWithoutKeysGiveZero) {
  Problem p({"", 2, 1, 8, false, {3, 2}, {0, 4}, 0}, DType::f32, 1);
  p.forward();
  p.backward();
  for (std::int64_t row = 0; row < 3; ++row) {
    for (std::int64_t c = 0; c < 16; ++c) {
      EXPECT_EQ(get(p.out, row, c), 0);
      EXPECT_EQ(get(p.dq, row, c), 0);
    }
    EXPECT_TRUE(std::isfinite(get(p.log_sum_exp, row, 0)));
  }
}

/// Scores of several hundred overflow exp unless the largest is taken off first.
TEST(SoftmaxAttention, LargeScoresStayFinite) {
  Problem p({"", 1, 1, 64, true, {200}, {}, 0}, DType::f32, 3);
  for (const Guarded* x : {&p.q, &p.k})
    each(*x, [&](auto row, auto column) { set(*x, row, column, get(*x, row, column) * 8); });
  p.scale = 1;
  p.forward();
  p.backward();
  // Plain loops again, on scores less their largest.
  std::vector<double> expected;
  for (std::int64_t i = 0; i < 200; ++i) {
    std::vector<double> scores;
    double top = -1e300, total = 0;
    for (std::int64_t j = 0; j <= i; ++j) {
      double score = 0;
      for (std::int64_t c = 0; c < 64; ++c) score += get(p.q, i, c) * get(p.k, j, c);
      scores.push_back(score);
      top = std::max(top, score);
    }
    for (double& score : scores) total += score = std::exp(score - top);
    for (std::int64_t c = 0; c < 64; ++c) {
      double sum = 0;
      for (std::int64_t j = 0; j <= i; ++j)
        sum += scores[static_cast<std::size_t>(j)] / total * get(p.v, j, c);
      expected.push_back(sum);
    }
  }
  // fp32 scores of a thousand are right to 1e-4, and so are their exponentials.
  expect_close(p.out, expected, "out", 1e-3);
  for (const Guarded* x : {&p.dq, &p.dk, &p.dv})
    for (double value : values(*x)) ASSERT_TRUE(std::isfinite(value));
}

TEST(SoftmaxAttention, NotANumberIsNotHidden) {
  Problem p({"", 1, 1, 8, true, {100}, {}, 0}, DType::f32, 4);
  set(p.k, 40, 3, std::nan(""));
  p.forward();
  EXPECT_TRUE(std::isfinite(get(p.out, 39, 0)));
  for (std::int64_t row = 40; row < 100; ++row) EXPECT_TRUE(std::isnan(get(p.out, row, 0)));
}

/// With one value column set to one, the output is the sum of the kept weights: 1 on average.
TEST(SoftmaxAttention, DropoutKeepsTheMean) {
  Problem p({"", 4, 4, 8, false, {200}, {150}, 0.2f}, DType::f64, 9);
  each(p.v, [&](auto row, auto column) { set(p.v, row, column, 1); });
  p.forward();
  double sum = 0, squares = 0;
  for (std::int64_t row = 0; row < 200; ++row)
    for (std::int64_t head = 0; head < 4; ++head) {
      const double kept = get(p.out, row, head * 8);
      sum += kept;
      squares += (kept - 1) * (kept - 1);
    }
  EXPECT_NEAR(sum / 800, 1, 0.01);
  EXPECT_GT(squares / 800, 1e-4);
}

/// Row ids, not places in memory, choose the mask: a batch cut in two draws the same one.
TEST(SoftmaxAttention, DropoutFollowsRowIds) {
  Problem whole({"", 2, 2, 8, true, {40, 50}, {}, 0.5f}, DType::f32, 20);
  whole.forward();
  Problem half({"", 2, 2, 8, true, {50}, {}, 0.5f}, DType::f32, 21);
  for (const auto& [to, from] :
       {std::pair{&half.q, &whole.q}, {&half.k, &whole.k}, {&half.v, &whole.v}})
    each(*to, [&](auto row, auto column) { set(*to, row, column, get(*from, row + 40, column)); });
  half.dropout.row_ids = whole.dropout.row_ids + 40;
  half.forward();
  EXPECT_EQ(values(half.out), values(whole.out.tensor().row_range(40, 90)));
  // Without row ids rows number themselves.
  std::vector<std::int64_t> own;
  for (std::int64_t row = 0; row < 50; ++row) own.push_back(row);
  half.dropout.row_ids = own.data();
  half.forward();
  const std::vector<double> numbered = values(half.out);
  half.dropout.row_ids = nullptr;
  half.forward();
  EXPECT_EQ(values(half.out), numbered);
}

/// Neither the number of threads nor the way backward is cut up for them changes a bit.
TEST(SoftmaxAttention, SameBitsWithAnyNumberOfThreads) {
  const int before = omp_get_max_threads();
  for (const Form& form : {Form{"one task", 2, 1, 24, true, {330}, {}, 0.1f},
                           Form{"cross", 4, 2, 16, false, {70, 200}, {333, 31}, 0},
                           Form{"last queries", 2, 1, 8, true, {170}, {301}, 0.1f},
                           Form{"many tasks", 6, 3, 16, true, {30, 0, 150, 65}, {}, 0}}) {
    std::vector<std::vector<double>> first;
    for (int threads : {1, 2, 5}) {
      omp_set_num_threads(threads);
      Problem p(form, DType::f32, 31);
      p.forward();
      p.backward();
      const std::vector<std::vector<double>> all{values(p.out), values(p.log_sum_exp), values(p.dq),
                                                 values(p.dk), values(p.dv)};
      if (first.empty()) first = all;
      EXPECT_EQ(all, first) << form.name << " with " << threads << " threads";
    }
  }
  omp_set_num_threads(before);
}

/// Decoding token by token gives what the forward pass over the whole sequence gives.
TEST(SoftmaxAttention, StepMatchesForward) {
  struct Sizes {
    std::int64_t heads, key_value_heads, head_dim, length, window;
  };
  for (const Sizes& size : {Sizes{2, 2, 8, 35, 0}, Sizes{4, 2, 64, 20, 0}, Sizes{8, 1, 80, 9, 0},
                            Sizes{3, 3, 5, 18, 0}, Sizes{2, 1, 20, 530, 0}, Sizes{4, 2, 8, 35, 7},
                            Sizes{2, 2, 20, 30, 1}, Sizes{2, 1, 20, 20, 64}})
    for (DType dtype : kAllDTypes) {
      const std::int64_t batch = 3, d = size.head_dim;
      const std::int64_t capacity = size.window ? size.window : size.length + 2;
      const std::vector<std::int64_t> delays{0, 4, 1};  // sequences start at different steps
      std::vector<std::int64_t> all_lengths(batch, size.length);
      Problem p({"", size.heads, size.key_value_heads, d, true, all_lengths, {}, 0, size.window},
                dtype, 40);
      p.forward();
      const Shape cache_shape{batch, size.key_value_heads, capacity, d};
      Guarded key_cache = poisoned(cache_shape, dtype, 6);
      Guarded value_cache = poisoned(cache_shape, dtype, 0);
      Guarded q(Shape{batch, size.heads * d}, dtype, 1),
          out(Shape{batch, size.heads * d}, dtype, 3);
      Guarded k(Shape{batch, size.key_value_heads * d}, dtype, 2), v(k.tensor().shape, dtype, 5);
      std::vector<double> decoded(static_cast<std::size_t>(p.out.tensor().size()));
      for (std::int64_t step = 0; step < size.length + 4; ++step) {
        // A sequence whose turn has not come, or is over, repeats its first or last token.
        std::vector<std::int64_t> lengths;
        for (std::int64_t b = 0; b < batch; ++b) {
          const std::int64_t place = std::clamp<std::int64_t>(
              step - delays[static_cast<std::size_t>(b)], 0, size.length - 1);
          lengths.push_back(place);
          const std::int64_t row = b * size.length + place;
          for (std::int64_t c = 0; c < size.heads * d; ++c) set(q, b, c, get(p.q, row, c));
          for (std::int64_t c = 0; c < size.key_value_heads * d; ++c) {
            set(k, b, c, get(p.k, row, c));
            set(v, b, c, get(p.v, row, c));
          }
        }
        softmax_attention_step({}, out, key_cache, value_cache, q, k, v, lengths.data(), p.shape,
                               p.scale);
        for (std::int64_t b = 0; b < batch; ++b)
          for (std::int64_t c = 0; c < size.heads * d; ++c)
            decoded[static_cast<std::size_t>(
                (b * size.length + lengths[static_cast<std::size_t>(b)]) * size.heads * d + c)] =
                get(out, b, c);
      }
      EXPECT_LE(relative_rms(decoded, values(p.out)), tolerance(dtype))
          << name_of(dtype) << " heads " << size.heads << " d " << d << " window " << size.window;
    }
}

TEST(SoftmaxAttention, RefusesWhatDoesNotFit) {
  Problem p({"", 2, 2, 8, true, {5, 6}, {}, 0}, DType::f32, 50);
  const auto forward = [&](const AttentionShape& shape, const Segments& keys) {
    softmax_attention_forward({}, p.out, p.log_sum_exp, p.q, p.k, p.v, p.queries, keys, shape, 1,
                              {});
  };
  EXPECT_THROW(forward({3, 2, 8, true}, p.keys), Error);
  EXPECT_THROW(forward({2, 1, 8, true}, p.keys), Error);
  EXPECT_THROW(forward({2, 2, 8, true}, Segments{1, p.keys.offsets}), Error);
  const std::vector<std::int64_t> other{0, 4, 11};
  EXPECT_THROW(forward({2, 2, 8, true}, Segments{2, other.data()}), Error);

  Guarded cache = poisoned({2, 2, 4, 8}, DType::f32), values = poisoned({2, 2, 4, 8}, DType::f32);
  const Tensor q = p.q.tensor().row_range(0, 2), k = p.k.tensor().row_range(0, 2);
  const std::vector<std::int64_t> lengths{0, 4};
  EXPECT_THROW(softmax_attention_step({}, p.out.tensor().row_range(0, 2), cache, values, q, k, k,
                                      lengths.data(), p.shape, 1),
               Error);
}

}  // namespace
}  // namespace t2r::test
