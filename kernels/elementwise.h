// Fill, copy, convert, add, reduce: loops over spans.
#pragma once

#include "core/base/tensor.h"

namespace t2r {

void fill(Queue queue, Tensor x, double value);
/// y = x, converted to y's dtype; shapes equal; rows may be strided.
void copy(Queue queue, Tensor y, Tensor x);
/// y += x, converted; shapes equal; rows may be strided.
void add_to(Queue queue, Tensor y, Tensor x);
/// y *= factor.
void scale_by(Queue queue, Tensor y, double factor);
/// Sum of (x - y)^2, in double, in an order that does not depend on the number of threads; dx =
/// scale (x - y). Shapes equal; all contiguous.
double squared_difference(Queue queue, Tensor dx, Tensor x, Tensor y, double scale);
/// Sum of squares, in double, in an order that does not depend on the number of threads.
double sum_of_squares(Queue queue, Tensor x);
/// Index of the first non-finite element, or -1.
std::int64_t first_non_finite(Queue queue, Tensor x);

}  // namespace t2r
