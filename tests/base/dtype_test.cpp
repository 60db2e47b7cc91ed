// bfloat16 rounding, exhaustively where that is cheap, and the names and dispatch of types.
#include "core/base/dtype.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace t2r {
namespace {

float from_bits(std::uint32_t bits) {
  return std::bit_cast<float>(bits);
}

TEST(Bf16, EveryValueSurvivesTheWayThroughFloat) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    bf16 x;
    x.bits = static_cast<std::uint16_t>(bits);
    const bf16 back(static_cast<float>(x));
    if (std::isnan(static_cast<float>(x)))
      EXPECT_TRUE(std::isnan(static_cast<float>(back))) << bits;
    else
      EXPECT_EQ(back.bits, x.bits);
  }
}

TEST(Bf16, TiesGoToEven) {
  EXPECT_EQ(bf16(from_bits(0x3f808000)).bits, 0x3f80);  // half-way, even below
  EXPECT_EQ(bf16(from_bits(0x3f818000)).bits, 0x3f82);  // half-way, even above
  EXPECT_EQ(bf16(from_bits(0x3f808001)).bits, 0x3f81);  // a little more than half-way
  EXPECT_EQ(bf16(from_bits(0x3f817fff)).bits, 0x3f81);  // a little less
  EXPECT_EQ(bf16(from_bits(0xbf808000)).bits, 0xbf80);
  EXPECT_EQ(bf16(from_bits(0xbf818000)).bits, 0xbf82);
}

TEST(Bf16, RoundsToTheNearest) {
  for (std::uint32_t i = 0; i < 200000; ++i) {
    const float x = from_bits(i * 21475u);  // a walk over all exponents and signs
    if (!std::isfinite(x)) continue;
    const float rounded = bf16(x);
    if (!std::isfinite(rounded)) continue;
    bf16 down, up;
    down.bits = static_cast<std::uint16_t>(bf16(x).bits - 1);
    up.bits = static_cast<std::uint16_t>(bf16(x).bits + 1);
    const double error = std::abs(static_cast<double>(rounded) - x);
    for (const float other : {static_cast<float>(down), static_cast<float>(up)}) {
      if (!std::isfinite(other)) continue;
      EXPECT_LE(error, std::abs(static_cast<double>(other) - x)) << x;
    }
  }
}

TEST(Bf16, InfinityAndOverflow) {
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(static_cast<float>(bf16(infinity)), infinity);
  EXPECT_EQ(static_cast<float>(bf16(-infinity)), -infinity);
  EXPECT_EQ(static_cast<float>(bf16(std::numeric_limits<float>::max())), infinity);
  EXPECT_EQ(static_cast<float>(bf16(from_bits(0x7f7f7fff))), from_bits(0x7f7f0000));
}

/// The payload may lie in the half that is cut off, and rounding must not carry it away.
TEST(Bf16, NotANumberStays) {
  for (std::uint32_t bits : {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu})
    EXPECT_TRUE(std::isnan(static_cast<float>(bf16(from_bits(bits))))) << bits;
}

TEST(Bf16, SignedZeroAndSubnormals) {
  EXPECT_EQ(bf16(0.0f).bits, 0);
  EXPECT_EQ(bf16(-0.0f).bits, 0x8000);
  EXPECT_EQ(bf16(from_bits(0x00010000)).bits, 1);
  EXPECT_EQ(bf16(from_bits(0x00007fff)).bits, 0);
  EXPECT_EQ(bf16(from_bits(0x00008001)).bits, 1);
}

TEST(DType, NamesSizesAndAccumulation) {
  for (DType dtype : {DType::f32, DType::f64, DType::bf16}) {
    EXPECT_EQ(parse_dtype(name_of(dtype)), dtype);
    const std::int64_t size = dispatch(
        dtype, []<class T>() -> std::int64_t { return static_cast<std::int64_t>(sizeof(T)); });
    EXPECT_EQ(size, size_of(dtype));
    EXPECT_EQ(dispatch(dtype, []<class T>() { return dtype_of<T>(); }), dtype);
    EXPECT_EQ(dispatch(dtype, []<class T>() { return dtype_of<accumulate_t<T>>(); }),
              accumulate_dtype(dtype));
  }
  EXPECT_EQ(accumulate_dtype(DType::bf16), DType::f32);
}

TEST(DType, AnUnknownNameIsAUsageError) {
  for (const char* name : {"fp16", "", "FP32", "float"}) {
    try {
      parse_dtype(name);
      ADD_FAILURE() << name << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.status(), kExitUsage);
      EXPECT_NE(std::string(error.what()).find("fp32"), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace t2r
