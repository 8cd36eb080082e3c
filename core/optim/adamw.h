#pragma once

#include "core/optim/optimizer.h"

namespace lockstep::optim {

/// AdamW (Loshchilov & Hutter 2019), as torch.optim.AdamW.
class AdamW final : public Optimizer {
 public:
  struct Options {
    float beta1 = 0.9f, beta2 = 0.999f, epsilon = 1e-8f, decay = 0.01f;
    std::vector<Group> groups = {};
  };
  AdamW(ParameterSet&, const Flat&, View gradients, const Options&);

 private:
  void correct(float* scalars) override;
  void launch(const kernels::SegmentTable&) override;
  Options options_;
  View m_, v_;
};

}  // namespace lockstep::optim
