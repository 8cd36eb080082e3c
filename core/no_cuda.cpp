#include "core/device_cuda.h"
#include "kernels/base/check.h"

namespace lockstep::cuda {

int device_count() {
  return 0;
}
std::vector<GpuInfo> gpus() {
  return {};
}
std::string problem() {
  return "this program was built without CUDA: build the preset \"cuda\"";
}
Opened open(int) {
  throw Error("device cuda was asked for, but this program was built without CUDA: build the preset \"cuda\"", Exit::usage);
}
void close(Queue&) noexcept {}
Arena::Source host_source() {
  return {};
}
CopyStream open_copy_stream(const Queue&) {
  return {};
}
void enter(const CopyStream&) {}
void record(Event&, const Queue&) {}
void wait(const Queue&, const Event&) {}
void wait(const Event&) {}
void finish(const Event&) noexcept {}
void begin_capture(const Queue&) {
  throw Error(problem(), Exit::usage);
}
Graph end_capture(const Queue&) {
  return {};
}
void abandon_capture(const Queue&) noexcept {}
void launch(const Queue&, const Graph&) {}

}  // namespace lockstep::cuda
