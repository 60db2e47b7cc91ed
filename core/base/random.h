// Counter-based random numbers: every value is a function of (seed, stream, counter) alone, so any
// rank, thread or device draws the same value for the same element.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace t2r {

/// Philox4x32-10 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3").
inline std::array<std::uint32_t, 4> philox(std::array<std::uint32_t, 4> counter,
                                           std::array<std::uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * counter[0];
    const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * counter[2];
    counter = {
        static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
        static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

/// Four 32-bit values for `counter` of the stream (seed, stream).
inline std::array<std::uint32_t, 4> random_bits(std::uint64_t seed, std::uint64_t stream,
                                                std::uint64_t counter) {
  return philox({static_cast<std::uint32_t>(counter), static_cast<std::uint32_t>(counter >> 32),
                 static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)},
                {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)});
}

/// Uniform in [0, 1), 24 bits.
inline float to_uniform(std::uint32_t bits) {
  return static_cast<float>(bits >> 8) * 0x1p-24f;
}

/// Uniform in [0, 1), 53 bits, for `counter` of the stream.
inline double random_uniform(std::uint64_t seed, std::uint64_t stream, std::uint64_t counter) {
  const auto r = random_bits(seed, stream, counter);
  return static_cast<double>((std::uint64_t{r[0]} << 21) ^ (r[1] >> 11)) * 0x1p-53;
}

/// Standard normal (Box-Muller) for `counter` of the stream.
inline double random_normal(std::uint64_t seed, std::uint64_t stream, std::uint64_t counter) {
  const auto r = random_bits(seed, stream, counter);
  const double u = (static_cast<double>(r[0]) + 0.5) * 0x1p-32;
  const double v = static_cast<double>(r[1]) * 0x1p-32;
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

}  // namespace t2r
