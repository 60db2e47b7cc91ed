// Embeddings: gather and ordered scatter-add against plain loops, repeated ids, bad ids, sinusoids.
#include "kernels/embedding.h"

#include <omp.h>

#include "kernels/elementwise.h"
#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

std::vector<std::int32_t> random_ids(std::int64_t count, std::int64_t entries, std::uint64_t seed) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < count; ++i)
    ids.push_back(static_cast<std::int32_t>(random_uniform(seed, 0, static_cast<std::uint64_t>(i)) *
                                            static_cast<double>(entries)));
  return ids;
}

/// Rows, columns, entries of the table; few entries make many rows meet in one.
struct Case {
  std::int64_t rows, columns, entries;
};
constexpr Case kCases[] = {{0, 7, 3},   {1, 1, 1},    {5, 31, 2},   {33, 32, 11},
                           {64, 33, 7}, {97, 129, 5}, {211, 320, 3}};

TEST(Embedding, ForwardMatchesReference) {
  for (DType dtype : kAllDTypes)
    for (const Case& c : kCases)
      for (bool with_positions : {false, true}) {
        const Guarded table = random_tensor({c.entries, c.columns}, dtype, 1, 1, 2);
        const Guarded positions = random_tensor({c.entries + 4, c.columns}, dtype, 2);
        const auto ids = random_ids(c.rows, c.entries, 3);
        const auto places = random_ids(c.rows, c.entries + 4, 4);
        const Guarded y = poisoned({c.rows, c.columns}, dtype, 3);
        embedding_forward({}, y, ids.data(), table, 2.5, with_positions ? places.data() : nullptr,
                          with_positions ? positions.tensor() : Tensor());
        std::vector<double> expected;
        for (std::size_t row = 0; row < ids.size(); ++row)
          for (std::int64_t i = 0; i < c.columns; ++i)
            expected.push_back(2.5 * get(table, ids[row], i) +
                               (with_positions ? get(positions, places[row], i) : 0));
        expect_close(y, expected, "y");
      }
}

TEST(Embedding, PartsOfTheVocabularyGiveTheWhole) {
  const std::int64_t rows = 40, columns = 33, entries = 11;
  const auto ids = random_ids(rows, entries, 3), places = random_ids(rows, 5, 4);
  const Guarded table = random_tensor({entries, columns}, DType::f64, 1);
  const Guarded positions = random_tensor({5, columns}, DType::f64, 2);
  const Guarded whole = poisoned({rows, columns}, DType::f64),
                sum = poisoned({rows, columns}, DType::f64);
  embedding_forward({}, whole, ids.data(), table, 2.5, places.data(), positions);
  fill({}, sum, 0);
  const Guarded dy = random_tensor({rows, columns}, DType::f64, 5);
  const Guarded dwhole = random_tensor({entries, columns}, DType::f64, 6);
  const Guarded dparts = random_tensor({entries, columns}, DType::f64, 6);
  embedding_backward({}, dwhole, {}, ids.data(), nullptr, dy, 2.5);
  for (const auto& [first, last] : {std::pair{0, 3}, {3, 4}, {4, 11}}) {
    const VocabularyPart part{first, entries};
    const Guarded y = poisoned({rows, columns}, DType::f64);
    embedding_forward({}, y, ids.data(), table.tensor().row_range(first, last), 2.5, places.data(),
                      first == 0 ? positions.tensor() : Tensor(), part);
    add_to({}, sum, y);
    embedding_backward({}, dparts.tensor().row_range(first, last), {}, ids.data(), nullptr, dy, 2.5,
                       part);
  }
  expect_close(sum, values(whole), "y");
  EXPECT_EQ(values(dparts), values(dwhole));
  EXPECT_THROW(embedding_forward({}, whole, ids.data(), table.tensor().row_range(0, 3), 2.5,
                                 nullptr, {}, VocabularyPart{0, 7}),
               Error);
}

TEST(Embedding, BackwardMatchesReference) {
  for (DType dtype : kAllDTypes)
    for (const Case& c : kCases)
      for (int parts : {1, 2, 3}) {  // the table, the positions, both
        const DType wide = accumulate_dtype(dtype);
        const Guarded dtable = random_tensor({c.entries, c.columns}, wide, 1, 1, 2);
        const Guarded dpositions = random_tensor({c.entries + 4, c.columns}, wide, 2);
        const Guarded dy = random_tensor({c.rows, c.columns}, dtype, 5, 1, 3);
        const auto ids = random_ids(c.rows, c.entries, 3);
        const auto places = random_ids(c.rows, c.entries + 4, 4);
        auto expected = values(dtable), expected_positions = values(dpositions);
        for (std::int64_t row = 0; row < c.rows; ++row)
          for (std::int64_t i = 0; i < c.columns; ++i) {
            const auto at = static_cast<std::size_t>(row);
            if (parts & 1)
              expected[static_cast<std::size_t>(ids[at] * c.columns + i)] += 2.5 * get(dy, row, i);
            if (parts & 2)
              expected_positions[static_cast<std::size_t>(places[at] * c.columns + i)] +=
                  get(dy, row, i);
          }
        embedding_backward({}, parts & 1 ? dtable.tensor() : Tensor(),
                           parts & 2 ? dpositions.tensor() : Tensor(), ids.data(), places.data(),
                           dy, 2.5);
        expect_close(dtable, expected, "dtable");
        expect_close(dpositions, expected_positions, "dpositions");
      }
}

TEST(Embedding, Gradients) {
  const Guarded table = random_tensor({4, 3}, DType::f64, 11),
                positions = random_tensor({5, 3}, DType::f64, 12);
  const Guarded dy = random_tensor({9, 3}, DType::f64, 13), y = poisoned({9, 3}, DType::f64);
  const Guarded dtable = random_tensor({4, 3}, DType::f64, 0, 0),
                dpositions = random_tensor({5, 3}, DType::f64, 0, 0);
  const auto ids = random_ids(9, 4, 14), places = random_ids(9, 5, 15);
  const auto loss = [&] {
    embedding_forward({}, y, ids.data(), table, 1.7, places.data(), positions);
    return dot(y, dy);
  };
  embedding_backward({}, dtable, dpositions, ids.data(), places.data(), dy, 1.7);
  expect_gradient(table, dtable, loss, "table");
  expect_gradient(positions, dpositions, loss, "positions");
}

TEST(Embedding, BackwardDoesNotDependOnThreads) {
  const Guarded dy = random_tensor({997, 200}, DType::f32, 21);
  const auto ids = random_ids(997, 3, 22);
  const int threads = omp_get_max_threads();
  std::vector<std::vector<double>> results;
  for (int count : {1, 2, 3, 7}) {
    omp_set_num_threads(count);
    const Guarded dtable = random_tensor({3, 200}, DType::f32, 23);
    embedding_backward({}, dtable, Tensor(), ids.data(), nullptr, dy, 0.3);
    results.push_back(values(dtable));
  }
  omp_set_num_threads(threads);
  for (const auto& result : results) EXPECT_EQ(result, results[0]);  // bit for bit
}

TEST(Embedding, RefusesIdsOutsideTheTable) {
  const Guarded table = random_tensor({4, 3}, DType::f32, 31), y = poisoned({3, 3}, DType::f32);
  const Guarded positions = random_tensor({2, 3}, DType::f32, 32);
  const std::int32_t good[] = {0, 3, 1}, large[] = {0, 4, 1}, negative[] = {0, -1, 1};
  const std::int32_t places[] = {0, 1, 1}, far[] = {0, 1, 2};
  EXPECT_NO_THROW(embedding_forward({}, y, good, table, 1, places, positions));
  EXPECT_THROW(embedding_forward({}, y, large, table, 1, nullptr, Tensor()), Error);
  EXPECT_THROW(embedding_forward({}, y, negative, table, 1, nullptr, Tensor()), Error);
  EXPECT_THROW(embedding_forward({}, y, good, table, 1, far, positions), Error);
  EXPECT_THROW(embedding_backward({}, table, Tensor(), large, nullptr, y, 1), Error);
  EXPECT_THROW(embedding_backward({}, table, positions, good, far, y, 1), Error);
  EXPECT_THROW(
      embedding_forward({}, poisoned({3, 2}, DType::f32), good, table, 1, nullptr, Tensor()),
      Error);
  try {
    embedding_forward({}, y, large, table, 1, nullptr, Tensor());
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("token id 4 in row 1"), std::string::npos)
        << error.what();
  }
}

std::vector<std::tuple<DType, std::int64_t, Sinusoids>> every_table() {
  std::vector<std::tuple<DType, std::int64_t, Sinusoids>> all;
  for (DType dtype : kAllDTypes)
    for (std::int64_t n : {0, 1, 2, 3, 4, 5, 64, 65})
      for (Sinusoids kind : {Sinusoids::tensor2tensor, Sinusoids::marian})
        all.emplace_back(dtype, n, kind);
  return all;
}

TEST(SinusoidalPositions, MatchesTheFormula) {
  for (const auto& [dtype, n, kind] : every_table()) {
    const Guarded table = poisoned({307, n}, dtype, 1);
    sinusoidal_positions(table, 2, kind);
    const std::int64_t half = n / 2;
    const auto steps = static_cast<double>(kind == Sinusoids::marian ? half : half - 1);
    std::vector<double> expected;
    each(table, [&](auto p, auto column) {
      const double i = static_cast<double>(column < half ? column : column - half);
      const double angle =
          static_cast<double>(p + 2) * std::pow(10000.0, half > 1 ? -i / steps : 0);
      expected.push_back(column < half ? std::sin(angle) : column < 2 * half ? std::cos(angle) : 0);
    });
    expect_close(table, expected, "sinusoids");
  }
}

}  // namespace
}  // namespace t2r::test
