#include <cstring>

#include "parallel/staging.h"
#include "parallel/timings.h"

namespace lockstep::parallel {
namespace {

/// Copies are done when asked for.
class CpuStaging final : public Staging {
 public:
  std::unique_ptr<Staging> another() const override { return std::make_unique<CpuStaging>(); }
  Memory device(std::size_t bytes) override { return host_memory(bytes); }
  Memory host(std::size_t bytes) override { return host_memory(bytes); }
  Memory lock(Memory host, std::size_t) override { return host; }

  void begin(Ticket ticket, const Queue&) override { at(ticket) = {.started = now(), .finished = 0, .worked = 0}; }
  void fetch(Ticket, void* host, View data) override {
    if (data.bytes() > 0) std::memcpy(host, data.data, data.bytes());
  }
  bool fetched(Ticket) override { return true; }
  void bring(View data, const void* host) override {
    if (data.bytes() > 0) std::memcpy(data.data, host, data.bytes());
  }
  void end(Ticket ticket) override { at(ticket).finished = now(); }
  bool ended(Ticket) override { return true; }
  void join(const Queue&) override {}
  void mark(Ticket ticket, const Queue&) override { at(ticket).started = at(ticket).finished = now(); }
  Timing timing(Ticket ticket) override { return at(ticket); }

 private:
  Timing& at(Ticket ticket) { return timings_[std::size_t(ticket % Communicator::timings_kept)]; }
  std::vector<Timing> timings_ = std::vector<Timing>(std::size_t(Communicator::timings_kept));
};

}  // namespace

std::unique_ptr<Staging> open_cpu_staging() {
  return std::make_unique<CpuStaging>();
}

}  // namespace lockstep::parallel
