// Linear attention on stretches of a sequence: states go in at one end, gradients at the other.
#include <gtest/gtest.h>

#include "kernels/elementwise.h"
#include "tests/kernels/linear_attention_reference.h"
#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

const LinearForm kForms[] = {LinearForm::recurrent, LinearForm::chunkwise, LinearForm::automatic};

/// A state for each segment of a batch.
struct State {
  Guarded s, z;

  explicit State(const LinearBatch& batch)
      : s(poisoned({batch.count(), batch.heads(), batch.features(), batch.dim()}, batch.sums)),
        z(poisoned({batch.count(), batch.heads(), batch.features()}, batch.sums)) {}
  State(const LinearBatch& batch, std::uint64_t seed)
      : s(random_tensor({batch.count(), batch.heads(), batch.features(), batch.dim()}, batch.sums,
                        seed, 1, 0)),
        z(random_tensor({batch.count(), batch.heads(), batch.features()}, batch.sums, seed + 1, 1,
                        0)) {}
  operator LinearState() { return {s, z}; }
};

/// Forward and backward over one sequence, piece by piece.
void expect_pieces_give_the_whole(const LinearCase& setup, const std::vector<std::int64_t>& cuts,
                                  LinearForm form, double limit) {
  LinearBatch whole(setup), pieces(setup);
  whole.forward(LinearForm::recurrent);
  whole.backward(LinearForm::recurrent);
  const auto rows = [&](const Guarded& x, std::size_t p) {
    return x.tensor().row_range(cuts[p], cuts[p + 1]);
  };
  std::vector<State> before;  // of each piece, and after the last
  before.emplace_back(pieces, 0);
  for (Guarded* x : {&before[0].s, &before[0].z})
    each(*x, [&](auto row, auto column) { set(*x, row, column, 0); });
  for (std::size_t p = 0; p + 1 < cuts.size(); ++p) {
    const Lengths part({cuts[p + 1] - cuts[p]});
    before.emplace_back(pieces);
    linear_attention_forward({}, rows(pieces.out, p), rows(pieces.denominator, p),
                             rows(pieces.q, p), rows(pieces.k, p), rows(pieces.v, p),
                             part.segments(), part.segments(), pieces.shape, pieces.decay(),
                             before[p], before[p + 1], form);
  }
  expect_close(pieces.out, values(whole.out), "out", limit);
  expect_close(before.back().s, values(whole.final_s), "S", limit);

  if (pieces.decay())
    for (std::int64_t h = 0; h < pieces.heads(); ++h) set(pieces.dgamma, h, 0, 1);
  State after(pieces, 0);
  for (Guarded* x : {&after.s, &after.z})
    each(*x, [&](auto row, auto column) { set(*x, row, column, 0); });
  for (std::size_t p = cuts.size() - 1; p-- > 0;) {
    const Lengths part({cuts[p + 1] - cuts[p]});
    State gradient(pieces);
    linear_attention_backward({}, rows(pieces.dq, p), rows(pieces.dk, p), rows(pieces.dv, p),
                              pieces.decay() ? pieces.dgamma.tensor() : Tensor(),
                              rows(pieces.dout, p), rows(pieces.out, p),
                              rows(pieces.denominator, p), rows(pieces.q, p), rows(pieces.k, p),
                              rows(pieces.v, p), part.segments(), part.segments(), pieces.shape,
                              pieces.decay(), form, {before[p], after, gradient});
    t2r::copy({}, after.s, gradient.s);
    t2r::copy({}, after.z, gradient.z);
  }
  expect_close(pieces.dq, values(whole.dq), "dq", limit);
  expect_close(pieces.dk, values(whole.dk), "dk", limit);
  expect_close(pieces.dv, values(whole.dv), "dv", limit);
  if (pieces.decay()) expect_close(pieces.dgamma, values(whole.dgamma), "dgamma", limit);
}

TEST(LinearAttentionEnds, PiecesGiveTheWhole) {
  for (LinearForm form : kForms)
    for (bool decay : {false, true})
      for (const std::vector<std::int64_t>& cuts : {std::vector<std::int64_t>{0, 0},
                                                    {0, 2},
                                                    {0, 0, 1, 2, 2},
                                                    {0, 75, 150},
                                                    {0, 0, 1, 66, 66},
                                                    {0, 32, 33, 97, 130},
                                                    {0, 2, 4, 6}}) {
        SCOPED_TRACE(fmt::format("form {}, decay {}, {} tokens in {} pieces",
                                 static_cast<int>(form), decay, cuts.back(), cuts.size() - 1));
        LinearCase setup{.query_lengths = {cuts.back()}, .shape = shape_of(4, 2, 5, 9, 16)};
        if (decay) setup.gamma = {0.95, 0.3, 1.0, 0.99};
        expect_pieces_give_the_whole(setup, cuts, form, 1e-10);
        setup.signed_features = true;  // the clamp is active here and there
        expect_pieces_give_the_whole(setup, cuts, form, 1e-10);
      }
}

TEST(LinearAttentionEnds, SinglePrecisionAndBfloat16) {
  for (DType dtype : {DType::f32, DType::bf16})
    expect_pieces_give_the_whole({.query_lengths = {200},
                                  .shape = shape_of(4, 2, 8, 64, 64),
                                  .gamma = {0.95, 0.9, 1.0, 0.99},
                                  .dtype = dtype},
                                 {0, 70, 71, 200}, LinearForm::automatic, tolerance(dtype));
}

TEST(LinearAttentionEnds, EveryGradientByCentralDifferences) {
  for (LinearForm form : kForms)
    for (bool decay : {false, true}) {
      LinearCase setup{.query_lengths = {0, 1, 6, 9}, .shape = shape_of(4, 2, 3, 5, 4)};
      setup.initial = true;
      if (decay) setup.gamma = {0.9, 0.2, 0.99, 0.5};
      LinearBatch batch(setup);
      State dfinal(batch, 77), dinitial(batch);
      SCOPED_TRACE(fmt::format("form {}, decay {}", static_cast<int>(form), decay));
      const auto loss = [&] {
        batch.forward(form);
        return dot(batch.out, batch.dout) + dot(batch.final_s, dfinal.s) +
               dot(batch.final_z, dfinal.z);
      };
      loss();
      if (decay)
        for (std::int64_t h = 0; h < batch.heads(); ++h) set(batch.dgamma, h, 0, 0);
      linear_attention_backward(
          {}, batch.dq, batch.dk, batch.dv, decay ? batch.dgamma.tensor() : Tensor(), batch.dout,
          batch.out, batch.denominator, batch.q, batch.k, batch.v, batch.queries.segments(),
          batch.keys.segments(), batch.shape, batch.decay(), form,
          {{batch.initial_s, batch.initial_z}, dfinal, dinitial});
      expect_gradient(batch.q, batch.dq, loss, "q");
      expect_gradient(batch.k, batch.dk, loss, "k");
      expect_gradient(batch.v, batch.dv, loss, "v");
      expect_gradient(batch.initial_s, dinitial.s, loss, "initial S");
      expect_gradient(batch.initial_z, dinitial.z, loss, "initial z");
      if (decay) expect_gradient(batch.gamma, batch.dgamma, loss, "gamma");
    }
}

/// The passes that make states only give what the whole passes give.
TEST(LinearAttentionEnds, StatesAlone) {
  for (DType dtype : kAllDTypes)
    for (bool decay : {false, true}) {
      LinearCase setup{.query_lengths = {0, 1, 63, 64, 65, 130},
                       .shape = shape_of(4, 2, 8, 12, 64),
                       .dtype = dtype};
      if (decay) setup.gamma = {0.9, 0.05, 1.0, 0.5};
      LinearBatch batch(setup);
      batch.forward(LinearForm::recurrent);
      State state(batch);
      linear_attention_state({}, state, batch.k, batch.v, batch.keys.segments(), batch.shape,
                             batch.decay());
      const double limit = dtype == DType::f64 ? 1e-12 : 1e-5;
      expect_close(state.s, values(batch.final_s), "S", limit);
      expect_close(state.z, values(batch.final_z), "z", limit);

      setup.initial = true;
      LinearBatch begun(setup);
      begun.forward(LinearForm::recurrent);
      State expected(begun), alone(begun);
      linear_attention_backward(
          {}, begun.dq, begun.dk, begun.dv, {}, begun.dout, begun.out, begun.denominator, begun.q,
          begun.k, begun.v, begun.queries.segments(), begun.keys.segments(), begun.shape,
          begun.decay(), LinearForm::recurrent, {{begun.initial_s, begun.initial_z}, {}, expected});
      linear_attention_state_backward({}, alone, begun.dout, begun.out, begun.denominator, begun.q,
                                      begun.queries.segments(), begun.shape, begun.decay());
      expect_close(alone.s, values(expected.s), "dS", limit);
      expect_close(alone.z, values(expected.z), "dz", limit);
    }
}

TEST(LinearAttentionEnds, WhatIsNotSupportedIsSaid) {
  LinearCase setup{.query_lengths = {5, 6}, .shape = shape_of(4, 2, 3, 8, 64)};
  setup.initial = true;
  const auto backward = [&](bool causal, LinearForm form, bool initial) {
    setup.shape.causal = causal;
    LinearBatch batch(setup);
    batch.forward(form);
    State dinitial(batch);
    LinearEnds ends{{}, {}, dinitial};
    if (initial) ends.initial = {batch.initial_s, batch.initial_z};
    linear_attention_backward({}, batch.dq, batch.dk, batch.dv, {}, batch.dout, batch.out,
                              batch.denominator, batch.q, batch.k, batch.v,
                              batch.queries.segments(), batch.keys.segments(), batch.shape, {},
                              form, ends);
  };
  EXPECT_NO_THROW(backward(true, LinearForm::automatic, true));
  EXPECT_THROW(backward(true, LinearForm::masked, true), Error);
  EXPECT_THROW(backward(false, LinearForm::automatic, true), Error);
  EXPECT_THROW(backward(true, LinearForm::automatic, false), Error);
}

}  // namespace
}  // namespace t2r::test
