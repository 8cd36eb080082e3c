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

/// An activation inside a network: y (+)= op(x), and `kept`, which looks like x and may be x, receives what `activation_backward`
/// needs. On the CPU that is op'(x): one exponential serves value and slope, and the gradient is then a product. On a GPU, whose
/// products give the value before their activation (cuBLASLt), it is x.
void activate(const Queue&, Unary op, View y, View kept, View x, Write = Write::overwrite);

/// What leads a gradient back through an activation.
struct Slope {
  Unary activation;
  View kept, y;  ///< as `activate` left them
};
/// dx = dy * slope; dx may be dy. `sums`, if present, (+)= the sums of dx over rows of sums.size elements; f32 or dx's dtype.
void activation_backward(const Queue&, const Slope&, View dx, View dy, View sums = {}, Write write_sums = Write::overwrite);

}  // namespace lockstep::kernels
