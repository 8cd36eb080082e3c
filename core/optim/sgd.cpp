#include "core/optim/sgd.h"

namespace lockstep::optim {

Sgd::Sgd(ParameterSet& set, const Flat& flat, View gradients, const Options& options)
    : Optimizer(set, flat, gradients, options.groups, options.decay), options_(options) {
  require(Exit::usage, !options.nesterov || (options.momentum > 0 && options.dampening == 0),
          "sgd: nesterov needs a momentum above 0 and no dampening");
  if (options.momentum > 0) velocity_ = add_moment("sgd.velocity");
}

void Sgd::update(float*) {}

void Sgd::launch(const kernels::Segment* segments, int count) {
  kernels::SgdSettings settings{options_.momentum, options_.dampening, options_.nesterov};
  kernels::sgd(device_.queue(), flat_, velocity_, segments, count, scalars_, settings, steps_ == 1);
}

}  // namespace lockstep::optim
