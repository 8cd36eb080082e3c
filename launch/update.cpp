#include "launch/update.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>

#include "kernels/memory.h"

namespace lockstep::launch {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// A step without lanes' work: sums of zeros and an update at rate 0, in seconds; the better of two behind a first one.
double time_of(Session& session, parallel::DataParallel& strategy, optim::Optimizer& optimizer) {
  const Queue& queue = session.device().queue();
  double best = 0;
  for (int round = 0; round < 3; ++round) {
    strategy.begin_step();
    for (int lane = 0; lane < strategy.lanes().count; ++lane) strategy.begin_lane(lane);
    kernels::synchronize(queue);
    session.group().barrier();
    const double began = now();
    strategy.finish_step();
    optimizer.step(0, 1);
    kernels::synchronize(queue);
    const double took = now() - began;
    best = round <= 1 ? took : std::min(best, took);
  }
  optimizer.set_steps(0);
  return best;
}

std::string way_text(const parallel::DataParallel& strategy, bool sharded) {
  if (!sharded) return "whole, on every rank";
  return std::string("sharded, each rank its part of the weights") + (strategy.common_masters() ? ", one copy for all" : "");
}

}  // namespace

Update choose_update(const std::string& way, Session& session, parallel::DataParallel& strategy,
                     const std::function<std::unique_ptr<optim::Optimizer>()>& build) {
  if (session.size() == 1) return {build(), ""};
  if (way != "auto") {
    strategy.share_update(way == "sharded");
    return {build(), "update: " + way_text(strategy, way == "sharded")};
  }
  std::unique_ptr<optim::Optimizer> optimizer;
  double seconds[2] = {};
  auto take = [&](bool sharded) {
    optimizer.reset();  // before the next one asks for memory
    session.device().arena().release_unused();  // the other way's moments have other sizes
    strategy.share_update(sharded);
    optimizer = build();
  };
  for (bool sharded : {false, true}) {
    take(sharded);
    // The same sum on every rank: all choose alike.
    seconds[sharded] = session.group().sum(time_of(session, strategy, *optimizer)) / session.size();
  }
  const bool sharded = seconds[1] < seconds[0];
  take(sharded);  // anew: steps of zeros are forgotten
  return {std::move(optimizer),
          fmt::format("update: {} (sums and update alone take {:.3g} ms; {}: {:.3g} ms)", way_text(strategy, sharded),
                      1e3 * seconds[sharded], sharded ? "whole" : "sharded", 1e3 * seconds[!sharded])};
}

}  // namespace lockstep::launch
