// Working memory of one thread inside a kernel, kept between calls: the first touch of fresh pages
// costs 40-100 times a second one, so a kernel must not allocate large temporaries of its own.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/base/arena.h"

namespace t2r {

/// Arrays of the calling thread that live until the end of the scope, last in, first out. Scopes
/// may be nested. Elements are whatever was there before.
class ScratchScope {
 public:
  ScratchScope() : pool_(pool_of_this_thread()), blocks_(pool_.size()), marks_(blocks_) {
    for (std::size_t i = 0; i < blocks_; ++i) marks_[i] = pool_[i].arena.used();
  }
  ~ScratchScope() {
    for (std::size_t i = 0; i < pool_.size(); ++i)
      pool_[i].arena.release(i < blocks_ ? marks_[i] : 0);
  }
  ScratchScope(const ScratchScope&) = delete;
  ScratchScope& operator=(const ScratchScope&) = delete;

  /// `count` elements, 64-byte aligned.
  template <class T>
  T* array(std::int64_t count) {
    const auto bytes = (count * static_cast<std::int64_t>(sizeof(T)) + 63) / 64 * 64;
    for (Block& block : pool_)
      if (bytes <= block.capacity - block.arena.used()) return block.arena.allocate_array<T>(count);
    // A block is at least as large as all before it, so that few are ever needed.
    std::int64_t capacity = std::max(kFirstBlock, bytes);
    for (const Block& block : pool_) capacity += block.capacity;
    pool_.push_back({Arena(capacity), capacity});
    return pool_.back().arena.allocate_array<T>(count);
  }

 private:
  struct Block {
    Arena arena;
    std::int64_t capacity;
  };
  static constexpr std::int64_t kFirstBlock = 2 << 20;

  static std::vector<Block>& pool_of_this_thread() {
    thread_local std::vector<Block> pool;
    return pool;
  }

  std::vector<Block>& pool_;
  std::size_t blocks_;
  std::vector<std::int64_t> marks_;
};

}  // namespace t2r
