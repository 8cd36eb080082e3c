#pragma once

#include "core/ops.h"
#include "core/parameter.h"

namespace lockstep::nn {

/// What the trainer needs of a model. A model adds its parameters to the set it is constructed with.
class Model {
 public:
  virtual ~Model() = default;
  /// Logits or predictions for one lane's inputs (io/batch.h says what inputs are).
  virtual Tensor forward(Tape&, const Tensor& inputs) const = 0;
  /// Floating-point operations of forward and backward for one row of the batch.
  virtual double flops_per_row() const = 0;
};

}  // namespace lockstep::nn
