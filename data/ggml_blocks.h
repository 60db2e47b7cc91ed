// The element types of GGUF files: plain numbers, and blocks of quantised ones that share scales.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace t2r {

struct GgmlType {
  std::uint32_t number;   // in the file
  std::string_view name;  // "F32", "Q4_K", ...
  std::int64_t elements;  // of a block; 1 for plain numbers
  std::int64_t bytes;     // of a block
  /// Block to floats: `elements` of them. Null for types that are known but cannot be read.
  void (*to_floats)(const std::byte* block, float* out);
};

/// Null for a number that is no type of this version. Layouts: ggml/src/ggml-common.h and
/// ggml-quants.c of https://github.com/ggml-org/ggml. F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0,
/// Q4_K, Q5_K and Q6_K can be read.
const GgmlType* find_ggml_type(std::uint32_t number);

}  // namespace t2r
