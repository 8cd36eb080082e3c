#include "core/optim/adamw.h"

#include <cmath>

namespace lockstep::optim {

AdamW::AdamW(ParameterSet& set, const Flat& flat, View gradients, const Options& options)
    : Optimizer(set, flat, gradients, options.groups, options.decay), options_(options) {
  m_ = add_moment("adamw.m");
  v_ = add_moment("adamw.v");
}

void AdamW::correct(float* scalars) {
  scalars[int(kernels::Scalar::correction1)] = float(1 - std::pow(double(options_.beta1), double(steps_)));
  scalars[int(kernels::Scalar::beta1)] = options_.beta1;
  scalars[int(kernels::Scalar::beta2)] = options_.beta2;
  scalars[int(kernels::Scalar::correction2)] = float(1 - std::pow(double(options_.beta2), double(steps_)));
}

void AdamW::launch(const kernels::SegmentTable& table) {
  kernels::AdamWSettings settings{options_.beta1, options_.beta2, options_.epsilon};
  kernels::adamw(device_.queue(), flat_, m_, v_, table, scalars_, settings);
}

}  // namespace lockstep::optim
