// Beam search against a plain one that never stops early and feeds whole prefixes, against trying
// everything, and against numbers worked out by hand.
#include "core/model/beam_search.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "tests/model/tiny.h"

namespace t2r {
namespace {

using testing::logits_of;
using testing::tiny_model;
using testing::translate;
using testing::translation_models;
using testing::Variant;

using Tokens = std::vector<std::int32_t>;
constexpr std::int32_t kBos = 0, kEos = 1;

/// Natural log-probabilities of what follows bos and each prefix: all in one batch, no states.
std::vector<std::vector<double>> next_of(Transformer& model, const Tokens& source,
                                         const std::vector<Hypothesis>& prefixes) {
  TokenRowsBuffer target, sources;
  for (const Hypothesis& prefix : prefixes) {
    Tokens fed{kBos};
    fed.insert(fed.end(), prefix.tokens.begin(), prefix.tokens.end());
    target.add(fed);
    sources.add(source);
  }
  Batch batch;
  static_cast<TokenRows&>(batch) = target.rows();
  batch.source = sources.rows();
  const std::vector<double> logits = logits_of(model, batch);
  const std::int64_t vocab = model.config().vocab_size;
  std::vector<std::vector<double>> result;
  for (std::size_t i = 0; i < prefixes.size(); ++i) {
    const double* row = logits.data() + (target.offsets()[i + 1] - 1) * vocab;
    const double most = *std::max_element(row, row + vocab);
    double total = 0;
    for (std::int64_t v = 0; v < vocab; ++v) total += std::exp(row[v] - most);
    result.emplace_back(row, row + vocab);
    for (double& x : result.back()) x -= most + std::log(total);
  }
  return result;
}

Hypothesis longer(const Hypothesis& prefix, std::size_t token, double log_probability) {
  Hypothesis result = prefix;
  result.tokens.push_back(static_cast<std::int32_t>(token));
  result.log_probability += log_probability;
  return result;
}

/// `prefix` and eos, scored.
Hypothesis ended(const Hypothesis& prefix, double log_probability, double alpha) {
  Hypothesis result = prefix;
  result.log_probability += log_probability;
  const double length = static_cast<double>(prefix.tokens.size()) + 1;
  result.score = result.log_probability / std::pow((5 + length) / 6, alpha);
  return result;
}

void best_first(std::vector<Hypothesis>& list, std::size_t count) {
  std::stable_sort(list.begin(), list.end(),
                   [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
  if (list.size() > count) list.resize(count);
}

/// Beam search as one would write it down, to the greatest length whatever has been found.
std::vector<Hypothesis> plain_search(Transformer& model, const Tokens& source, std::size_t beam,
                                     std::int64_t longest, double alpha) {
  std::vector<Hypothesis> open{Hypothesis{}}, done;
  for (std::int64_t length = 0; length <= longest; ++length) {
    const auto next = next_of(model, source, open);
    struct Choice {
      double log_probability;
      std::size_t parent, token;
    };
    std::vector<Choice> choices;
    for (std::size_t p = 0; p < open.size(); ++p)
      for (std::size_t v = 0; v < next[p].size(); ++v)
        if (v == kEos || length < longest)
          choices.push_back({open[p].log_probability + next[p][v], p, v});
    std::sort(choices.begin(), choices.end(), [](const Choice& a, const Choice& b) {
      return a.log_probability > b.log_probability;
    });
    std::vector<Hypothesis> following;
    for (const Choice& choice : choices) {
      if (following.size() == beam) break;
      const double log_probability = next[choice.parent][choice.token];
      if (choice.token == kEos)
        done.push_back(ended(open[choice.parent], log_probability, alpha));
      else
        following.push_back(longer(open[choice.parent], choice.token, log_probability));
    }
    open = following;
  }
  best_first(done, beam);
  return done;
}

/// Every target of at most `longest` of the tokens `used`, the best `count` of them.
std::vector<Hypothesis> everything(Transformer& model, const Tokens& source, const Tokens& used,
                                   std::int64_t longest, double alpha, std::size_t count) {
  std::vector<Hypothesis> open{Hypothesis{}}, done;
  for (std::int64_t length = 0; length <= longest; ++length) {
    const auto next = next_of(model, source, open);
    std::vector<Hypothesis> following;
    for (std::size_t p = 0; p < open.size(); ++p) {
      done.push_back(ended(open[p], next[p][kEos], alpha));
      for (const std::int32_t token : used) {
        const auto v = static_cast<std::size_t>(token);
        following.push_back(longer(open[p], v, next[p][v]));
      }
    }
    open = following;
  }
  best_first(done, count);
  return done;
}

Tokens random_source(std::int64_t length, const ModelConfig& config, std::uint64_t seed) {
  Tokens tokens;
  for (std::int64_t i = 0; i < length; ++i)
    tokens.push_back(static_cast<std::int32_t>(
        2 + random_bits(seed, 11, static_cast<std::uint64_t>(i))[0] %
                static_cast<std::uint64_t>(config.source_vocabulary() - 2)));
  return tokens;
}

BeamSearchOptions options_of(std::int64_t beam, std::int64_t longest, double alpha) {
  BeamSearchOptions options;
  options.beam = options.n_best = beam;
  options.length_penalty = alpha;
  options.max_length_a = 0;
  options.max_length_b = longest;
  options.bos = kBos;
  options.eos = kEos;
  return options;
}

double* output_bias(Transformer& model) {
  return model.params().value(model.params().find("lm_head.bias")).as<double>();
}

void expect_same(const std::vector<Hypothesis>& found, const std::vector<Hypothesis>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (std::size_t i = 0; i < found.size(); ++i) {
    EXPECT_EQ(found[i].tokens, expected[i].tokens) << "hypothesis " << i;
    EXPECT_NEAR(found[i].log_probability, expected[i].log_probability, 1e-9) << i;
    EXPECT_NEAR(found[i].score, expected[i].score, 1e-9) << i;
  }
}

TEST(BeamSearch, EqualsAPlainSearchThatNeverStopsEarly) {
  for (const Variant& variant : translation_models())
    for (std::uint64_t seed : {1, 2, 3}) {
      ModelConfig config = variant.config;
      config.output_bias = true;
      const auto model = tiny_model(config, DType::f64, TrainedPart::nothing, seed);
      // From targets that end at once to ones that hardly ever end.
      output_bias(*model)[kEos] += 2.0 - static_cast<double>(seed);
      std::vector<Tokens> sources;
      for (std::int64_t length : {4, 1, 9, 6})
        sources.push_back(
            random_source(length, config, seed * 10 + static_cast<std::uint64_t>(length)));
      for (std::int64_t beam : {1, 2, 5, 13})
        for (double alpha : {-0.5, 0.0, 0.6, 2.0}) {
          const auto found = translate(*model, sources, options_of(beam, 7, alpha));
          for (std::size_t s = 0; s < sources.size(); ++s) {
            SCOPED_TRACE(fmt::format("{} seed {} beam {} alpha {} source {}", variant.name, seed,
                                     beam, alpha, s));
            expect_same(found[s],
                        plain_search(*model, sources[s], static_cast<std::size_t>(beam), 7, alpha));
          }
        }
    }
}

/// A beam is no wider than the vocabulary, so all prefixes fit into it only where most of the
/// vocabulary is ruled out, here by the bias of the output.
TEST(BeamSearch, ABeamThatHoldsEveryPrefixFindsEverything) {
  struct Case {
    Tokens used;
    std::int64_t longest, vocab;
  };
  for (const Case& c : {Case{{3, 8}, 5, 40}, Case{{2, 5, 9}, 4, 90}})
    for (const Variant& variant : translation_models())
      for (std::uint64_t seed : {1, 2, 3})
        for (double alpha : {0.0, 0.6, 2.0}) {
          SCOPED_TRACE(fmt::format("{} {} tokens seed {} alpha {}", variant.name, c.used.size(),
                                   seed, alpha));
          ModelConfig config = variant.config;
          config.vocab_size = c.vocab;
          config.output_bias = true;
          const auto model = tiny_model(config, DType::f64, TrainedPart::nothing, seed);
          for (std::int64_t v = 0; v < c.vocab; ++v)
            if (v != kEos && std::count(c.used.begin(), c.used.end(), v) == 0)
              output_bias(*model)[v] = -1e4;
          const Tokens source = random_source(5, config, seed);
          const auto found = translate(*model, {source}, options_of(c.vocab, c.longest, alpha))[0];
          expect_same(found, everything(*model, source, c.used, c.longest, alpha,
                                        static_cast<std::size_t>(c.vocab)));
        }
}

/// A model whose next token never depends on anything: those given have their probabilities, the
/// others share the rest.
std::unique_ptr<Transformer> constant_model(const std::map<std::int32_t, double>& given) {
  const Variant variant = translation_models()[1];
  EXPECT_EQ(variant.name, "translation_untied");
  auto model = tiny_model(variant.config, DType::f64, TrainedPart::nothing);
  const Tensor weight = model->params().value(model->params().find("lm_head.weight"));
  std::fill_n(weight.as<double>(), weight.size(), 0.0);
  double rest = 1;
  for (const auto& [token, probability] : given) rest -= probability;
  const std::int64_t vocab = variant.config.vocab_size;
  std::fill_n(output_bias(*model), vocab,
              std::log(rest / static_cast<double>(vocab - std::ssize(given))));
  for (const auto& [token, probability] : given) output_bias(*model)[token] = std::log(probability);
  return model;
}

TEST(BeamSearch, TheLengthPenaltyOrdersAsWorkedOutByHand) {
  // n times token 4, then eos: n ln 0.69 + ln 0.3 = -1.203973, -1.575036, -1.946100, -2.317163.
  const auto model = constant_model({{4, 0.69}, {kEos, 0.3}});
  struct Row {
    double alpha;
    std::vector<std::size_t> lengths;
    std::vector<double> scores;
  };
  for (const Row& row : {
           // Nothing divided: the shorter the better.
           Row{0, {0, 1, 2, 3}, {-1.203973, -1.575036, -1.946100, -2.317163}},
           // Divided by 1, 7/6, 8/6, 9/6: still so.
           Row{1, {0, 1, 2, 3}, {-1.203973, -1.350031, -1.459575, -1.544776}},
           // By 1, 49/36, 64/36, 81/36: the other way round.
           Row{2, {3, 2, 1, 0}, {-1.029850, -1.094681, -1.157169, -1.203973}},
       }) {
    SCOPED_TRACE(row.alpha);
    const auto found = translate(*model, {{2, 3, 4}}, options_of(4, 3, row.alpha))[0];
    ASSERT_EQ(found.size(), 4u);
    for (std::size_t i = 0; i < 4; ++i) {
      EXPECT_EQ(found[i].tokens, Tokens(row.lengths[i], 4)) << i;
      EXPECT_NEAR(found[i].score, row.scores[i], 2e-6) << i;
    }
  }
}

TEST(BeamSearch, TheSearchWaitsForWhatCanStillBecomeBetter) {
  const auto expect = [](const std::vector<Hypothesis>& found, const std::vector<Tokens>& tokens,
                         const std::vector<double>& scores) {
    ASSERT_EQ(found.size(), tokens.size());
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i].tokens, tokens[i]) << i;
      EXPECT_NEAR(found[i].score, scores[i], 2e-6) << i;
    }
  };
  // A strong penalty: after two tokens the prefix, 2 ln 0.3 / (8/6)^3 = -1.016, looks worse than
  // the second of two finished, (ln 0.3 + ln 0.69) / (7/6)^3 = -0.992, but 14 tokens beat that:
  // (14 ln 0.3 + ln 0.69) / (20/6)^3.
  const auto ending = constant_model({{4, 0.3}, {kEos, 0.69}});
  expect(translate(*ending, {{2, 3}}, options_of(2, 14, 3))[0], {{}, Tokens(14, 4)},
         {-0.371064, -0.465120});
  // A negative one, which favours short targets: 4 4 takes the place of 5, finished before it, with
  // 8/6 (2 ln 0.4 + ln 0.52) against 7/6 (ln 0.07 + ln 0.52) = -3.865. Only the bound of a target
  // that ends at once holds here; that of the longest, 20/6 * 2 ln 0.4 = -6.1, would stop.
  const auto mixed = constant_model({{4, 0.4}, {5, 0.07}, {kEos, 0.52}});
  expect(translate(*mixed, {{2, 3}}, options_of(3, 14, -1))[0], {{}, {4}, {4, 4}},
         {-0.653926, -1.831920, -3.315343});
}

TEST(BeamSearch, TiesGoToTheLowerTokenAndNoHypothesisComesTwice) {
  const auto model = constant_model({{kEos, 0.3}});  // the others are equally likely
  BeamSearchOptions options = options_of(5, 1, 0.0);
  const auto found = translate(*model, {{2, 3}}, options)[0];
  ASSERT_EQ(found.size(), 5u);
  EXPECT_TRUE(found[0].tokens.empty());
  const std::int32_t expected[] = {0, 2, 3, 4};  // 1 is eos
  for (std::size_t i = 1; i < 5; ++i) EXPECT_EQ(found[i].tokens, Tokens{expected[i - 1]}) << i;

  options.max_length_b = 6;
  options.length_penalty = 2;
  std::set<Tokens> distinct;
  const auto longer_ones = translate(*model, {{2, 3}}, options)[0];
  for (const Hypothesis& hypothesis : longer_ones) distinct.insert(hypothesis.tokens);
  EXPECT_EQ(distinct.size(), 5u);
}

/// In sizes at which the kernels share rows out among threads.
TEST(BeamSearch, ThreadsDoNotChangeABit) {
  for (const Variant& variant : translation_models())
    for (DType dtype : {DType::f64, DType::f32}) {
      SCOPED_TRACE(fmt::format("{} {}", variant.name, name_of(dtype)));
      ModelConfig config = variant.config;
      config.vocab_size = 1500;
      const auto model = tiny_model(config, dtype, TrainedPart::nothing);
      std::vector<Tokens> sources;
      for (std::int64_t i = 0; i < 12; ++i)
        sources.push_back(random_source(i % 5 + 1, config, static_cast<std::uint64_t>(i)));
      const BeamSearchOptions options = options_of(4, 9, 0.6);
      const int threads = omp_get_max_threads();
      omp_set_num_threads(1);
      const auto one = translate(*model, sources, options);
      omp_set_num_threads(4);
      const auto four = translate(*model, sources, options);
      omp_set_num_threads(threads);
      for (std::size_t s = 0; s < sources.size(); ++s) {
        ASSERT_EQ(one[s].size(), four[s].size());
        for (std::size_t i = 0; i < one[s].size(); ++i) {
          EXPECT_EQ(one[s][i].tokens, four[s][i].tokens);
          EXPECT_EQ(one[s][i].score, four[s][i].score);
        }
      }
    }
}

TEST(BeamSearch, LengthsFollowTheSourceAndThePositions) {
  const auto model = constant_model({{4, 0.69}, {kEos, 0.3}});
  output_bias(*model)[kEos] = -1e4;  // only the limit ends a target
  BeamSearchOptions options = options_of(1, 2, 0.6);
  options.max_length_a = 1.5;
  const auto found = translate(*model, {{2, 3, 4, 5}, {2}, Tokens(16, 3)}, options);
  EXPECT_EQ(found[0][0].tokens.size(), 8u);   // 1.5 * 4 + 2
  EXPECT_EQ(found[1][0].tokens.size(), 4u);   // 1.5 + 2, rounded up
  EXPECT_EQ(found[2][0].tokens.size(), 15u);  // 16 positions hold bos and 15 tokens
}

/// Draws from logits in parallel form, by the same keys.
Hypothesis plain_sample(Transformer& model, const Tokens& source, const SamplingOptions& sampling,
                        std::uint64_t number, std::int64_t longest) {
  Hypothesis result;
  for (std::uint64_t position = 0;; ++position) {
    std::vector<double> next = next_of(model, source, {result})[0];
    const Tensor logits(next.data(), Shape{1, std::ssize(next)}, DType::f64);
    const bool last = std::ssize(result.tokens) == longest;
    const auto token =
        static_cast<std::size_t>(last ? kEos : sample_token(logits, 0, sampling, number, position));
    if (token == kEos) return ended(result, next[token], 0.6);
    result = longer(result, token, next[token]);
  }
}

TEST(BeamSearch, DrawsEqualThoseFromTheParallelForm) {
  for (const Variant& variant : translation_models()) {
    ModelConfig config = variant.config;
    config.output_bias = true;
    const auto model = tiny_model(config, DType::f64, TrainedPart::nothing);
    output_bias(*model)[kEos] += 0.5;  // so that lengths differ and some sources end early
    std::vector<Tokens> sources;
    for (std::int64_t i = 0; i < 8; ++i)
      sources.push_back(random_source(i % 4 + 2, config, static_cast<std::uint64_t>(i)));
    sources[3].clear();
    BeamSearchOptions options = options_of(1, 9, 0.6);
    for (const SamplingOptions& sampling :
         {SamplingOptions{.temperature = 1, .seed = 5},
          SamplingOptions{.temperature = 1.5, .top_k = 6, .seed = 6},
          SamplingOptions{.temperature = 0.9, .top_p = 0.8, .seed = 7}}) {
      SCOPED_TRACE(fmt::format("{} seed {}", variant.name, sampling.seed));
      options.sampling = sampling;
      const auto found = translate(*model, sources, options, 100);
      for (std::size_t s = 0; s < sources.size(); ++s)
        expect_same(found[s],
                    {sources[s].empty() ? Hypothesis{}
                                        : plain_sample(*model, sources[s], sampling, 100 + s, 9)});
    }
  }
}

TEST(BeamSearch, APenaltyThatIsNoNumberIsWrongUsage) {
  const auto model = tiny_model(translation_models()[0].config, DType::f32, TrainedPart::nothing);
  for (double bad : {std::nan(""), std::numeric_limits<double>::infinity()})
    EXPECT_THROW(translate(*model, {{2, 3}}, options_of(2, 3, bad)), Error) << bad;
}

}  // namespace
}  // namespace t2r
