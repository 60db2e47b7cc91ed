// Linear attention: all forms, the decoding step and the definition agree, forward and backward.
#include "kernels/linear_attention.h"

#include <gtest/gtest.h>
#include <omp.h>

#include "tests/kernels/linear_attention_reference.h"
#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

const LinearForm kForms[] = {LinearForm::recurrent, LinearForm::masked, LinearForm::chunkwise,
                             LinearForm::automatic};
const char* name_of(LinearForm form) {
  const char* names[] = {"automatic", "recurrent", "masked", "chunkwise"};
  return names[static_cast<int>(form)];
}

/// All forms of one case against the definition; `limit` 0: the tolerance of the storage type.
void expect_forms_right(const LinearCase& setup, double limit, const std::string& what) {
  if (limit == 0) limit = tolerance(setup.dtype);
  LinearBatch batch(setup);
  const LinearReference expected(batch);
  for (LinearForm form : kForms) {
    SCOPED_TRACE(what + ", " + name_of(form));
    batch.forward(form);
    expect_close(batch.out, expected.out, "out", limit);
    expect_close(batch.denominator, expected.denominator, "denominator", limit);
    expect_close(batch.final_s, expected.final_s, "final S", limit);
    expect_close(batch.final_z, expected.final_z, "final z", limit);
    if (setup.initial) continue;  // training starts from zeros
    batch.backward(form);
    expect_close(batch.dq, expected.dq, "dq", limit);
    expect_close(batch.dk, expected.dk, "dk", limit);
    expect_close(batch.dv, expected.dv, "dv", limit);
    if (batch.decay()) expect_close(batch.dgamma, expected.dgamma, "dgamma", limit);
  }
}

const std::vector<std::int64_t> kRagged = {0, 1, 63, 64, 65, 130, 257};

TEST(LinearAttention, FormsAgreeOnRaggedLengths) {
  std::uint64_t seed = 10;
  for (std::int64_t k : {1, 4, 32})
    for (std::int64_t d : {3, 8, 64})
      for (bool decay : {false, true})
        expect_forms_right(
            {.query_lengths = kRagged,
             .shape = shape_of(2, 2, k, d),
             .gamma = decay ? std::vector<double>{0.05, 0.97} : std::vector<double>{},
             .seed = seed += 10},
            1e-10, "k " + std::to_string(k) + " d " + std::to_string(d));
}

TEST(LinearAttention, FormsAgreeWithTheClampActive) {
  LinearCase setup{.query_lengths = kRagged,
                   .shape = shape_of(3, 1, 4, 8),
                   .gamma = {1.0, 0.5, 0.9},
                   .signed_features = true};
  LinearBatch batch(setup);
  batch.forward(LinearForm::recurrent);
  std::int64_t clamped = 0;
  each(batch.denominator,
       [&](auto row, auto h) { clamped += get(batch.denominator, row, h) < 0.01; });
  EXPECT_GT(clamped, 300);
  EXPECT_LT(clamped, 3 * batch.query_rows() - 300);
  expect_forms_right(setup, 1e-10, "clamp");
  setup.gamma.clear();
  expect_forms_right(setup, 1e-10, "clamp without decay");
}

TEST(LinearAttention, FormsAgreeForAnyChunk) {
  for (std::int64_t chunk : {1, 2, 7, 16, 17, 48, 100, 1000000})
    expect_forms_right({.query_lengths = {1, 16, 17, 130},
                        .shape = shape_of(4, 2, 5, 9, chunk),
                        .gamma = {1.0, 0.3, 0.99, 0.8}},
                       1e-10, "chunk " + std::to_string(chunk));
}

TEST(LinearAttention, FormsAgreeFromAnInitialState) {
  for (bool causal : {true, false}) {
    LinearCase setup{.query_lengths = {0, 1, 63, 130}, .shape = shape_of(4, 2, 4, 8)};
    setup.initial = true;
    setup.shape.causal = causal;
    expect_forms_right(setup, 1e-10, "initial");
    setup.gamma = {0.9, 0.05, 1.0, 0.5};
    if (causal) expect_forms_right(setup, 1e-10, "initial and decay");
  }
}

TEST(LinearAttention, CrossFormsAgree) {
  for (std::int64_t k : {1, 4, 32})
    for (bool signed_features : {false, true}) {
      LinearCase setup{.query_lengths = {5, 0, 64, 1, 70, 130, 3},
                       .key_lengths = {7, 3, 0, 1, 130, 65, 257},
                       .shape = shape_of(4, 2, k, 8),
                       .signed_features = signed_features};
      setup.shape.causal = false;
      expect_forms_right(setup, 1e-10, "cross k " + std::to_string(k));
    }
}

TEST(LinearAttention, SinglePrecisionAndBfloat16) {
  for (DType dtype : {DType::f32, DType::bf16})
    for (std::int64_t k : {4, 32})
      for (bool causal : {true, false}) {
        LinearCase setup{
            .query_lengths = {0, 1, 33, 257}, .shape = shape_of(4, 2, k, 64), .dtype = dtype};
        setup.shape.causal = causal;
        setup.padding = 8;
        expect_forms_right(setup, 0, causal ? "causal" : "cross");
        setup.gamma = {0.05, 1.0, 0.9, 0.7};
        if (causal) expect_forms_right(setup, 0, "decay");
      }
}

TEST(LinearAttention, EveryGradientByCentralDifferences) {
  for (bool causal : {true, false})
    for (bool signed_features : {false, true})
      for (LinearForm form : kForms) {
        LinearCase setup{.query_lengths = {0, 1, 6, 9},
                         .key_lengths = causal ? std::vector<std::int64_t>{}
                                               : std::vector<std::int64_t>{2, 0, 5, 3},
                         .shape = shape_of(4, 2, 3, 5, 4),
                         .signed_features = signed_features};
        setup.shape.causal = causal;
        if (causal) setup.gamma = {0.9, 0.2, 0.99, 0.5};
        LinearBatch batch(setup);
        SCOPED_TRACE(std::string(name_of(form)) + (causal ? " causal" : " cross"));
        const auto loss = [&] {
          batch.forward(form, false);
          return dot(batch.out, batch.dout);
        };
        loss();
        batch.backward(form);
        expect_gradient(batch.q, batch.dq, loss, "q");
        expect_gradient(batch.k, batch.dk, loss, "k");
        expect_gradient(batch.v, batch.dv, loss, "v");
        if (!causal) continue;
        for (std::int64_t h = 0; h < batch.heads(); ++h)
          set(batch.dgamma, h, 0, get(batch.dgamma, h, 0) - 1);  // it started at 1
        expect_gradient(batch.gamma, batch.dgamma, loss, "gamma");
      }
}

TEST(LinearAttention, TwoHalvesGiveTheWhole) {
  const std::int64_t n = 150;
  for (std::int64_t split : {0, 1, 64, 149, 150})
    for (LinearForm form : kForms) {
      const LinearCase setup{
          .query_lengths = {n}, .shape = shape_of(2, 1, 4, 8), .gamma = {0.95, 0.4}};
      LinearBatch whole(setup), halves(setup);
      whole.forward(form);
      const LinearState state{halves.final_s, halves.final_z};
      for (auto [begin, end] : {std::pair{std::int64_t{0}, split}, std::pair{split, n}}) {
        const Lengths part({end - begin});
        linear_attention_forward(
            {}, halves.out.tensor().row_range(begin, end),
            halves.denominator.tensor().row_range(begin, end),
            halves.q.tensor().row_range(begin, end), halves.k.tensor().row_range(begin, end),
            halves.v.tensor().row_range(begin, end), part.segments(), part.segments(), halves.shape,
            halves.decay(), begin == 0 && end == split ? LinearState{} : state, state, form);
      }
      expect_close(halves.out, values(whole.out), "out");
      expect_close(halves.denominator, values(whole.denominator), "denominator");
      expect_close(halves.final_s, values(whole.final_s), "S");
      expect_close(halves.final_z, values(whole.final_z), "z");
    }
}

TEST(LinearAttention, DecodingStepsGiveTheWhole) {
  for (DType dtype : kAllDTypes)
    for (bool decay : {false, true}) {
      // Three sequences of 70 tokens, decoded side by side.
      const std::int64_t batch = 3, n = 70;
      LinearCase setup{.query_lengths = {n, n, n}, .shape = shape_of(4, 2, 5, 83), .dtype = dtype};
      if (decay) setup.gamma = {0.95, 0.05, 1.0, 0.7};
      LinearBatch all(setup);
      const LinearReference expected(all);
      Guarded s = random_tensor(all.final_s.tensor().shape, all.sums, 0, 0, 3);
      Guarded z = random_tensor(all.final_z.tensor().shape, all.sums, 0, 0, 3);
      for (std::int64_t t = 0; t < n; ++t) {
        const auto rows = [&](Tensor x) {  // row t of every sequence
          x.data = static_cast<char*>(x.data) + t * x.row_stride * size_of(x.dtype);
          x.row_stride *= n;
          x.shape = Shape{batch, x.shape[1]};
          return x;
        };
        linear_attention_step({}, rows(all.out), {s, z}, rows(all.q), rows(all.k), rows(all.v),
                              all.shape, all.decay());
      }
      expect_close(all.out, expected.out, "out");
      expect_close(s, expected.final_s, "S");
      expect_close(z, expected.final_z, "z");
    }
}

TEST(LinearAttention, NothingLeaksFromLaterTokensOrOtherSegments) {
  for (LinearForm form : kForms) {
    const LinearCase setup{.query_lengths = {70, 80, 5}, .shape = shape_of(2, 1, 4, 8)};
    LinearBatch before(setup), after(setup);
    before.forward(form);
    const std::int64_t changed = 70 + 33;  // token 33 of the second segment
    for (const Tensor& x : {after.q.tensor(), after.k.tensor(), after.v.tensor()})
      for (std::int64_t c = 0; c < x.columns_count(); ++c)
        set(x, changed, c, get(x, changed, c) + 1000);
    after.forward(form);
    before.backward(form);
    after.backward(form);
    for (std::int64_t row = 0; row < before.query_rows(); ++row) {
      const bool reached = row >= changed && row < 150;
      bool same = true;
      for (std::int64_t c = 0; c < before.out.tensor().columns_count(); ++c)
        same &= get(before.out, row, c) == get(after.out, row, c);
      EXPECT_EQ(same, !reached) << "row " << row << " " << name_of(form);
      if (row < 70 || row >= 150) {
        EXPECT_EQ(get(before.dk, row, 0), get(after.dk, row, 0)) << "row " << row;
        EXPECT_EQ(get(before.dv, row, 0), get(after.dv, row, 0)) << "row " << row;
      }
    }
  }
}

TEST(LinearAttention, ThreadsDoNotChangeABit) {
  const int threads = omp_get_max_threads();
  for (LinearForm form : kForms) {
    const LinearCase setup{.query_lengths = {70, 0, 129, 5, 64},
                           .shape = shape_of(4, 2, 8, 16),
                           .gamma = {0.9, 0.3, 1.0, 0.99},
                           .dtype = DType::f32};
    LinearBatch one(setup), two(setup);
    omp_set_num_threads(1);
    one.forward(form);
    one.backward(form);
    omp_set_num_threads(2);
    two.forward(form);
    two.backward(form);
    omp_set_num_threads(threads);
    EXPECT_EQ(values(one.out), values(two.out));
    EXPECT_EQ(values(one.final_s), values(two.final_s));
    EXPECT_EQ(values(one.dq), values(two.dq));
    EXPECT_EQ(values(one.dk), values(two.dk));
    EXPECT_EQ(values(one.dv), values(two.dv));
    EXPECT_EQ(values(one.dgamma), values(two.dgamma));
  }
}

TEST(LinearAttention, SumsOfBfloat16DoNotStopGrowing) {
  for (LinearForm form : kForms) {
    LinearBatch batch(
        {.query_lengths = {3001}, .shape = shape_of(1, 1, 4, 16), .dtype = DType::bf16});
    for (const Tensor& x : {batch.q.tensor(), batch.k.tensor(), batch.v.tensor()})
      each(x, [&](auto row, auto column) { set(x, row, column, 1); });
    batch.forward(form);
    EXPECT_EQ(get(batch.final_z, 0, 2), 3001);
    EXPECT_EQ(get(batch.final_s, 0, 20), 3001);
    EXPECT_EQ(get(batch.denominator, 3000, 0), 4 * 3001);
    EXPECT_EQ(get(batch.out, 3000, 5), 1);
  }
}

TEST(LinearAttention, NoDecayEqualsADecayOfOne) {
  const LinearCase plain{.query_lengths = {100, 65}, .shape = shape_of(2, 2, 4, 8)};
  LinearCase decay = plain;
  decay.gamma = {1.0};
  for (LinearForm form : kForms) {
    LinearBatch a(plain), b(decay);
    a.forward(form);
    b.forward(form);
    a.backward(form);
    b.backward(form);
    expect_close(b.out, values(a.out), "out");
    expect_close(b.dk, values(a.dk), "dk");
  }
}

TEST(LinearAttention, WrongArgumentsFail) {
  LinearBatch batch({.query_lengths = {5, 6}, .shape = shape_of(4, 2, 3, 8)});
  const LinearAttentionShape right = batch.shape;
  EXPECT_NO_THROW(batch.forward(LinearForm::automatic));
  for (auto spoil : std::vector<std::function<void(LinearAttentionShape&)>>{
           [](auto& s) { s.heads = 3; }, [](auto& s) { s.value_heads = 3; },
           [](auto& s) { s.feature_size = 0; }, [](auto& s) { s.head_dim = 4; },
           [](auto& s) { s.chunk = 0; }, [](auto& s) { s.clamp = 0; }}) {
    batch.shape = right;
    spoil(batch.shape);
    EXPECT_THROW(batch.forward(LinearForm::automatic), Error);
    EXPECT_THROW(batch.backward(LinearForm::automatic), Error);
  }
  for (double gamma : {0.0, 1.1, -1.0, std::nan("")}) {
    LinearBatch decayed({.query_lengths = {5}, .shape = right, .gamma = {gamma}});
    EXPECT_THROW(decayed.forward(LinearForm::automatic), Error) << gamma;
  }
  EXPECT_THROW(LinearBatch({.query_lengths = {5}, .key_lengths = {4}, .shape = right})
                   .forward(LinearForm::automatic),
               Error);
}

TEST(LinearAttentionHealth, CountsWhatIsDeadAndClamped) {
  const LinearAttentionShape shape = shape_of(2, 2, 3, 4);
  Guarded q = random_tensor({4, 6}, DType::f32, 1, 0, 2);  // zeros
  Guarded k = random_tensor({5, 6}, DType::f32, 1, 0, 2);
  Guarded denominator = random_tensor({4, 2}, DType::f32, 1, 0, 2);
  set(q, 3, 0, 2.5);
  set(k, 4, 4, 7);
  set(k, 1, 5, -1);
  set(denominator, 2, 1, 3);
  set(denominator, 0, 0, 0.01);
  set(denominator, 1, 0, -5);
  const LinearAttentionHealth health = linear_attention_health(q, k, denominator, shape);
  EXPECT_EQ(health.max_feature, 7);
  EXPECT_EQ(health.max_denominator, 3);
  EXPECT_EQ(health.clamped_share, 6.0 / 8);  // the float 0.01 equals the clamp: not below it
  EXPECT_EQ(health.dead_feature_share, 4.0 / 6);
  set(q, 2, 2, std::nan(""));
  EXPECT_TRUE(std::isnan(linear_attention_health(q, k, denominator, shape).max_feature));
}

}  // namespace
}  // namespace t2r::test
