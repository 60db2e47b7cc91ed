#include "core/base/arena.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace t2r {
namespace {

constexpr std::int64_t kHugePage = 2 << 20;

std::int64_t round_up(std::int64_t n, std::int64_t unit) {
  return (n + unit - 1) / unit * unit;
}

}  // namespace

Arena::Arena(std::int64_t capacity) {
  check(capacity >= 0 && capacity < (std::int64_t{1} << 46), "cannot reserve {} bytes of memory",
        capacity);
  capacity_ = round_up(std::max<std::int64_t>(capacity, 1), kHugePage);
  // One huge page more than asked for, so that the base can be moved to a huge page boundary.
  void* raw = mmap(nullptr, static_cast<std::size_t>(capacity_ + kHugePage), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  check(raw != MAP_FAILED,
        "cannot reserve {} MiB of memory: {}; use a smaller model, batch or sequence length",
        capacity_ >> 20, std::strerror(errno));
  auto* begin = static_cast<std::byte*>(raw);
  auto address = reinterpret_cast<std::uintptr_t>(begin);
  const std::int64_t head =
      round_up(static_cast<std::int64_t>(address), kHugePage) - static_cast<std::int64_t>(address);
  if (head > 0) munmap(begin, static_cast<std::size_t>(head));
  base_ = begin + head;
  if (kHugePage - head > 0) munmap(base_ + capacity_, static_cast<std::size_t>(kHugePage - head));
  madvise(base_, static_cast<std::size_t>(capacity_), MADV_HUGEPAGE);  // a hint: failure is fine
}

Arena::~Arena() {
  if (base_) munmap(base_, static_cast<std::size_t>(capacity_));
}

Arena::Arena(Arena&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)),
      capacity_(std::exchange(other.capacity_, 0)),
      used_(std::exchange(other.used_, 0)),
      peak_(std::exchange(other.peak_, 0)) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(capacity_, other.capacity_);
  std::swap(used_, other.used_);
  std::swap(peak_, other.peak_);
  return *this;
}

void* Arena::allocate_bytes(std::int64_t count, std::int64_t size) {
  std::int64_t bytes = 0;
  check(count >= 0 && !__builtin_mul_overflow(count, size, &bytes) && bytes <= capacity_,
        "cannot allocate {} x {} bytes from a reservation of {} MiB", count, size, capacity_ >> 20);
  bytes = round_up(bytes, 64);
  check(bytes <= capacity_ - used_,
        "out of memory: {} bytes asked for, {} of {} MiB in use; use a smaller batch", bytes,
        used_ >> 20, capacity_ >> 20);
  std::byte* place = base_ + used_;
  used_ += bytes;
  peak_ = std::max(peak_, used_);
#ifdef T2R_POISON
  std::memset(place, 0xFF, static_cast<std::size_t>(bytes));  // NaN in every floating type
#endif
  return place;
}

Tensor Arena::allocate(Shape shape, DType dtype) {
  return Tensor(allocate_bytes(shape.size(), size_of(dtype)), shape, dtype);
}

void Arena::release(std::int64_t mark) {
  check(0 <= mark && mark <= used_, "arena released to {} with {} in use", mark, used_);
  used_ = mark;
}

}  // namespace t2r
