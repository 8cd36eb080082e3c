#include "kernels/memory.h"
#include "parallel/open_communicator.h"
#include "parallel/timings.h"

namespace lockstep::parallel {
namespace {

/// One rank: sums are what they were, and everything is done when the call returns.
class SoloCommunicator final : public Communicator {
 public:
  explicit SoloCommunicator(Device* device) : device_(device) {}

  int rank() const override { return 0; }
  int size() const override { return 1; }
  const char* name() const override { return "solo"; }

  std::string why_not_captured() const override { return ""; }

  Ticket all_reduce(const Queue&, View, Reduction) override { return timings_.open(); }
  Ticket reduce_scatter(const Queue& after, View out, View in) override { return move(after, out, in); }
  Ticket all_gather(const Queue& after, View out, View in) override { return move(after, out, in); }
  Ticket all_to_all(const Queue& after, View out, View in) override { return move(after, out, in); }
  Ticket broadcast(const Queue&, View, int root) override {
    require(root == 0, "broadcast: there is no rank {}", root);
    return timings_.open();
  }
  Ticket send(const Queue&, View, int to) override { throw Error(format_text("send: there is no rank {} but this one", {to})); }
  Ticket receive(const Queue&, View, int from) override {
    throw Error(format_text("receive: there is no rank {} but this one", {from}));
  }

  void progress() override {}
  void join(const Queue&) override {}
  Ticket mark(const Queue&) override { return timings_.open(); }
  Timing timing(Ticket ticket) override { return timings_[ticket]; }

  std::unique_ptr<Communicator> split(int color, int) override {
    return color < 0 ? nullptr : std::make_unique<SoloCommunicator>(device_);
  }
  Memory allocate(std::size_t bytes) override {
    if (!device_ || device_->kind() == DeviceKind::cpu) return host_memory(bytes);
    Memory memory = device_->arena().allocate(bytes);
    kernels::fill(device_->queue(), {memory.get(), std::int64_t(bytes / sizeof(float)), DType::f32}, 0);
    return memory;
  }

 private:
  Ticket move(const Queue& after, View out, View in) {
    require(out.size == in.size && out.dtype == in.dtype, "solo communicator: {} {} elements go to {} {}", in.size,
            name_of(in.dtype), out.size, name_of(out.dtype));
    if (out.data != in.data && in.size > 0) kernels::copy(after, out, in);
    return timings_.open();
  }

  Device* device_;
  Timings timings_;
};

}  // namespace

std::unique_ptr<Communicator> open_solo_communicator(Device* device) {
  return std::make_unique<SoloCommunicator>(device);
}

}  // namespace lockstep::parallel
