#pragma once

#include "kernels/base/queue.h"
#include "kernels/base/view.h"

namespace lockstep::kernels {

enum class Reduction : std::uint8_t { sum, mean, max };

/// y[r] = reduction over the `columns` elements of row r; x is (rows, columns). y is f32 or of x's dtype. A NaN in a row
/// makes its result NaN.
void reduce_columns(const Queue&, Reduction, View y, View x, std::int64_t columns);

/// dx (+)= the gradient of reduce_columns; dy and y share a dtype, f32 or x's. max sends dy to the first largest element of the
/// row.
void reduce_columns_backward(const Queue&, Reduction, View dx, View dy, View x, View y, std::int64_t columns, Write);

/// y[c] (+)= sum over rows of x[r][c]: the gradient of a bias. Summed in blocks of rows of fixed size, so the result does not
/// depend on the number of threads. y may be f32 while x has 16 bits.
void sum_rows(const Queue&, View y, View x, std::int64_t columns, Write);

/// y[0] (f32) (+)= sum of all of x, in blocks of fixed size.
void sum_all(const Queue&, View y, View x, Write);

/// index[r] (i32) = the position of the first largest element of row r; -1 when the row holds nothing but NaN.
void arg_max(const Queue&, View index, View x, std::int64_t columns);

}  // namespace lockstep::kernels
