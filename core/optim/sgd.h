#pragma once

#include "core/optim/optimizer.h"

namespace lockstep::optim {

/// Stochastic gradient descent with momentum, Nesterov's or plain, as torch.optim.SGD.
class Sgd final : public Optimizer {
 public:
  struct Options {
    float momentum = 0, dampening = 0, decay = 0;
    bool nesterov = false;
    std::vector<Group> groups = {};
  };
  Sgd(ParameterSet&, const Flat&, View gradients, const Options&);

 private:
  void launch(const kernels::SegmentTable&) override;
  Options options_;
  View velocity_;
};

}  // namespace lockstep::optim
