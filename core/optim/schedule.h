#pragma once

#include <cstdint>

namespace lockstep::optim {

/// The learning rate of each step, counted from 0, of a run of `steps` steps.
struct Schedule {
  enum class Kind : std::uint8_t {
    constant,
    linear,  ///< straight from the rate to final * rate
    cosine,  ///< half a cosine from the rate to final * rate (Loshchilov & Hutter 2017)
    wsd,     ///< warm-up, stable, decay: constant, then straight down to final * rate over the last decay_share of the steps
  };
  Kind kind = Kind::constant;
  float rate = 1e-3f;
  std::int64_t steps = 1;
  std::int64_t warmup = 0;  ///< steps from rate / warmup up to the rate, in front of every kind
  float final = 0;          ///< share of the rate that is left at the end
  float decay_share = 0.2f;

  float at(std::int64_t step) const;
};

}  // namespace lockstep::optim
