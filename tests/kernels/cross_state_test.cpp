// The two uses that decoding makes of cross linear attention: keys without queries give the state
// of a source, and queries without keys read it.
#include <gtest/gtest.h>

#include "kernels/linear_attention.h"
#include "tests/kernels/linear_attention_reference.h"
#include "tests/kernels/testing.h"

namespace t2r::test {
namespace {

const LinearForm kForms[] = {LinearForm::automatic, LinearForm::recurrent, LinearForm::masked,
                             LinearForm::chunkwise};

LinearCase cross_case(std::int64_t k, DType dtype) {
  LinearCase setup;
  setup.shape.heads = 4;
  setup.shape.value_heads = 2;
  setup.shape.feature_size = k;
  setup.shape.head_dim = 8;
  setup.shape.causal = false;
  setup.dtype = dtype;
  return setup;
}

TEST(CrossState, KeysWithoutQueriesGiveTheState) {
  for (DType dtype : kAllDTypes)
    for (std::int64_t k : {1, 5, 32}) {
      LinearCase setup = cross_case(k, dtype);
      setup.query_lengths = {0, 0, 0, 0, 0};
      setup.key_lengths = {7, 0, 1, 64, 131};
      LinearBatch batch(setup);
      const LinearReference expected(batch);
      for (LinearForm form : kForms) {
        SCOPED_TRACE(static_cast<int>(form));
        batch.forward(form);
        expect_close(batch.final_s, expected.final_s, "final S");
        expect_close(batch.final_z, expected.final_z, "final z");
      }
    }
}

TEST(CrossState, QueriesWithoutKeysReadTheInitialState) {
  for (DType dtype : kAllDTypes)
    for (std::int64_t k : {1, 5, 32}) {
      LinearCase setup = cross_case(k, dtype);
      setup.initial = true;
      setup.query_lengths = {5, 5, 1, 0, 70};
      setup.key_lengths = {0, 0, 0, 0, 0};
      LinearBatch batch(setup);
      const LinearReference expected(batch);
      for (LinearForm form : kForms)
        for (bool with_final : {true, false}) {
          SCOPED_TRACE(static_cast<int>(form));
          batch.forward(form, with_final);
          expect_close(batch.out, expected.out, "out");
          expect_close(batch.denominator, expected.denominator, "denominator");
          if (!with_final) continue;
          expect_close(batch.final_s, expected.final_s, "final S");
          expect_close(batch.final_z, expected.final_z, "final z");
        }
    }
}

}  // namespace
}  // namespace t2r::test
