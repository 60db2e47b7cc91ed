// Dropout on the CPU: random bits for a piece of a row at a time, then one masked loop.
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "kernels/cpu.h"
#include "kernels/dropout.h"
#include "kernels/pointwise.h"

namespace t2r {
namespace {

constexpr std::int64_t kLanes = 8;  // draws made at once

#ifdef __AVX512F__

using Lanes = std::uint64_t __attribute__((vector_size(kLanes * sizeof(std::uint64_t))));

/// The lower halves of the lanes times `factor`, all 64 bits: the one instruction that g++ does not
/// find by itself. (The masked form is the one whose header g++ 12 compiles without a warning.)
inline Lanes multiply(Lanes a, std::uint32_t factor) {
  return std::bit_cast<Lanes>(
      _mm512_maskz_mul_epu32(__mmask8{0xFF}, std::bit_cast<__m512i>(a), _mm512_set1_epi64(factor)));
}

/// bits[4 i + lane] = lane of random_bits(seed, stream, counter + i), for i < count rounded up to
/// whole kLanes. This is philox() of core/base/random.h with a draw in each 64-bit lane, of which
/// only the lower half counts.
void fill_bits(std::uint32_t* bits, const Dropout& dropout, std::uint64_t counter,
               std::int64_t count) {
  const auto seed_high = static_cast<std::uint32_t>(dropout.seed >> 32);
  for (std::int64_t i = 0; i < count; i += kLanes) {
    Lanes c0 = counter + static_cast<std::uint64_t>(i) + Lanes{0, 1, 2, 3, 4, 5, 6, 7};
    Lanes c1 = c0 >> 32, c2 = Lanes{} + dropout.stream, c3 = c2 >> 32;
    auto key0 = static_cast<std::uint32_t>(dropout.seed), key1 = seed_high;
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const Lanes a = multiply(c0, 0xD2511F53u), b = multiply(c2, 0xCD9E8D57u);
      c0 = (b >> 32) ^ c1 ^ key0;
      c1 = b;
      c2 = (a >> 32) ^ c3 ^ key1;
      c3 = a;
      key0 += 0x9E3779B9u;
      key1 += 0xBB67AE85u;
    }
    const Lanes first = (c0 & 0xFFFFFFFFu) | (c1 << 32), second = (c2 & 0xFFFFFFFFu) | (c3 << 32);
    const Lanes low = __builtin_shufflevector(first, second, 0, 8, 1, 9, 2, 10, 3, 11);
    const Lanes high = __builtin_shufflevector(first, second, 4, 12, 5, 13, 6, 14, 7, 15);
    std::memcpy(bits + 4 * i, &low, sizeof low);
    std::memcpy(bits + 4 * i + 2 * kLanes, &high, sizeof high);
  }
}

#else

void fill_bits(std::uint32_t* bits, const Dropout& dropout, std::uint64_t counter,
               std::int64_t count) {
  const std::uint64_t seed = dropout.seed, stream = dropout.stream;
#pragma omp simd
  for (std::int64_t i = 0; i < count; ++i) {
    const auto four = random_bits(seed, stream, counter + static_cast<std::uint64_t>(i));
    bits[4 * i] = four[0];
    bits[4 * i + 1] = four[1];
    bits[4 * i + 2] = four[2];
    bits[4 * i + 3] = four[3];
  }
}

#endif

/// The bits at and above which an element is kept: to_uniform(bits) >= rate, without the division.
std::uint32_t keep_from(float rate) {
  check(rate >= 0 && rate < 1, "a dropout rate of {}: it must be in [0, 1)", rate);
  return static_cast<std::uint32_t>(std::ceil(rate * 0x1p24f)) << 8;
}

void check_same(const Tensor& a, const Tensor& b, const char* what) {
  check_shape(a, b.shape, what);
  check(a.dtype == b.dtype, "{} is {} and its input {}", what, name_of(a.dtype), name_of(b.dtype));
}

/// y = residual + x * mask / (1 - rate), with and without each part.
void apply(Tensor y, Tensor x, Tensor residual, const Dropout& dropout) {
  const std::uint32_t threshold = keep_from(dropout.rate);
  const std::int64_t rows = x.rows(), n = x.columns_count();
  dispatch(x.dtype, [&]<class T>() {
    using A = accumulate_t<T>;
    const A scale = static_cast<A>(1 / (1 - static_cast<double>(dropout.rate)));
    T* const y0 = y.as<T>();
    const T* const x0 = x.as<T>();
    const T* const residual0 = residual ? residual.as<T>() : nullptr;
    for_each_piece(rows, n, [&](std::int64_t row, std::int64_t begin, std::int64_t end) {
      T* const to = y0 + row * y.row_stride + begin;
      const T* const from = x0 + row * x.row_stride + begin;
      const T* const base = residual0 ? residual0 + row * residual.row_stride + begin : nullptr;
      const std::int64_t count = end - begin;
      if (!dropout.active()) {
        if (base) {
#pragma omp simd
          for (std::int64_t i = 0; i < count; ++i)
            store(to[i], static_cast<A>(base[i]) + static_cast<A>(from[i]));
        } else {
#pragma omp simd
          for (std::int64_t i = 0; i < count; ++i) store(to[i], static_cast<A>(from[i]));
        }
        return;
      }
      const std::int64_t global_row = dropout.row_ids ? dropout.row_ids[row] : row;
      const std::int64_t whole = dropout.whole_columns ? dropout.whole_columns : n;
      const auto first =
          static_cast<std::uint64_t>(global_row * whole + dropout.first_column + begin);
      const auto lane = static_cast<std::int64_t>(first % 4);  // a row may begin inside a four
      alignas(64) std::array<std::uint32_t, kPieceElements + 8 * kLanes> memory;
      fill_bits(memory.data(), dropout, first / 4, (lane + count + 3) / 4);
      const std::uint32_t* const bits = memory.data() + lane;
      if (base) {
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) {
          const A scaled = static_cast<A>(from[i]) * scale;
          store(to[i], static_cast<A>(base[i]) + (bits[i] >= threshold ? scaled : A{0}));
        }
      } else {
#pragma omp simd
        for (std::int64_t i = 0; i < count; ++i) {
          const A scaled = static_cast<A>(from[i]) * scale;
          store(to[i], bits[i] >= threshold ? scaled : A{0});
        }
      }
    });
  });
}

}  // namespace

void dropout_add_forward(Queue queue, Tensor y, Tensor x, Tensor residual, const Dropout& dropout) {
  check_cpu("dropout_add_forward", queue, y, x, residual);
  check_same(y, x, "the dropout's output");
  if (residual) check_same(residual, x, "the dropout's residual");
  apply(y, x, residual, dropout);
}

void dropout_backward(Queue queue, Tensor dx, Tensor dy, const Dropout& dropout) {
  check_cpu("dropout_backward", queue, dx, dy);
  check_same(dx, dy, "the dropout's input gradient");
  apply(dx, dy, Tensor(), dropout);
}

}  // namespace t2r
