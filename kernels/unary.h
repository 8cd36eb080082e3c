#pragma once

#include "kernels/base/queue.h"
#include "kernels/base/view.h"
#include "kernels/unary_math.h"

namespace lockstep::kernels {

/// y = op(x), element by element; floats, x and y alike. y may be x.
void unary(const Queue&, Unary op, View y, View x);

/// dx (+)= dy * op'(x). `y` is the forward result; which of x and y a formula reads is its own affair, so both must still hold
/// their values. dx may be dy when overwriting.
void unary_backward(const Queue&, Unary op, View dx, View dy, View x, View y, Write);

}  // namespace lockstep::kernels
