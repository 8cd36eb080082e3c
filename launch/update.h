#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/optim/optimizer.h"
#include "launch/session.h"
#include "parallel/data_parallel.h"

namespace lockstep::launch {

/// An optimizer and, in a sentence, whether its update is sharded and why; no sentence for a lone rank.
struct Update {
  std::unique_ptr<optim::Optimizer> optimizer;
  std::string text;
};

/// Makes the optimizer of `strategy` and decides who updates what: `way` is "whole", "sharded", or "auto" for the one whose sums
/// of gradients and update take less time together, the mean of all ranks. That is measured with gradients of zero and a rate of
/// zero: call it before weights have their values. Either way gives the same bits.
Update choose_update(const std::string& way, Session&, parallel::DataParallel& strategy,
                     const std::function<std::unique_ptr<optim::Optimizer>()>& build);

}  // namespace lockstep::launch
