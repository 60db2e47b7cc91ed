// Philox against the known answers of its authors, and the numbers drawn from it.
#include "core/base/random.h"

#include <gtest/gtest.h>

namespace t2r {
namespace {

using Four = std::array<std::uint32_t, 4>;

/// philox4x32 with 10 rounds, from kat_vectors of Random123.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Four{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const std::uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox({ones, ones, ones, ones}, {ones, ones}),
            (Four{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Four{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(RandomBits, EveryBitOfSeedStreamAndCounterCounts) {
  const Four base = random_bits(0, 0, 0);
  for (int bit = 0; bit < 64; ++bit) {
    const std::uint64_t flipped = std::uint64_t{1} << bit;
    EXPECT_NE(random_bits(flipped, 0, 0), base) << bit;
    EXPECT_NE(random_bits(0, flipped, 0), base) << bit;
    EXPECT_NE(random_bits(0, 0, flipped), base) << bit;
  }
  EXPECT_NE(random_bits(1, 2, 3), random_bits(2, 1, 3));
  EXPECT_NE(random_bits(1, 2, 3), random_bits(1, 3, 2));
}

TEST(Uniform, StaysInItsRange) {
  EXPECT_EQ(to_uniform(0), 0.0f);
  EXPECT_EQ(to_uniform(0xff), 0.0f);
  EXPECT_EQ(to_uniform(0x80000000u), 0.5f);
  EXPECT_LT(to_uniform(0xffffffffu), 1.0f);
  double sum = 0, squares = 0;
  constexpr int kCount = 100000;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    const double u = random_uniform(7, 8, i);
    ASSERT_TRUE(u >= 0 && u < 1) << u;
    sum += u;
    squares += u * u;
  }
  EXPECT_NEAR(sum / kCount, 0.5, 4 * std::sqrt(1.0 / 12 / kCount));
  EXPECT_NEAR(squares / kCount, 1.0 / 3, 4 * std::sqrt(4.0 / 45 / kCount));
}

TEST(Normal, HasItsMoments) {
  double moments[4] = {};
  constexpr int kCount = 100000;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    const double z = random_normal(7, 8, i);
    ASSERT_TRUE(std::isfinite(z));
    for (int m = 0; m < 4; ++m) moments[m] += std::pow(z, m + 1) / kCount;
  }
  const double sigma = 1 / std::sqrt(kCount);
  EXPECT_NEAR(moments[0], 0, 4 * sigma);
  EXPECT_NEAR(moments[1], 1, 4 * std::sqrt(2.0) * sigma);
  EXPECT_NEAR(moments[2], 0, 4 * std::sqrt(15.0) * sigma);
  EXPECT_NEAR(moments[3], 3, 4 * std::sqrt(96.0) * sigma);
}

}  // namespace
}  // namespace t2r
