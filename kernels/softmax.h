#pragma once

#include "kernels/base/queue.h"
#include "kernels/base/view.h"

namespace lockstep::kernels {

/// y = softmax over each row of `columns` elements of x. y may be x.
void softmax(const Queue&, View y, View x, std::int64_t columns);

/// dx (+)= y * (dy - sum(dy * y)) row by row.
void softmax_backward(const Queue&, View dx, View dy, View y, std::int64_t columns, Write);

}  // namespace lockstep::kernels
