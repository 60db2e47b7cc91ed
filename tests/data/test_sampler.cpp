// Permutation, windows, packing, and independence of the number of ranks.
#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "core/base/random.h"
#include "data/loader.h"
#include "data/sampler.h"
#include "tests/data/temporary_folder.h"

namespace t2r {
namespace {

using Documents = std::vector<std::vector<std::int32_t>>;

/// Documents whose tokens are all different: token = its place in the stream.
Documents numbered_documents(std::uint64_t seed, int count, std::uint32_t longest) {
  Documents documents;
  std::int32_t next = 0;
  for (int d = 0; d < count; ++d) {
    documents.emplace_back(1 + random_bits(seed, 0, static_cast<std::uint64_t>(d))[0] % longest);
    for (auto& token : documents.back()) token = next++;
  }
  return documents;
}

std::vector<std::int64_t> values(const Permutation& permutation) {
  std::vector<std::int64_t> result;
  for (std::int64_t i = 0; i < permutation.size(); ++i) result.push_back(permutation(i));
  return result;
}

TEST(Permutation, IsABijection) {
  for (const std::int64_t n : {1, 2, 3, 4, 5, 16, 17, 1000, 65537}) {
    std::vector<std::int64_t> sorted = values(Permutation(7, 3, n));
    std::sort(sorted.begin(), sorted.end());
    for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(sorted[static_cast<std::size_t>(i)], i) << n;
  }
  EXPECT_ERROR(Permutation(1, 1, 0), "of 0 elements");
  EXPECT_ERROR(Permutation(1, 1, 5)(5), "element 5");
}

TEST(Permutation, DiffersBySeedAndEpochAndLooksRandom) {
  const auto base = values(Permutation(7, 3, 1000));
  EXPECT_EQ(values(Permutation(7, 3, 1000)), base);
  for (const auto& other : {values(Permutation(8, 3, 1000)), values(Permutation(7, 4, 1000))}) {
    int equal = 0;
    for (std::size_t i = 0; i < base.size(); ++i) equal += other[i] == base[i];
    EXPECT_LT(equal, 10);
  }
  // Neighbours go their own ways: the mean distance of two random places is n / 3.
  double distance = 0;
  for (std::size_t i = 1; i < base.size(); ++i)
    distance += static_cast<double>(std::abs(base[i] - base[i - 1]));
  EXPECT_NEAR(distance / 999.0, 1000.0 / 3.0, 30.0);
  // All six orders of three are reached.
  std::set<std::vector<std::int64_t>> orders;
  for (std::uint64_t epoch = 0; epoch < 100; ++epoch)
    orders.insert(values(Permutation(1, epoch, 3)));
  EXPECT_EQ(orders.size(), 6u);
}

TEST(Permutation, LargeSizesStayInside) {
  for (const std::int64_t n : {std::int64_t{1} << 40, (std::int64_t{1} << 61) + 1, INT64_MAX}) {
    const Permutation permutation(1, 2, n);
    std::set<std::int64_t> seen;
    for (std::int64_t i = 0; i < 100; ++i) seen.insert(permutation(n - 1 - i));
    EXPECT_EQ(seen.size(), 100u);
    EXPECT_GE(*seen.begin(), 0);
    EXPECT_LT(*seen.rbegin(), n);
  }
}

/// The plainest statement of what a window is.
void expect_window(const Documents& documents, std::int64_t window, std::int64_t length,
                   Packing packing, const TokenBatch& batch) {
  std::vector<std::int32_t> tokens, document_of, last_of_document;
  for (std::size_t d = 0; d < documents.size(); ++d)
    for (std::size_t i = 0; i < documents[d].size(); ++i) {
      tokens.push_back(documents[d][i]);
      document_of.push_back(static_cast<std::int32_t>(d));
      last_of_document.push_back(i + 1 == documents[d].size());
    }
  const bool cut = packing == Packing::documents;
  std::vector<std::int32_t> inputs, targets, positions;
  std::vector<std::int64_t> offsets{0};
  std::int64_t count = 0;
  for (std::int64_t p = window * length; p < (window + 1) * length; ++p) {
    if (p + 1 >= std::ssize(tokens)) break;
    const bool new_segment = cut && !inputs.empty() && document_of[p] != document_of[p - 1];
    if (new_segment) offsets.push_back(std::ssize(inputs));
    positions.push_back(inputs.empty() || new_segment ? 0 : positions.back() + 1);
    inputs.push_back(tokens[p]);
    targets.push_back(cut && last_of_document[p] ? -1 : tokens[p + 1]);
    count += targets.back() >= 0;
  }
  offsets.push_back(std::ssize(inputs));
  EXPECT_EQ(batch.inputs, inputs);
  EXPECT_EQ(batch.targets, targets);
  EXPECT_EQ(batch.positions, positions);
  EXPECT_EQ(batch.segment_offsets, offsets);
  EXPECT_EQ(batch.target_count, count);
}

TEST(Sampler, WindowsMatchThePlainDefinition) {
  for (const auto& [count, longest] : {std::pair{1, 40u}, {30, 1u}, {40, 9u}, {7, 100u}}) {
    const Documents documents = numbered_documents(3, count, longest);
    const TokenStream stream = TokenStream::from_documents(documents);
    for (const Packing packing : {Packing::documents, Packing::contiguous})
      for (const std::int64_t length : {1, 2, 7, 16, 1000}) {
        const Sampler sampler = Sampler::in_order(stream, length, packing, 1);
        EXPECT_EQ(sampler.windows(), (stream.tokens() - 2) / length + 1);
        for (std::int64_t i = 0; i < sampler.windows(); ++i) {
          const WindowPlan plan = sampler.plan(i);
          ASSERT_EQ(plan.sample_ids, std::vector<std::int64_t>{i});
          const TokenBatch batch = sampler.batch(plan, 0, 1);
          expect_window(documents, i, length, packing, batch);
          EXPECT_EQ(sampler.target_count(i), batch.target_count);
        }
        EXPECT_TRUE(sampler.plan(sampler.windows()).sample_ids.empty());
      }
  }
}

TEST(Sampler, PackingLeaksNothing) {
  const Documents documents = numbered_documents(4, 60, 20);
  const TokenStream stream = TokenStream::from_documents(documents);
  const Sampler sampler(stream, 16, Packing::documents, 5, 1);
  for (std::int64_t step = 0; step < 20; ++step) {
    const TokenBatch batch = sampler.batch(sampler.plan(step), 0, 5);
    ASSERT_EQ(batch.segment_offsets.back(), batch.rows());
    for (std::int64_t s = 0; s < batch.segments(); ++s) {
      const std::int64_t begin = batch.segment_offsets[s], end = batch.segment_offsets[s + 1];
      ASSERT_LT(begin, end);
      const std::int64_t document = stream.document_of(batch.inputs[begin]);
      for (std::int64_t row = begin; row < end; ++row) {
        ASSERT_EQ(stream.document_of(batch.inputs[row]), document);
        ASSERT_EQ(batch.positions[row], row - begin);
        if (batch.targets[row] >= 0) {
          ASSERT_EQ(stream.document_of(batch.targets[row]), document);
          ASSERT_EQ(batch.targets[row], batch.inputs[row] + 1);
        } else {
          ASSERT_EQ(batch.inputs[row] + 1, stream.document_begin(document + 1));
        }
      }
    }
  }
}

TEST(Sampler, RowIdsAreThePlaceInTheUpdate) {
  const TokenStream stream = TokenStream::from_documents(numbered_documents(4, 60, 20));
  const Sampler sampler(stream, 16, Packing::contiguous, 5, 1);
  const WindowPlan plan = sampler.plan(sampler.steps_per_epoch() - 1);  // with the short window
  std::vector<std::int64_t> expected;
  for (std::int64_t i = 2; i < 5; ++i) {
    const std::int64_t begin = plan.sample_ids[i] * 16;
    for (std::int64_t row = 0; row < std::min<std::int64_t>(16, stream.tokens() - 1 - begin); ++row)
      expected.push_back(16 * i + row);
  }
  EXPECT_EQ(sampler.batch(plan, 2, 5).row_ids, expected);
}

TEST(Sampler, AnEpochSeesEveryWindowOnce) {
  const TokenStream stream = TokenStream::from_documents(numbered_documents(5, 30, 20));
  const Sampler sampler(stream, 8, Packing::contiguous, 3, 9);
  std::vector<std::int64_t> ids;
  for (std::int64_t step = 0; std::ssize(ids) < 4 * sampler.windows(); ++step) {
    const WindowPlan plan = sampler.plan(step);
    ASSERT_EQ(plan.sample_ids.size(), 3u);
    ids.insert(ids.end(), plan.sample_ids.begin(), plan.sample_ids.end());
  }
  std::vector<std::vector<std::int64_t>> epochs;
  for (std::int64_t epoch = 0; epoch < 4; ++epoch) {
    const auto begin = ids.begin() + epoch * sampler.windows();
    epochs.emplace_back(begin, begin + sampler.windows());
    std::set<std::int64_t> seen(begin, begin + sampler.windows());
    EXPECT_EQ(std::ssize(seen), sampler.windows());
    EXPECT_EQ(*seen.rbegin(), sampler.windows() - 1);
  }
  EXPECT_NE(epochs[0], epochs[1]);
}

struct Row {
  std::int32_t input, target, position;
  bool segment_begins;
  bool operator==(const Row&) const = default;
};

/// Rows of an update by their global number.
std::map<std::int64_t, Row> rows_of(const std::vector<TokenBatch>& batches) {
  std::map<std::int64_t, Row> rows;
  for (const TokenBatch& batch : batches) {
    const std::set<std::int64_t> begins(batch.segment_offsets.begin(), batch.segment_offsets.end());
    for (std::int64_t i = 0; i < batch.rows(); ++i) {
      const Row row{batch.inputs[i], batch.targets[i], batch.positions[i], begins.contains(i)};
      EXPECT_TRUE(rows.emplace(batch.row_ids[i], row).second) << "a row twice";
    }
  }
  return rows;
}

TEST(Loader, ResultsDoNotDependOnRanksAndMicroSteps) {
  const TokenStream stream = TokenStream::from_documents(numbered_documents(6, 50, 30));
  for (const bool shuffled : {true, false})
    for (const Packing packing : {Packing::documents, Packing::contiguous}) {
      const Sampler sampler =
          shuffled ? Sampler(stream, 10, packing, 7, 3) : Sampler::in_order(stream, 10, packing, 7);
      for (const int ranks : {1, 2, 3, 4, 9})
        for (const std::int64_t micro_batch : {1, 2, 100}) {
          std::vector<std::unique_ptr<Loader>> loaders;
          for (int rank = 0; rank < ranks; ++rank)
            loaders.push_back(std::make_unique<Loader>(sampler, rank, ranks, micro_batch));
          for (std::int64_t step = 0; step < sampler.steps_per_epoch() + 1; ++step) {
            const WindowPlan plan = sampler.plan(step);
            std::vector<TokenBatch> batches;
            std::vector<std::int64_t> ids;
            std::int64_t targets = 0, micro_steps = 0;
            for (auto& loader : loaders) {
              std::int64_t m = 0;
              do {
                batches.push_back(loader->next());
                const TokenBatch& batch = batches.back();
                EXPECT_EQ(batch.step, step);
                EXPECT_EQ(batch.micro_step, m++);
                EXPECT_EQ(batch.update_target_count, plan.target_count);
                EXPECT_LE(std::ssize(batch.sample_ids), micro_batch);
                ids.insert(ids.end(), batch.sample_ids.begin(), batch.sample_ids.end());
                targets += batch.target_count;
              } while (!batches.back().last_micro_step);
              if (loader == loaders[0]) micro_steps = m;
              EXPECT_EQ(m, micro_steps);
            }
            ASSERT_EQ(ids, plan.sample_ids);
            ASSERT_EQ(targets, plan.target_count);
            ASSERT_EQ(rows_of(batches),
                      rows_of({sampler.batch(plan, 0, std::ssize(plan.sample_ids))}));
          }
        }
    }
}

TEST(Loader, ResumeGoesOnExactly) {
  const TokenStream stream = TokenStream::from_documents(numbered_documents(7, 50, 30));
  const Sampler sampler(stream, 10, Packing::documents, 5, 3);
  Loader uninterrupted(sampler, 1, 2, 2);
  for (int update = 0; update < 9; ++update)
    while (!uninterrupted.next().last_micro_step) {
    }
  Loader resumed(sampler, 1, 2, 2, 9);
  for (int i = 0; i < 20; ++i) {
    const TokenBatch a = uninterrupted.next(), b = resumed.next();
    EXPECT_EQ(a.inputs, b.inputs);
    EXPECT_EQ(a.targets, b.targets);
    EXPECT_EQ(a.row_ids, b.row_ids);
    EXPECT_EQ(a.sample_ids, b.sample_ids);
    EXPECT_EQ(std::pair(a.step, a.micro_step), std::pair(b.step, b.micro_step));
  }
}

TEST(Sampler, WrongUseIsOneSentence) {
  const TokenStream one = TokenStream::from_documents({{1}});
  const TokenStream two = TokenStream::from_documents({{1}, {2}});
  EXPECT_ERROR(Sampler(one, 8, Packing::documents, 1, 0), "has 1 tokens");
  EXPECT_ERROR(Sampler(two, 0, Packing::documents, 1, 0), "sequence length of 0");
  EXPECT_ERROR(Sampler(two, 8, Packing::documents, 0, 0), "batch of 0 sequences");
  EXPECT_ERROR(parse_packing("tight"), "unknown packing");
  const Sampler sampler(two, 8, Packing::documents, 1, 0);
  EXPECT_EQ(sampler.plan(0).target_count, 0) << "two documents of one token predict nothing";
  EXPECT_ERROR(Loader(sampler, 2, 2, 1), "rank 2 of 2");
  EXPECT_ERROR(Loader(sampler, 0, 1, 0), "micro-batch of 0");
}

}  // namespace
}  // namespace t2r
