#pragma once

#include "kernels/base/queue.h"
#include "kernels/base/view.h"

namespace lockstep::kernels {

enum class PointwiseLoss : std::uint8_t {
  squared_error,         ///< (x - t)²
  binary_cross_entropy,  ///< log(1 + e^x) - x t, x a logit, t in [0, 1]
};

/// loss[i] = the loss of x[i] against target[i]; all f32.
void pointwise_loss(const Queue&, PointwiseLoss, View loss, View x, View target);
/// dx (+)= seed[0] * ∂loss/∂x; all f32, seed of one element.
void pointwise_loss_backward(const Queue&, PointwiseLoss, View dx, View seed, View x, View target, Write);

}  // namespace lockstep::kernels
