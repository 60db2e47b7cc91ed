// The arena: alignment, stack discipline, its peak, and requests that cannot be met.
#include "core/base/arena.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

namespace t2r {
namespace {

bool aligned(const void* place, std::uintptr_t to) {
  return reinterpret_cast<std::uintptr_t>(place) % to == 0;
}

TEST(Arena, TensorsAreAlignedApartAndWritable) {
  Arena arena(1 << 20);
  const Tensor a = arena.allocate({3, 5}, DType::bf16);
  const Tensor b = arena.allocate({7}, DType::f64);
  float* const c = arena.allocate_array<float>(1);
  EXPECT_TRUE(aligned(a.data, 2 << 20)) << "the first tensor begins a huge page";
  EXPECT_TRUE(aligned(b.data, 64));
  EXPECT_TRUE(aligned(c, 64));
  EXPECT_EQ(a.shape, (Shape{3, 5}));
  EXPECT_EQ(a.dtype, DType::bf16);
  EXPECT_GE(static_cast<char*>(b.data) - static_cast<char*>(a.data), a.bytes());
  EXPECT_GE(reinterpret_cast<char*>(c) - static_cast<char*>(b.data), b.bytes());
  std::memset(a.data, 1, static_cast<std::size_t>(a.bytes()));
  std::memset(b.data, 2, static_cast<std::size_t>(b.bytes()));
  EXPECT_EQ(static_cast<char*>(a.data)[29], 1);
}

TEST(Arena, ReleaseGivesBackAndPeakRemembers) {
  Arena arena(1 << 20);
  const Tensor a = arena.allocate({100}, DType::f32);
  const std::int64_t mark = arena.used();
  EXPECT_EQ(mark, 448) << "400 bytes, rounded up to whole cache lines";
  const Tensor b = arena.allocate({1000}, DType::f32);
  const std::int64_t most = arena.used();
  arena.release(mark);
  EXPECT_EQ(arena.used(), mark);
  EXPECT_EQ(arena.peak(), most);
  EXPECT_EQ(arena.allocate({10}, DType::f32).data, b.data) << "the same place again";
  EXPECT_THROW(arena.release(arena.used() + 1), Error);
  EXPECT_THROW(arena.release(-1), Error);
  arena.reset();
  EXPECT_EQ(arena.used(), 0);
  EXPECT_EQ(arena.peak(), most);
  EXPECT_EQ(arena.allocate({1}, DType::f32).data, a.data);
}

TEST(Arena, ScopesNest) {
  Arena arena(1 << 20);
  {
    const ArenaScope outer(arena);
    arena.allocate({10}, DType::f32);
    const std::int64_t mark = arena.used();
    {
      const ArenaScope inner(arena);
      arena.allocate({10}, DType::f32);
      EXPECT_GT(arena.used(), mark);
    }
    EXPECT_EQ(arena.used(), mark);
  }
  EXPECT_EQ(arena.used(), 0);
}

TEST(Arena, RefusesWhatDoesNotFit) {
  Arena arena(2 << 20);
  arena.allocate({1 << 18}, DType::f32);  // half of it
  const std::int64_t used = arena.used();
  EXPECT_THROW(arena.allocate({(1 << 18) + 1}, DType::f32), Error);
  EXPECT_EQ(arena.used(), used) << "a refused request changes nothing";
  EXPECT_NO_THROW(arena.allocate({1 << 18}, DType::f32));
  EXPECT_THROW(arena.allocate({1}, DType::bf16), Error);
  EXPECT_NO_THROW(arena.allocate({0}, DType::bf16));
}

TEST(Arena, SizesThatOverflowAreRefused) {
  Arena arena(1 << 20);
  const std::int64_t huge = std::numeric_limits<std::int64_t>::max();
  EXPECT_THROW(arena.allocate({huge}, DType::f64), Error);
  EXPECT_THROW(arena.allocate({huge / 8 + 1}, DType::f64), Error);
  EXPECT_THROW(arena.allocate({std::int64_t{1} << 32, std::int64_t{1} << 32}, DType::f32), Error);
  EXPECT_THROW(arena.allocate_array<double>(huge / 2), Error);
  EXPECT_THROW(arena.allocate_array<double>(-1), Error);
  EXPECT_EQ(arena.used(), 0);
  EXPECT_THROW(Arena(-1), Error);
  EXPECT_THROW(Arena(std::int64_t{1} << 60), Error);
}

TEST(Arena, Moves) {
  Arena first(1 << 20);
  const Tensor x = first.allocate({10}, DType::f32);
  Arena second(std::move(first));
  EXPECT_EQ(second.used(), 64);
  EXPECT_EQ(first.used(), 0);  // NOLINT(bugprone-use-after-move): an empty arena, by promise
  EXPECT_THROW(first.allocate({1}, DType::f32), Error);
  x.as<float>()[9] = 3;  // still mapped
  Arena third(0);
  third = std::move(second);
  EXPECT_EQ(third.used(), 64);
  EXPECT_EQ(x.as<float>()[9], 3);
}

#ifdef T2R_POISON
TEST(Arena, FreshMemoryIsPoisoned) {
  Arena arena(1 << 20);
  const Tensor x = arena.allocate({10}, DType::f32);
  EXPECT_TRUE(std::isnan(x.as<float>()[9]));
}
#endif

}  // namespace
}  // namespace t2r
