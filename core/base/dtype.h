// Element types, bfloat16, and the step from a run-time type to a template parameter.
#pragma once

#include <bit>
#include <cstdint>
#include <string_view>
#include <type_traits>
#include <utility>

#include "core/base/error.h"

namespace t2r {

/// bfloat16: the upper half of a float. Storage only: arithmetic happens in float.
struct bf16 {
  std::uint16_t bits = 0;

  bf16() = default;
  /// Rounds to nearest, ties to even; NaN stays NaN.
  bf16(float value) {  // NOLINT(google-explicit-constructor): reads like a number
    const auto word = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t rounded = (word + 0x7FFFu + ((word >> 16) & 1u)) >> 16;
    const bool nan = (word & 0x7FFFFFFFu) > 0x7F800000u;
    bits = static_cast<std::uint16_t>(nan ? 0x7FC0u | (word >> 16) : rounded);
  }
  operator float() const {  // NOLINT(google-explicit-constructor)
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
};

enum class DType : std::uint8_t { f32, f64, bf16 };

/// The type that sums over elements of T are kept in: float for float and bf16, double for double.
template <class T>
using accumulate_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

constexpr std::int64_t size_of(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
}

constexpr std::string_view name_of(DType dtype) {
  return dtype == DType::f64 ? "fp64" : dtype == DType::f32 ? "fp32" : "bf16";
}

/// The type of gradients, statistics and states beside storage of type `dtype`.
constexpr DType accumulate_dtype(DType dtype) {
  return dtype == DType::f64 ? DType::f64 : DType::f32;
}

template <class T>
constexpr DType dtype_of() {
  if constexpr (std::is_same_v<T, double>) return DType::f64;
  if constexpr (std::is_same_v<T, float>) return DType::f32;
  if constexpr (std::is_same_v<T, bf16>) return DType::bf16;
}

/// "fp32", "fp64" or "bf16"; anything else is a usage error.
inline DType parse_dtype(std::string_view name) {
  for (DType dtype : {DType::f32, DType::f64, DType::bf16})
    if (name == name_of(dtype)) return dtype;
  fail_usage("unknown precision '{}': choose fp32, bf16 or fp64", name);
}

/// Calls f.template operator()<T>() with the C++ type of `dtype`.
template <class F>
decltype(auto) dispatch(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return std::forward<F>(f).template operator()<float>();
    case DType::f64:
      return std::forward<F>(f).template operator()<double>();
    case DType::bf16:
      break;
  }
  return std::forward<F>(f).template operator()<bf16>();
}

}  // namespace t2r
