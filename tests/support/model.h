#pragma once

#include <functional>

#include "core/flat.h"
#include "core/tape.h"

namespace lockstep::test {

/// A parameter set placed in memory with initial values and flat gradients, with no strategy: for tests of core alone.
struct Placed {
  explicit Placed(ParameterSet& set, std::uint64_t seed = 1);
  /// Gradients as if a step began: everything zero, nothing accumulated.
  void clear();
  /// The gradient of one parameter.
  std::vector<float> gradient(const std::string& name) const;

  ParameterSet& set;
  Flat flat;
  Memory gradient_memory;
  View gradients;
};

/// Compares gradients with finite differences along a random direction in the inputs: `loss` builds a one-element f32 tensor from
/// them on a given tape. Returns |analytic - numeric| over the larger of the two and of the gradient's norm.
double directional_error(Device&, const std::vector<Tensor>& inputs, const std::function<Tensor(Tape&)>& loss, float step = 1e-2f,
                         Tape::Options = {});

}  // namespace lockstep::test
