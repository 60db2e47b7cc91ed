// What the writer and the reader of shards agree on.
#pragma once

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>

namespace t2r {

static_assert(std::endian::native == std::endian::little,
              "shards and weight files are little-endian and mapped as they are");

constexpr std::int64_t kNarrowVocabulary = 65536;  // up to here tokens are uint16
constexpr std::int64_t kMaxVocabulary = std::int64_t{1} << 31;
constexpr std::size_t kBlockBytes = 1 << 20;  // of /tokens under one checksum

constexpr std::size_t block_count(std::size_t bytes) {
  return (bytes + kBlockBytes - 1) / kBlockBytes;
}

inline std::span<const std::byte> block_of(std::span<const std::byte> bytes, std::size_t block) {
  const std::size_t begin = block * kBlockBytes;
  return bytes.subspan(begin, std::min(kBlockBytes, bytes.size() - begin));
}

inline std::uint64_t checksum(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

inline std::uint64_t block_checksum(std::span<const std::byte> bytes, std::size_t block) {
  return checksum(block_of(bytes, block));
}

}  // namespace t2r
