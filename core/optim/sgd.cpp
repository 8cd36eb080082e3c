#include "core/optim/sgd.h"

namespace lockstep::optim {

Sgd::Sgd(ParameterSet& set, const Flat& flat, View gradients, const Options& options)
    : Optimizer(set, flat, gradients, options.groups, options.decay), options_(options) {
  require(Exit::usage, !options.nesterov || (options.momentum > 0 && options.dampening == 0),
          "sgd: nesterov needs a momentum above 0 and no dampening");
  if (options.momentum > 0) velocity_ = add_moment("sgd.velocity");
}

void Sgd::launch(const kernels::SegmentTable& table) {
  kernels::SgdSettings settings{options_.momentum, options_.dampening, options_.nesterov};
  kernels::sgd(device_.queue(), flat_, velocity_, table, scalars_, settings);
}

}  // namespace lockstep::optim
