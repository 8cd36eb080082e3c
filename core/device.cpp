#include "core/device.h"

#include <cstdlib>

#include "core/device_cuda.h"
#include "kernels/base/check.h"
#include "kernels/libraries.h"

namespace lockstep {

Device::Device(DeviceKind kind, int index) : kind_(kind) {
  if (kind == DeviceKind::cuda) {
    auto opened = cuda::open(index);
    name_ = opened.name;
    address_ = opened.address;
    queue_ = opened.queue;
    arena_ = std::make_unique<Arena>(opened.memory);
  } else {
    name_ = "cpu";
    arena_ = std::make_unique<Arena>(
        Arena::Source{[](std::size_t bytes) { return static_cast<std::byte*>(std::aligned_alloc(256, bytes)); },
                      [](std::byte* data) { std::free(data); }});
  }
  queue_.cpu = make_cpu_libraries();
}

Device::~Device() {
  arena_.reset();
  if (kind_ == DeviceKind::cuda) cuda::close(queue_);
}

int Device::cuda_count() {
  return cuda::device_count();
}
std::vector<GpuInfo> Device::gpus() {
  return cuda::gpus();
}
std::string Device::cuda_problem() {
  return cuda::problem();
}

}  // namespace lockstep
