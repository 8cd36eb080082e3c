#pragma once

#include "core/tensor.h"

namespace lockstep::io {

/// What stands in `targets` (i32) where there is nothing to learn: losses, gradients and weights leave such targets out. Whatever
/// marks them in a file, a batch has this.
constexpr std::int32_t ignored_target = -100;

/// The rows of one lane for one step, on the device that trains.
/// Tokens: inputs (rows, length) i32, targets (rows, length) i32, shifted by one. Images: inputs (rows, height, width, channels)
/// in the compute type, normalised; targets (rows) i32. Tabular: inputs (rows, columns); targets (rows) i32 or (rows, outputs)
/// f32. A lane without rows (the last step of an epoch with tail = partial) has absent tensors.
struct Batch {
  Tensor inputs, targets;
  double weight = 0;  ///< what a loss summed over this lane is divided by, summed over all lanes: targets that are counted
};

}  // namespace lockstep::io
