// One reservation of memory that tensors are cut from. Pages are touched once, then reused every
// step: a first touch costs 40-100 times a second one, so nothing is freed inside a training step.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/base/tensor.h"

namespace t2r {

class Arena {
 public:
  /// Reserves address space for `capacity` bytes, on huge pages where the system has them. Memory
  /// is used only as it is touched.
  explicit Arena(std::int64_t capacity);
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// A contiguous tensor, 64-byte aligned. Its elements are whatever was there before (NaN under
  /// T2R_POISON builds). Throws when the reservation is used up, saying by how much.
  Tensor allocate(Shape shape, DType dtype);

  /// As allocate, for plain values.
  template <class T>
  T* allocate_array(std::int64_t count) {
    return static_cast<T*>(allocate_bytes(count, sizeof(T)));
  }

  std::int64_t used() const { return used_; }
  /// The most that was ever used at once.
  std::int64_t peak() const { return peak_; }
  /// Gives back everything allocated since `mark` (a former value of used()).
  void release(std::int64_t mark);
  void reset() { release(0); }

 private:
  void* allocate_bytes(std::int64_t count, std::int64_t size);

  std::byte* base_ = nullptr;
  std::int64_t capacity_ = 0, used_ = 0, peak_ = 0;
};

/// Gives back what was allocated in a scope.
class ArenaScope {
 public:
  explicit ArenaScope(Arena& arena) : arena_(arena), mark_(arena.used()) {}
  ~ArenaScope() { arena_.release(mark_); }
  ArenaScope(const ArenaScope&) = delete;
  ArenaScope& operator=(const ArenaScope&) = delete;

 private:
  Arena& arena_;
  std::int64_t mark_;
};

}  // namespace t2r
