#include "core/optim/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace lockstep::optim {

float Schedule::at(std::int64_t step) const {
  if (step < warmup) return rate * float(double(step + 1) / double(warmup));
  auto part = [&](double from) {  // how much of the way from `from` to the last step has been made
    double last = double(steps - 1);
    return last > from ? std::clamp((double(step) - from) / (last - from), 0.0, 1.0) : 1.0;
  };
  double share = 1;
  switch (kind) {
    case Kind::constant: break;
    case Kind::linear: share = 1 - (1 - final) * part(double(warmup)); break;
    case Kind::cosine: share = final + (1 - final) * 0.5 * (1 + std::cos(std::numbers::pi * part(double(warmup)))); break;
    case Kind::wsd: {
      double from = std::max(double(warmup), double(steps) * (1 - double(decay_share)));
      if (double(step) >= from) share = 1 - (1 - final) * part(from);
      break;
    }
  }
  return float(double(rate) * share);
}

}  // namespace lockstep::optim
