#pragma once

#include <string>

#include "launch/session.h"

namespace lockstep::launch {

/// What `mfu` is a share of: the speed of large products in the compute type, measured on all ranks at once and summed, in
/// floating-point operations a second. Takes about a fifth of a second; collective.
struct Peak {
  double flops_per_s = 0;
  std::string text;
};
Peak measure_peak(const Session&, DType);

}  // namespace lockstep::launch
