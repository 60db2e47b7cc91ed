// exp, tanh and sigmoid without branches or calls, so that `#pragma omp simd` loops over float
// vectorise. In double they are the standard library's: that is the reference precision.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace t2r {

/// e^x. Double: std::exp. Float: relative error below 1.2e-7; 0 below -87.33, infinity above 88.37,
/// NaN for NaN. Reduction to |r| <= ln(2)/2 and the polynomial of Cephes (Moshier), expf.
template <class T>
inline T fast_exp(T x) {
  return std::exp(x);
}
template <>
inline float fast_exp(float x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest integer below
  const float shifted = x * 1.44269504088896341f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const auto exponent = (std::bit_cast<std::uint32_t>(shifted) << 23) + 0x3F800000u;  // of 2^n
  const float y = p * std::bit_cast<float>(exponent);
  const float low = x < -87.33f ? 0.0f : y;
  return x > 88.37f ? std::numeric_limits<float>::infinity() : low;
}

/// tanh x. Float: relative error below 2e-7. Polynomial of Cephes, tanhf, near 0.
template <class T>
inline T fast_tanh(T x) {
  return std::tanh(x);
}
template <>
inline float fast_tanh(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const float small = p * z * x + x;
  const float size = std::abs(x);
  const float large = std::copysign(1.0f - 2.0f / (fast_exp(2.0f * size) + 1.0f), x);
  return size < 0.625f ? small : large;
}

/// 1 / (1 + e^-x).
template <class T>
inline T fast_sigmoid(T x) {
  return T(1) / (T(1) + fast_exp(-x));
}

}  // namespace t2r
