#include "core/captured_step.h"

#include "core/device_cuda.h"
#include "kernels/base/check.h"

namespace lockstep {

void CapturedStep::capture(const std::function<void()>& work) {
  require(!memory_, "capture: a step was captured here before");
  const bool on_gpu = device_.kind() == DeviceKind::cuda;
  device_.arena().begin_keeping();
  try {
    on_gpu ? cuda::begin_capture(device_.queue()) : device_.record(&recording_);
    work();
    if (on_gpu) graph_ = cuda::end_capture(device_.queue());
  } catch (...) {
    on_gpu ? cuda::abandon_capture(device_.queue()) : device_.record(nullptr);
    recording_ = {};
    device_.arena().end_keeping();
    throw;
  }
  device_.record(nullptr);
  memory_ = device_.arena().end_keeping();
}

void CapturedStep::replay() const {
  require(bool(memory_), "replay: nothing was captured");
  graph_ ? cuda::launch(device_.queue(), graph_) : recording_.replay(device_.queue());
}

}  // namespace lockstep
