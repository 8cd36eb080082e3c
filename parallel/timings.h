#pragma once

#include <chrono>
#include <vector>

#include "parallel/communicator.h"

namespace lockstep::parallel {

/// Seconds of the host's steady clock.
inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// When the latest collectives ran, by ticket.
class Timings {
 public:
  /// A new ticket that starts now.
  Communicator::Ticket open() {
    auto& t = kept_[std::size_t(next_ % Communicator::timings_kept)];
    t = {};
    t.started = t.finished = now();
    return next_++;
  }
  Timing& operator[](Communicator::Ticket ticket) {
    require(ticket >= 0 && ticket < next_ && ticket >= next_ - Communicator::timings_kept,
            "timing: collective {} is not among the latest {}", ticket, Communicator::timings_kept);
    return kept_[std::size_t(ticket % Communicator::timings_kept)];
  }

 private:
  Communicator::Ticket next_ = 0;
  std::vector<Timing> kept_ = std::vector<Timing>(std::size_t(Communicator::timings_kept));
};

}  // namespace lockstep::parallel
