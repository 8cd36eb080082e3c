#include "core/device.h"

#include <sys/mman.h>

#include <cstdlib>

#include "core/device_cuda.h"
#include "kernels/base/check.h"
#include "kernels/libraries.h"

namespace lockstep {
namespace {

/// What fills large pages of the processor lies in them, where the system lends any: passes over memory are 1.1 to 1.5 times as
/// fast.
std::byte* in_large_pages(std::size_t bytes) {
  constexpr std::size_t large_page = 2 << 20;
  void* data = nullptr;  // aligned_alloc wants sizes that are multiples of the alignment
  if (posix_memalign(&data, bytes < large_page ? 256 : large_page, bytes) != 0) return nullptr;
  if (bytes >= large_page) madvise(data, bytes / large_page * large_page, MADV_HUGEPAGE);
  return static_cast<std::byte*>(data);
}

}  // namespace

Device::Device(DeviceKind kind, int index) : kind_(kind) {
  if (kind == DeviceKind::cuda) {
    auto opened = cuda::open(index);
    name_ = opened.name;
    address_ = opened.address;
    queue_ = opened.queue;
    source_ = opened.memory;
  } else {
    name_ = "cpu";
    source_ = host_source(queue_);
  }
  arena_ = std::make_unique<Arena>(source_);
  queue_.cpu = make_cpu_libraries();
}

Arena::Source host_source(const Queue& queue) {
  if (queue.on_gpu) return cuda::host_source();
  return {in_large_pages, [](std::byte* data) { std::free(data); }};
}

Device::~Device() {
  arena_.reset();
  if (kind_ == DeviceKind::cuda) cuda::close(queue_);
}

Memory Device::apart(const std::string& owner, std::size_t bytes) {
  std::byte* data = source_.allocate(bytes);
  if (!data) {  // what the arena holds for tensors to come may be enough
    arena_->release_unused();
    data = source_.allocate(bytes);
  }
  require(data != nullptr, "out of memory: {} MiB more were asked for ({}); use fewer rows_per_lane. Who owns what:{}",
          bytes >> 20, owner, arena_->owners());
  return arena_->adopt(owner, Memory(data, source_.release), bytes);
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
