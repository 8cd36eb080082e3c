#pragma once

#include <vector>

#include "core/nn/layers.h"
#include "core/nn/model.h"

namespace lockstep::nn {

/// Linear layers with an activation between them: "layers.0", "layers.1", …
class Mlp final : public Model {
 public:
  struct Options {
    std::int64_t inputs = 0;
    std::vector<std::int64_t> hidden = {128, 128};
    std::int64_t outputs = 0;
    Unary activation = Unary::relu;
    float dropout = 0;  ///< after each hidden layer
  };
  Mlp(ParameterSet&, const Options&);
  Tensor forward(Tape&, const Tensor& x) const override;  // (batch, …) -> (batch, outputs)
  double flops_per_row() const override;

 private:
  Options options_;
  std::vector<Linear> layers_;
};

}  // namespace lockstep::nn
