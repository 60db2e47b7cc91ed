// Decoding of translation models step by step against their parallel form, and beam search against
// trying everything.
#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/model/beam_search.h"
#include "core/model/translation_decoder.h"
#include "tests/model/tiny.h"

namespace t2r {
namespace {

using testing::logits_of;
using testing::tiny_model;
using testing::TinyRows;
using testing::translate;
using testing::translation_models;
using testing::Variant;

using Tokens = std::vector<std::int32_t>;

/// The logits after each token of `target`, given `source`, in parallel form.
std::vector<double> parallel_logits(Transformer& model, const Tokens& source,
                                    const Tokens& target) {
  TokenRowsBuffer target_rows, source_rows;
  target_rows.add(target);
  source_rows.add(source);
  Batch batch;
  static_cast<TokenRows&>(batch) = target_rows.rows();
  batch.source = source_rows.rows();
  return logits_of(model, batch);
}

Tokens random_tokens(std::int64_t length, std::int64_t vocab, std::uint64_t seed) {
  Tokens tokens;
  for (std::int64_t i = 0; i < length; ++i)
    tokens.push_back(
        static_cast<std::int32_t>(random_bits(seed, 9, static_cast<std::uint64_t>(i))[0] % vocab));
  return tokens;
}

TEST(TranslationModel, EveryTargetTokenSeesTheWholeSourceAndNoLaterTarget) {
  for (const Variant& variant : translation_models()) {
    SCOPED_TRACE(variant.name);
    const auto model = tiny_model(variant.config, DType::f64, TrainedPart::nothing);
    const auto vocab = static_cast<std::size_t>(variant.config.vocab_size);
    const Tokens source = random_tokens(6, variant.config.source_vocabulary(), 1);
    const Tokens target = random_tokens(5, variant.config.vocab_size, 2);
    const auto logits = parallel_logits(*model, source, target);
    const auto first_row_differs = [&](const Tokens& other_source) {
      const auto other = parallel_logits(*model, other_source, target);
      return !std::equal(other.begin(), other.begin() + static_cast<std::ptrdiff_t>(vocab),
                         logits.begin());
    };
    for (std::size_t place = 0; place < source.size(); ++place) {
      Tokens other = source;
      other[place] =
          static_cast<std::int32_t>((other[place] + 1) % variant.config.source_vocabulary());
      EXPECT_TRUE(first_row_differs(other)) << "source token " << place << " is not seen";
    }
    // And its order.
    Tokens turned = source;
    std::swap(turned[0], turned[1]);
    if (turned[0] != turned[1]) {
      EXPECT_TRUE(first_row_differs(turned));
    }
    for (std::size_t place = 1; place < target.size(); ++place) {
      Tokens other = target;
      other[place] = static_cast<std::int32_t>((other[place] + 1) % variant.config.vocab_size);
      const auto changed = parallel_logits(*model, source, other);
      for (std::size_t i = 0; i < place * vocab; ++i)
        ASSERT_EQ(changed[i], logits[i]) << "row " << i / vocab << " sees target token " << place;
      EXPECT_NE(changed[place * vocab], logits[place * vocab]);
    }
  }
}

TEST(TranslationModel, TheEncoderLooksBothWays) {
  for (const Variant& variant : translation_models()) {
    SCOPED_TRACE(variant.name);
    const auto model = tiny_model(variant.config, DType::f64, TrainedPart::nothing);
    TinyRows rows;
    rows.add(5, variant.config.source_vocabulary(), 1, 1);
    rows.add(3, variant.config.source_vocabulary(), 1, 1);
    const auto first_output = [&](std::size_t row) {
      testing::Workspace work;
      const Memory memory = model->encode(work.step, rows.part(0, 2));
      const std::int64_t hidden = variant.config.hidden_size;
      const double* values = memory.values.as<double>() + static_cast<std::int64_t>(row) * hidden;
      return std::vector<double>(values, values + hidden);
    };
    const auto before = first_output(0), neighbour = first_output(5);
    rows.inputs[4] =
        static_cast<std::int32_t>((rows.inputs[4] + 1) % variant.config.source_vocabulary());
    EXPECT_NE(first_output(0), before) << "the last token is not seen by the first";
    EXPECT_EQ(first_output(5), neighbour) << "another sentence is seen";
  }
}

TEST(TranslationDecoder, StepsEqualTheParallelFormThroughReorderings) {
  for (const Variant& variant : translation_models()) {
    SCOPED_TRACE(variant.name);
    const auto model = tiny_model(variant.config, DType::f64, TrainedPart::nothing);
    const std::int64_t vocab = variant.config.vocab_size, beams = 3;
    std::vector<Tokens> sources;
    TinyRows rows;
    for (std::int64_t length : {5, 1, 8, 3}) {
      rows.add(length, variant.config.source_vocabulary(), 4, 7);
      sources.emplace_back(rows.inputs.end() - length, rows.inputs.end());
    }
    TranslationDecoder decoder(*model);
    decoder.begin(rows.part(0, 4), beams, 12);
    std::vector<Tokens> targets(12);
    std::vector<std::size_t> source_of_row;
    for (std::size_t s = 0; s < 4; ++s) source_of_row.insert(source_of_row.end(), 3, s);
    for (std::uint64_t t = 0; t < 9; ++t) {
      Tokens next;
      for (std::size_t r = 0; r < targets.size(); ++r) {
        next.push_back(static_cast<std::int32_t>(random_bits(t, 3, r)[0] % vocab));
        targets[r].push_back(next.back());
      }
      const Tensor logits = decoder.step(next);
      for (std::size_t r = 0; r < targets.size(); ++r) {
        const auto all = parallel_logits(*model, sources[source_of_row[r]], targets[r]);
        for (std::int64_t v = 0; v < vocab; ++v)
          ASSERT_NEAR(logits.as<double>()[static_cast<std::int64_t>(r) * vocab + v],
                      all[all.size() - static_cast<std::size_t>(vocab - v)], 1e-10)
              << "token " << t << " row " << r;
      }
      // Some row of each source is replaced by another of it.
      std::vector<std::int64_t> parents(targets.size());
      std::iota(parents.begin(), parents.end(), 0);
      for (std::size_t first = 0; first < targets.size(); first += 3) {
        parents[first + t % 3] = static_cast<std::int64_t>(first + (t + 1) % 3);
        targets[first + t % 3] = targets[first + (t + 1) % 3];
      }
      decoder.take(parents);
      if (t == 3 || t == 6) {  // and sources leave
        const std::vector<std::int64_t> keep =
            t == 3 ? std::vector<std::int64_t>{0, 2, 3} : std::vector<std::int64_t>{1, 2};
        decoder.keep(keep);
        std::vector<Tokens> kept;
        std::vector<std::size_t> kept_source;
        for (std::int64_t s : keep)
          for (std::int64_t b = 0; b < beams; ++b) {
            kept.push_back(targets[static_cast<std::size_t>(s * beams + b)]);
            kept_source.push_back(source_of_row[static_cast<std::size_t>(s * beams + b)]);
          }
        targets = kept;
        source_of_row = kept_source;
        EXPECT_EQ(decoder.rows(), std::ssize(targets));
      }
    }
    const std::vector<std::int64_t> bad{1, 2, 2, 3, 4, 5};
    EXPECT_THROW(decoder.take(bad), Error);
  }
}

TEST(TranslationDecoder, RecurrentStateDoesNotGrow) {
  const Variant t2r = translation_models()[3], softmax = translation_models()[0];
  ASSERT_EQ(t2r.name, "translation_t2r");
  for (const Variant& variant : {t2r, softmax}) {
    const auto model = tiny_model(variant.config, DType::f32, TrainedPart::nothing);
    TinyRows rows;
    rows.add(6, variant.config.source_vocabulary(), 1, 1);
    TranslationDecoder decoder(*model);
    decoder.begin(rows.part(0, 1), 2, 12);
    decoder.step(Tokens{1, 2});
    const std::int64_t early = decoder.state_bytes();
    for (int i = 0; i < 5; ++i) decoder.step(Tokens{1, 2});
    if (variant.name == t2r.name)
      EXPECT_EQ(decoder.state_bytes(), early);
    else
      EXPECT_GT(decoder.state_bytes(), early);
  }
}

/// A tiny vocabulary: bos 0, eos 1.
ModelConfig tiny_vocabulary(const Variant& variant) {
  ModelConfig config = variant.config;
  config.vocab_size = 5;
  if (config.source_vocab_size) config.source_vocab_size = 7;
  return config;
}

BeamSearchOptions tiny_options(std::int64_t beam) {
  BeamSearchOptions options;
  options.beam = options.n_best = beam;
  options.max_length_a = 0;
  options.max_length_b = 3;
  options.bos = 0;
  options.eos = 1;
  return options;
}

/// Every target of at most `longest` tokens, best first.
std::vector<Hypothesis> everything(Transformer& model, const Tokens& source, std::int64_t longest,
                                   double alpha) {
  std::vector<Hypothesis> all;
  std::vector<Hypothesis> open{Hypothesis{}};
  const auto vocab = static_cast<std::size_t>(model.config().vocab_size);
  while (!open.empty()) {
    std::vector<Hypothesis> next;
    for (const Hypothesis& prefix : open) {
      Tokens fed{0};
      fed.insert(fed.end(), prefix.tokens.begin(), prefix.tokens.end());
      const auto logits = parallel_logits(model, source, fed);
      const double* last = logits.data() + (fed.size() - 1) * vocab;
      double sum = 0;
      for (std::size_t v = 0; v < vocab; ++v) sum += std::exp(last[v]);
      for (std::size_t v = 0; v < vocab; ++v) {
        Hypothesis longer = prefix;
        longer.log_probability += last[v] - std::log(sum);
        if (v == 1) {
          longer.score = longer.log_probability /
                         std::pow((5.0 + static_cast<double>(prefix.tokens.size()) + 1) / 6, alpha);
          all.push_back(longer);
        } else if (std::ssize(prefix.tokens) < longest) {
          longer.tokens.push_back(static_cast<std::int32_t>(v));
          next.push_back(longer);
        }
      }
    }
    open = next;
  }
  std::sort(all.begin(), all.end(),
            [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
  return all;
}

TEST(BeamSearch, WithAWideBeamFindsWhatTryingEverythingFinds) {
  for (const Variant& variant : translation_models())
    for (std::uint64_t seed : {1, 2})
      for (double alpha : {0.0, 0.6, 2.0}) {
        SCOPED_TRACE(fmt::format("{} seed {} alpha {}", variant.name, seed, alpha));
        const ModelConfig config = tiny_vocabulary(variant);
        const auto model = tiny_model(config, DType::f64, TrainedPart::nothing, seed);
        const Tokens source = random_tokens(4, config.source_vocabulary(), seed);
        BeamSearchOptions options = tiny_options(5);
        options.length_penalty = alpha;
        // Targets of one token: all five fit into the beam, so the list is complete. Of two: the
        // best one is found.
        for (std::int64_t longest : {1, 2}) {
          options.max_length_b = longest;
          const auto expected = everything(*model, source, longest, alpha);
          const auto found = translate(*model, {source}, options);
          ASSERT_EQ(found.size(), 1u);
          ASSERT_EQ(std::ssize(found[0]), 5);
          for (std::size_t i = 0; i < (longest == 1 ? 5u : 1u); ++i) {
            EXPECT_EQ(found[0][i].tokens, expected[i].tokens) << i;
            EXPECT_NEAR(found[0][i].score, expected[i].score, 1e-9) << i;
          }
          for (std::size_t i = 1; i < found[0].size(); ++i)
            EXPECT_LE(found[0][i].score, found[0][i - 1].score);
        }
      }
}

TEST(BeamSearch, ScoresAreThoseOfTheirTokens) {
  for (const Variant& variant : translation_models()) {
    SCOPED_TRACE(variant.name);
    const auto model = tiny_model(variant.config, DType::f64, TrainedPart::nothing);
    const Tokens source = random_tokens(6, variant.config.source_vocabulary(), 8);
    BeamSearchOptions options = tiny_options(6);
    options.max_length_b = 7;
    const auto vocab = static_cast<std::size_t>(variant.config.vocab_size);
    const auto found = translate(*model, {source}, options);
    ASSERT_EQ(found[0].size(), 6u);
    for (const Hypothesis& hypothesis : found[0]) {
      Tokens fed{options.bos}, wanted = hypothesis.tokens;
      fed.insert(fed.end(), hypothesis.tokens.begin(), hypothesis.tokens.end());
      wanted.push_back(options.eos);
      const auto logits = parallel_logits(*model, source, fed);
      double sum = 0;
      for (std::size_t i = 0; i < wanted.size(); ++i) {
        const double* row = logits.data() + i * vocab;
        double total = 0;
        for (std::size_t v = 0; v < vocab; ++v) total += std::exp(row[v]);
        sum += row[wanted[i]] - std::log(total);
      }
      EXPECT_NEAR(hypothesis.log_probability, sum, 1e-9);
      EXPECT_NEAR(hypothesis.score,
                  sum / length_penalty(std::ssize(wanted), options.length_penalty), 1e-9);
    }
  }
}

TEST(BeamSearch, GreedyTakesTheLikeliestTokenEachTime) {
  for (const Variant& variant : translation_models()) {
    const auto model = tiny_model(variant.config, DType::f64, TrainedPart::nothing);
    const Tokens source = random_tokens(6, variant.config.source_vocabulary(), 3);
    BeamSearchOptions options = tiny_options(1);
    options.max_length_b = 8;
    const Hypothesis found = translate(*model, {source}, options)[0][0];
    Tokens fed{0};
    double sum = 0;
    const auto vocab = static_cast<std::size_t>(variant.config.vocab_size);
    for (;;) {
      const auto logits = parallel_logits(*model, source, fed);
      const double* last = logits.data() + (fed.size() - 1) * vocab;
      double total = 0;
      for (std::size_t v = 0; v < vocab; ++v) total += std::exp(last[v]);
      auto best = static_cast<std::size_t>(std::max_element(last, last + vocab) - last);
      if (fed.size() == 9) best = 1;
      sum += last[best] - std::log(total);
      if (best == 1) break;
      fed.push_back(static_cast<std::int32_t>(best));
    }
    EXPECT_EQ(found.tokens, Tokens(fed.begin() + 1, fed.end())) << variant.name;
    EXPECT_NEAR(found.log_probability, sum, 1e-9) << variant.name;
  }
}

TEST(BeamSearch, NeighboursAndThreadsChangeNothing) {
  for (const Variant& variant : translation_models()) {
    SCOPED_TRACE(variant.name);
    const auto model = tiny_model(variant.config, DType::f64, TrainedPart::nothing);
    std::vector<Tokens> sources;
    for (std::int64_t i = 0; i < 9; ++i)
      sources.push_back(random_tokens(i * 5 % 9, variant.config.source_vocabulary(),
                                      static_cast<std::uint64_t>(i)));
    BeamSearchOptions options = tiny_options(4);
    options.max_length_a = 1;
    options.max_length_b = 2;
    const auto together = translate(*model, sources, options);
    const int threads = omp_get_max_threads();
    omp_set_num_threads(3);
    const auto threaded = translate(*model, sources, options);
    omp_set_num_threads(threads);
    TranslationDecoder decoder(*model);  // used again and again
    for (std::size_t i = 0; i < sources.size(); ++i) {
      const auto alone =
          t2r::translate(decoder, {sources[i]}, options, std::vector{std::uint64_t{i}});
      ASSERT_EQ(alone[0].size(), together[i].size());
      for (std::size_t n = 0; n < alone[0].size(); ++n) {
        EXPECT_EQ(alone[0][n].tokens, together[i][n].tokens);
        EXPECT_EQ(threaded[i][n].tokens, together[i][n].tokens);
        EXPECT_NEAR(alone[0][n].score, together[i][n].score, 1e-9);
      }
    }
    EXPECT_TRUE(together[0][0].tokens.empty()) << "an empty source has an empty translation";

    options.sampling = {.temperature = 1, .seed = 3};
    const auto drawn = translate(*model, sources, options);
    bool differs = false;
    for (std::size_t i = 0; i < sources.size(); ++i) {
      EXPECT_EQ(translate(*model, {sources[i]}, options, i)[0][0].tokens, drawn[i][0].tokens);
      differs |= drawn[i][0].tokens != together[i][0].tokens;
    }
    EXPECT_TRUE(differs);
  }
}

TEST(BeamSearch, AStrongPenaltyOfShortTargetsGivesLongerOnes) {
  std::size_t without = 0, with = 0;
  const auto model = tiny_model(translation_models()[1].config, DType::f64, TrainedPart::nothing);
  double* bias = model->params().value(model->params().find("lm_head.bias")).as<double>();
  const double kept = bias[1];
  for (std::uint64_t seed = 0; seed < 24; ++seed) {
    const Tokens source = random_tokens(6, model->config().source_vocabulary(), seed);
    bias[1] = kept - 2 + 0.25 * static_cast<double>(seed % 12);  // from long targets to short ones
    BeamSearchOptions options = tiny_options(5);
    options.max_length_b = 9;
    options.length_penalty = 0;
    without += translate(*model, {source}, options)[0][0].tokens.size();
    options.length_penalty = 3;
    with += translate(*model, {source}, options)[0][0].tokens.size();
  }
  EXPECT_GT(with, without);
  EXPECT_NEAR(length_penalty(7, 0.6), std::pow(2.0, 0.6), 1e-15);
}

TEST(BeamSearch, UsageErrors) {
  const auto model = tiny_model(translation_models()[0].config, DType::f32, TrainedPart::nothing);
  const auto refuses = [&](const BeamSearchOptions& options, const Tokens& source) {
    EXPECT_THROW(translate(*model, {source}, options), Error);
  };
  const Tokens source{2, 3};
  BeamSearchOptions options = tiny_options(14);
  refuses(options, source);  // more than the vocabulary of 13
  options = tiny_options(0);
  refuses(options, source);
  options = tiny_options(2);
  options.n_best = 3;
  refuses(options, source);
  options = tiny_options(2);
  refuses(options, Tokens(17, 2));  // 16 positions
  options.max_length_b = 0;
  refuses(options, source);
  const auto language_model =
      tiny_model(testing::language_models()[0].config, DType::f32, TrainedPart::nothing);
  EXPECT_THROW(TranslationDecoder decoder(*language_model), Error);
}

}  // namespace
}  // namespace t2r
