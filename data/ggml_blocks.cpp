#include "data/ggml_blocks.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/base/dtype.h"

namespace t2r {
namespace {

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

/// IEEE 754 binary16.
float load_half(const std::byte* from) {
  const auto half = load<std::uint16_t>(from);
  const int exponent = (half >> 10) & 31, fraction = half & 1023;
  const float sign = (half & 0x8000) != 0 ? -1.0f : 1.0f;
  if (exponent == 31) return fraction ? std::nanf("") : sign * INFINITY;
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
  return sign * std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
}

int byte_at(const std::byte* from, int place) {
  return std::to_integer<int>(from[place]);
}

int low(int byte) {
  return byte & 15;
}
int high(int byte) {
  return byte >> 4;
}

void f32(const std::byte* block, float* out) {
  *out = load<float>(block);
}
void f16(const std::byte* block, float* out) {
  *out = load_half(block);
}
void bf16_number(const std::byte* block, float* out) {
  *out = static_cast<float>(load<bf16>(block));
}

// The first nibble of a byte is element i, the second element i + 16.

/// half d, 16 bytes: d (q - 8)
void q4_0(const std::byte* block, float* out) {
  const float d = load_half(block);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(low(byte_at(block + 2, i)) - 8);
    out[i + 16] = d * static_cast<float>(high(byte_at(block + 2, i)) - 8);
  }
}

/// half d, half m, 16 bytes: d q + m
void q4_1(const std::byte* block, float* out) {
  const float d = load_half(block), m = load_half(block + 2);
  for (int i = 0; i < 16; ++i) {
    out[i] = d * static_cast<float>(low(byte_at(block + 4, i))) + m;
    out[i + 16] = d * static_cast<float>(high(byte_at(block + 4, i))) + m;
  }
}

/// half d, 32 fifth bits, 16 bytes: d (q - 16)
void q5_0(const std::byte* block, float* out) {
  const float d = load_half(block);
  const auto fifth = load<std::uint32_t>(block + 2);
  for (int i = 0; i < 16; ++i) {
    const int first = low(byte_at(block + 6, i)) | static_cast<int>((fifth >> i & 1) << 4);
    const int second = high(byte_at(block + 6, i)) | static_cast<int>((fifth >> (i + 16) & 1) << 4);
    out[i] = d * static_cast<float>(first - 16);
    out[i + 16] = d * static_cast<float>(second - 16);
  }
}

/// half d, half m, 32 fifth bits, 16 bytes: d q + m
void q5_1(const std::byte* block, float* out) {
  const float d = load_half(block), m = load_half(block + 2);
  const auto fifth = load<std::uint32_t>(block + 4);
  for (int i = 0; i < 16; ++i) {
    const int first = low(byte_at(block + 8, i)) | static_cast<int>((fifth >> i & 1) << 4);
    const int second = high(byte_at(block + 8, i)) | static_cast<int>((fifth >> (i + 16) & 1) << 4);
    out[i] = d * static_cast<float>(first) + m;
    out[i + 16] = d * static_cast<float>(second) + m;
  }
}

/// half d, 32 signed bytes: d q
void q8_0(const std::byte* block, float* out) {
  const float d = load_half(block);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(load<std::int8_t>(block + 2 + i));
}

struct ScaleMin {
  float scale, min;
};

/// 8 scales and 8 minima of 6 bits each in 12 bytes: the first four of either in the low bits of
/// bytes 0-3 and 4-7, the others in bytes 8-11 (4 bits) and the upper bits of bytes 0-7.
ScaleMin scale_min(const std::byte* packed, int group) {
  const auto q = [&](int i) { return byte_at(packed, i); };
  if (group < 4) return {static_cast<float>(q(group) & 63), static_cast<float>(q(group + 4) & 63)};
  return {static_cast<float>(low(q(group + 4)) | q(group - 4) >> 6 << 4),
          static_cast<float>(high(q(group + 4)) | q(group) >> 6 << 4)};
}

/// half d, half m, 12 bytes of scales and minima, 32 bytes of fifth bits (Q5_K), 128 bytes:
/// d scale q - m min, in groups of 32. A byte holds element i of one group and of the next.
template <bool kFifthBits>
void q45_k(const std::byte* block, float* out) {
  const float d = load_half(block), m = load_half(block + 2);
  const std::byte* fifth = block + 16;
  const std::byte* quants = block + (kFifthBits ? 48 : 16);
  for (int pair = 0; pair < 4; ++pair)
    for (int half = 0; half < 2; ++half) {
      const int group = 2 * pair + half;
      const ScaleMin both = scale_min(block + 4, group);
      const float scale = d * both.scale, min = m * both.min;
      for (int i = 0; i < 32; ++i) {
        const int byte = byte_at(quants, 32 * pair + i);
        int q = half ? high(byte) : low(byte);
        if (kFifthBits) q |= (byte_at(fifth, i) >> group & 1) << 4;
        out[32 * group + i] = scale * static_cast<float>(q) - min;
      }
    }
}

/// 128 bytes of low nibbles, 64 bytes of upper two bits, 16 signed scales, half d:
/// d scale (q - 32), a scale for 16 elements.
void q6_k(const std::byte* block, float* out) {
  const float d = load_half(block + 208);
  for (int half = 0; half < 2; ++half) {
    const std::byte* lows = block + 64 * half;
    const std::byte* highs = block + 128 + 32 * half;
    for (int quarter = 0; quarter < 4; ++quarter)
      for (int i = 0; i < 32; ++i) {
        const int byte = byte_at(lows, i + (quarter % 2) * 32);
        const int q =
            (quarter < 2 ? low(byte) : high(byte)) | (byte_at(highs, i) >> (2 * quarter) & 3) << 4;
        const auto scale = load<std::int8_t>(block + 192 + 8 * half + 2 * quarter + i / 16);
        out[128 * half + 32 * quarter + i] =
            d * static_cast<float>(scale) * static_cast<float>(q - 32);
      }
  }
}

constexpr GgmlType kTypes[] = {
    {0, "F32", 1, 4, f32},
    {1, "F16", 1, 2, f16},
    {2, "Q4_0", 32, 18, q4_0},
    {3, "Q4_1", 32, 20, q4_1},
    {6, "Q5_0", 32, 22, q5_0},
    {7, "Q5_1", 32, 24, q5_1},
    {8, "Q8_0", 32, 34, q8_0},
    {9, "Q8_1", 32, 36, nullptr},
    {10, "Q2_K", 256, 84, nullptr},
    {11, "Q3_K", 256, 110, nullptr},
    {12, "Q4_K", 256, 144, q45_k<false>},
    {13, "Q5_K", 256, 176, q45_k<true>},
    {14, "Q6_K", 256, 210, q6_k},
    {15, "Q8_K", 256, 292, nullptr},
    {16, "IQ2_XXS", 256, 66, nullptr},
    {17, "IQ2_XS", 256, 74, nullptr},
    {18, "IQ3_XXS", 256, 98, nullptr},
    {19, "IQ1_S", 256, 50, nullptr},
    {20, "IQ4_NL", 32, 18, nullptr},
    {21, "IQ3_S", 256, 110, nullptr},
    {22, "IQ2_S", 256, 82, nullptr},
    {23, "IQ4_XS", 256, 136, nullptr},
    {24, "I8", 1, 1, nullptr},
    {25, "I16", 1, 2, nullptr},
    {26, "I32", 1, 4, nullptr},
    {27, "I64", 1, 8, nullptr},
    {28, "F64", 1, 8, nullptr},
    {29, "IQ1_M", 256, 56, nullptr},
    {30, "BF16", 1, 2, bf16_number},
    {34, "TQ1_0", 256, 54, nullptr},
    {35, "TQ2_0", 256, 66, nullptr},
    {39, "MXFP4", 32, 17, nullptr},
};

}  // namespace

const GgmlType* find_ggml_type(std::uint32_t number) {
  const auto* found = std::find_if(std::begin(kTypes), std::end(kTypes),
                                   [&](const GgmlType& type) { return type.number == number; });
  return found == std::end(kTypes) ? nullptr : found;
}

}  // namespace t2r
