// Updates of sentence pairs: every pair once an epoch, the same for any number of ranks.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <set>

#include "core/base/random.h"
#include "data/loader.h"
#include "data/pair_sampler.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

/// Pairs whose target tokens are all different; lengths differ widely. Stored targets have one
/// token more than rows.
PairStream numbered_pairs(std::uint64_t seed, int count, std::uint32_t longest) {
  std::vector<std::vector<std::int32_t>> source, target;
  std::int32_t next = 0;
  const auto document = [&](std::uint64_t stream, int i, std::uint32_t least) {
    std::vector<std::int32_t> tokens(
        least + random_bits(seed, stream, static_cast<std::uint64_t>(i))[0] % longest);
    for (auto& token : tokens) token = next++;
    return tokens;
  };
  for (int i = 0; i < count; ++i) {
    source.push_back(document(1, i, 1));
    target.push_back(document(2, i, 2));
  }
  return {TokenStream::from_documents(source), TokenStream::from_documents(target)};
}

TEST(PairSampler, AnEpochHasEveryPairOnceInUpdatesOfEqualSize) {
  for (const int count : {1, 2, 5, 300})
    for (const std::int64_t batch_tokens : {1, 7, 100, 100000}) {
      const PairStream pairs = numbered_pairs(3, count, 40);
      const PairSampler sampler(pairs, batch_tokens, 9);
      std::vector<std::int64_t> first_order;
      for (std::int64_t epoch = 0; epoch < 3; ++epoch) {
        std::vector<std::int64_t> order;
        const std::int64_t updates = sampler.steps_per_epoch();
        for (std::int64_t u = 0; u < updates; ++u) {
          const PairPlan plan = sampler.plan(epoch * updates + u);
          ASSERT_FALSE(plan.pairs.empty());
          if (batch_tokens == 100 && count == 300) {
            EXPECT_NEAR(static_cast<double>(plan.target_count()), 100, 2 * 41);
          }
          order.insert(order.end(), plan.pairs.begin(), plan.pairs.end());
        }
        EXPECT_EQ(std::set<std::int64_t>(order.begin(), order.end()).size(), order.size());
        EXPECT_EQ(std::ssize(order), count);
        if (epoch == 0) first_order = order;
        if (epoch > 0 && count == 300) {
          EXPECT_NE(order, first_order);
        }
      }
    }
}

/// Targets of the given numbers of rows, each with a source of one token.
PairStream pairs_of_rows(const std::vector<std::int64_t>& rows) {
  std::vector<std::vector<std::int32_t>> source(rows.size(), {1}), target;
  for (const std::int64_t count : rows) target.emplace_back(static_cast<std::size_t>(count + 1), 1);
  return {TokenStream::from_documents(source), TokenStream::from_documents(target)};
}

TEST(PairSampler, UpdatesAreWithinOnePairOfTheGoal) {
  std::vector<std::vector<std::int64_t>> cases{{7}, {5000}, {1, 1, 1, 9000}, {9000, 9000, 1, 1, 1}};
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    std::vector<std::int64_t> rows(20 + 15 * seed);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      const auto bits = random_bits(seed, 7, i);
      rows[i] = 1 + bits[0] % 30;
      if (bits[1] % 25 == 0) rows[i] = 2000 + bits[2] % 3000;  // far longer than a batch
    }
    cases.push_back(rows);
  }
  for (const auto& rows : cases)
    for (const std::int64_t batch_tokens : {1, 20, 300, 10000}) {
      const std::int64_t total = std::accumulate(rows.begin(), rows.end(), std::int64_t{0});
      const PairSampler sampler(pairs_of_rows(rows), batch_tokens, 5);
      const std::int64_t updates = sampler.steps_per_epoch();
      EXPECT_EQ(sampler.longest_target(), *std::max_element(rows.begin(), rows.end()));
      const double goal = static_cast<double>(total) / static_cast<double>(updates);
      for (std::int64_t epoch = 0; epoch < 2; ++epoch) {
        std::vector<std::int64_t> seen;
        for (std::int64_t u = 0; u < updates; ++u) {
          const PairPlan plan = sampler.plan(epoch * updates + u);
          std::int64_t count = 0;
          for (const std::int64_t pair : plan.pairs) count += rows[static_cast<std::size_t>(pair)];
          ASSERT_EQ(plan.target_count(), count);
          ASSERT_GE(count, 1);
          ASSERT_LT(std::abs(static_cast<double>(count) - goal),
                    static_cast<double>(sampler.longest_target()));
          seen.insert(seen.end(), plan.pairs.begin(), plan.pairs.end());
        }
        std::sort(seen.begin(), seen.end());
        std::vector<std::int64_t> all(rows.size());
        std::iota(all.begin(), all.end(), 0);
        ASSERT_EQ(seen, all);
      }
    }
}

TEST(PairSampler, PairsLongerThanAMicroStepAndFewerThanRanksAreDealtOnce) {
  for (const std::vector<std::int64_t>& rows :
       {std::vector<std::int64_t>{3}, {4000}, {1, 5000, 1}, {5000, 1, 1, 1, 1, 6000}}) {
    const PairSampler sampler = PairSampler::in_order(pairs_of_rows(rows), 1 << 20);
    const PairPlan plan = sampler.plan(0);
    ASSERT_EQ(std::ssize(plan.pairs), std::ssize(rows));
    for (const int ranks : {1, 2, 3, 4, 7})
      for (const std::int64_t micro : {1, 10, 100000}) {
        std::int64_t next = 0;
        std::size_t micro_steps = 0;
        for (int rank = 0; rank < ranks; ++rank) {
          const std::vector<std::int64_t> cuts = deal_pairs(plan, rank, ranks, micro);
          if (rank == 0) micro_steps = cuts.size();
          EXPECT_EQ(cuts.size(), micro_steps);
          EXPECT_EQ(cuts.front(), next) << "slices follow one another";
          EXPECT_TRUE(std::is_sorted(cuts.begin(), cuts.end()));
          for (std::size_t m = 0; m + 1 < cuts.size(); ++m) {
            std::int64_t tokens = 0;
            for (std::int64_t i = cuts[m]; i < cuts[m + 1]; ++i)
              tokens += rows[static_cast<std::size_t>(i)] + 1;
            EXPECT_TRUE(tokens <= micro || cuts[m + 1] - cuts[m] == 1);
          }
          next = cuts.back();
        }
        EXPECT_EQ(next, std::ssize(rows));
      }
  }
}

TEST(PairSampler, RowsAreThoseOfThePairs) {
  const PairStream pairs = numbered_pairs(4, 20, 9);
  const PairSampler sampler(pairs, 30, 2);
  const PairPlan plan = sampler.plan(5);
  const TokenBatch batch = sampler.batch(plan, 1, std::ssize(plan.pairs));
  ASSERT_EQ(batch.segments(), std::ssize(plan.pairs) - 1);
  for (std::size_t s = 0; s + 1 < plan.pairs.size(); ++s) {
    const std::int64_t pair = plan.pairs[s + 1];
    EXPECT_EQ(batch.sample_ids[s], pair);
    const std::int64_t begin = batch.segment_offsets[s];
    const std::int64_t rows = batch.segment_offsets[s + 1] - begin;
    ASSERT_EQ(rows + 1, pairs.target_length(pair));
    std::vector<std::int32_t> stored(static_cast<std::size_t>(rows + 1));
    const std::int64_t first = pairs.target.document_begin(pair);
    pairs.target.copy_tokens(first, first + rows + 1, stored.data());
    for (std::int64_t r = 0; r < rows; ++r) {
      const auto row = static_cast<std::size_t>(begin + r);
      EXPECT_EQ(batch.inputs[row], stored[static_cast<std::size_t>(r)]);
      EXPECT_EQ(batch.targets[row], stored[static_cast<std::size_t>(r) + 1]);
      EXPECT_EQ(batch.positions[row], r);
      EXPECT_EQ(batch.row_ids[row], plan.target_begin[s + 1] + r);
    }
    const std::int64_t source = batch.source_offsets[s];
    ASSERT_EQ(batch.source_offsets[s + 1] - source, pairs.source_length(pair));
    std::vector<std::int32_t> words(static_cast<std::size_t>(pairs.source_length(pair)));
    const std::int64_t at = pairs.source.document_begin(pair);
    pairs.source.copy_tokens(at, at + std::ssize(words), words.data());
    for (std::size_t r = 0; r < words.size(); ++r) {
      EXPECT_EQ(batch.source_inputs[static_cast<std::size_t>(source) + r], words[r]);
      EXPECT_EQ(batch.source_row_ids[static_cast<std::size_t>(source) + r],
                plan.source_begin[s + 1] + static_cast<std::int64_t>(r));
    }
  }
}

TEST(PairSampler, RanksShareAnUpdateExactly) {
  const PairStream pairs = numbered_pairs(5, 60, 25);
  for (const bool shuffled : {true, false})
    for (const std::int64_t batch_tokens : {10, 200}) {
      const PairSampler sampler = shuffled ? PairSampler(pairs, batch_tokens, 1)
                                           : PairSampler::in_order(pairs, batch_tokens);
      for (const int ranks : {1, 2, 3, 4, 7})
        for (const std::int64_t micro : {1, 60, 100000}) {
          std::vector<std::unique_ptr<Loader>> loaders;
          for (int rank = 0; rank < ranks; ++rank)
            loaders.push_back(std::make_unique<Loader>(sampler, rank, ranks, micro));
          for (std::int64_t step = 0; step < sampler.steps_per_epoch() + 1; ++step) {
            const PairPlan plan = sampler.plan(step);
            const TokenBatch whole = sampler.batch(plan, 0, std::ssize(plan.pairs));
            std::vector<std::int32_t> inputs, sources;
            std::vector<std::int64_t> ids, row_ids;
            std::int64_t micro_steps = 0, most = 0, least = std::int64_t{1} << 40;
            for (auto& loader : loaders) {
              std::int64_t m = 0, rows = 0;
              for (bool last = false; !last; ++m) {
                const TokenBatch batch = loader->next();
                last = batch.last_micro_step;
                ASSERT_EQ(batch.step, step);
                EXPECT_EQ(batch.micro_step, m);
                EXPECT_EQ(batch.update_target_count, plan.target_count());
                EXPECT_TRUE(batch.segments() <= 1 ||
                            batch.rows() + std::ssize(batch.source_inputs) <= micro);
                inputs.insert(inputs.end(), batch.inputs.begin(), batch.inputs.end());
                sources.insert(sources.end(), batch.source_inputs.begin(),
                               batch.source_inputs.end());
                ids.insert(ids.end(), batch.sample_ids.begin(), batch.sample_ids.end());
                row_ids.insert(row_ids.end(), batch.row_ids.begin(), batch.row_ids.end());
                rows += batch.rows() + std::ssize(batch.source_inputs);
              }
              if (loader == loaders[0]) micro_steps = m;
              EXPECT_EQ(m, micro_steps);
              most = std::max(most, rows);
              least = std::min(least, rows);
            }
            ASSERT_EQ(ids, plan.pairs);
            ASSERT_EQ(inputs, whole.inputs);
            ASSERT_EQ(sources, whole.source_inputs);
            ASSERT_EQ(row_ids, whole.row_ids);
            EXPECT_LE(most - least, 2 * 51) << "the work is not shared evenly";
          }
        }
    }
}

TEST(PairSampler, ResumeGoesOnExactly) {
  const PairStream pairs = numbered_pairs(6, 40, 12);
  const PairSampler sampler(pairs, 50, 3);
  Loader uninterrupted(sampler, 1, 2, 40);
  for (int update = 0; update < 13; ++update)
    while (!uninterrupted.next().last_micro_step) {
    }
  Loader resumed(sampler, 1, 2, 40, 13);
  for (int i = 0; i < 20; ++i) {
    const TokenBatch a = uninterrupted.next(), b = resumed.next();
    EXPECT_EQ(a.inputs, b.inputs);
    EXPECT_EQ(a.source_inputs, b.source_inputs);
    EXPECT_EQ(a.row_ids, b.row_ids);
    EXPECT_EQ(a.step, b.step);
  }
}

TEST(PairSampler, WrongUseIsOneSentence) {
  const TokenStream one = TokenStream::from_documents({{1, 2}});
  const TokenStream two = TokenStream::from_documents({{1, 2}, {2, 3}});
  const TokenStream bare = TokenStream::from_documents({{1}});
  EXPECT_ERROR(PairSampler({one, two}, 8, 0), "are no pairs");
  EXPECT_ERROR(PairSampler({one, one}, 0, 0), "batch of 0 tokens");
  EXPECT_ERROR(PairSampler({one, bare}, 8, 0), "nothing to predict");
  EXPECT_ERROR(Loader(PairSampler({one, one}, 8, 0), 0, 1, 0), "micro-batch of 0");
}

}  // namespace
}  // namespace t2r
