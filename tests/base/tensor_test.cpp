// Shapes and views: sizes, overflow, ranges of rows and columns, and what must be refused.
#include "core/base/tensor.h"

#include <gtest/gtest.h>

#include <numeric>
#include <vector>

namespace t2r {
namespace {

TEST(Shape, SizesAndText) {
  EXPECT_EQ(Shape().size(), 1);
  EXPECT_EQ(Shape().rank(), 0);
  EXPECT_EQ((Shape{3, 4, 5}).size(), 60);
  EXPECT_EQ((Shape{3, 0, 5}).size(), 0);
  EXPECT_EQ((Shape{3, 4}).text(), "(3, 4)");
  EXPECT_EQ((Shape{7}).text(), "(7)");
  EXPECT_TRUE((Shape{3, 4}) == (Shape{3, 4}));
  EXPECT_FALSE((Shape{3, 4}) == (Shape{4, 3}));
  EXPECT_FALSE((Shape{3}) == (Shape{3, 1}));
}

TEST(Shape, RefusesNegativeTooManyAndTooLarge) {
  EXPECT_THROW((Shape{3, -1}), Error);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1}), Error);
  const std::int64_t large = std::int64_t{1} << 32;
  EXPECT_THROW((Shape{large, large}).size(), Error);
  EXPECT_THROW((Shape{large / 2, large / 2, 2}).size(), Error);
  EXPECT_EQ((Shape{large / 2, large / 2}).size(), std::int64_t{1} << 62);
}

TEST(Tensor, RowsColumnsBytes) {
  std::vector<float> memory(24);
  const Tensor x(memory.data(), {2, 3, 4}, DType::f32);
  EXPECT_EQ(x.rows(), 2);
  EXPECT_EQ(x.columns_count(), 12);
  EXPECT_EQ(x.row_stride, 12);
  EXPECT_EQ(x.bytes(), 96);
  EXPECT_TRUE(x.contiguous());
  EXPECT_TRUE(x);
  EXPECT_FALSE(Tensor());
  EXPECT_EQ(x.as<float>(), memory.data());
  EXPECT_THROW(x.as<double>(), Error);
  EXPECT_THROW(x.as<bf16>(), Error);
}

TEST(Tensor, RowRange) {
  std::vector<float> memory(24);
  std::iota(memory.begin(), memory.end(), 0.0f);
  const Tensor x(memory.data(), {4, 3, 2}, DType::f32);
  const Tensor part = x.row_range(1, 3);
  EXPECT_EQ(part.shape, (Shape{2, 3, 2}));
  EXPECT_EQ(part.as<float>()[0], 6);
  EXPECT_TRUE(part.contiguous());
  EXPECT_EQ(x.row_range(4, 4).size(), 0);
  EXPECT_THROW(x.row_range(-1, 2), Error);
  EXPECT_THROW(x.row_range(3, 2), Error);
  EXPECT_THROW(x.row_range(0, 5), Error);
}

TEST(Tensor, ColumnRangeAndItsRows) {
  std::vector<double> memory(20);
  std::iota(memory.begin(), memory.end(), 0.0);
  const Tensor x(memory.data(), {4, 5}, DType::f64);
  const Tensor part = x.column_range(1, 3);
  EXPECT_EQ(part.shape, (Shape{4, 2}));
  EXPECT_EQ(part.row_stride, 5);
  EXPECT_FALSE(part.contiguous());
  EXPECT_EQ(part.as<double>()[2 * part.row_stride], 11);
  const Tensor row = part.row_range(2, 3);
  EXPECT_EQ(row.as<double>()[0], 11);
  EXPECT_TRUE(row.contiguous());
  EXPECT_THROW(part.view({8}), Error);
  EXPECT_THROW(x.column_range(2, 6), Error);
  EXPECT_THROW(x.column_range(-1, 2), Error);
  EXPECT_THROW(x.view({2, 5, 2}).column_range(0, 1), Error);
}

TEST(Tensor, ViewKeepsTheSize) {
  std::vector<float> memory(12);
  const Tensor x(memory.data(), {3, 4}, DType::f32);
  const Tensor y = x.view({2, 6});
  EXPECT_EQ(y.data, x.data);
  EXPECT_EQ(y.row_stride, 6);
  EXPECT_THROW(x.view({3, 5}), Error);
}

TEST(Tensor, CheckShapeNamesBoth) {
  const Tensor x(nullptr, {3, 4}, DType::f32);
  EXPECT_NO_THROW(check_shape(x, {3, 4}, "the query"));
  try {
    check_shape(x, {4, 3}, "the query");
    ADD_FAILURE() << "not thrown";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "the query has the shape (3, 4), expected (4, 3)");
  }
}

}  // namespace
}  // namespace t2r
