#include "core/device_cuda.h"

#include <cuda_runtime.h>

#include "kernels/base/check_cuda.h"
#include "kernels/libraries.h"

namespace lockstep::cuda {

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

Opened open(int index) {
  require(Exit::usage, index >= 0 && index < device_count(), "device cuda:{} was asked for, but this process sees {} GPUs", index,
          device_count());
  check(cudaSetDevice(index));
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index));
  Opened opened;
  opened.name = properties.name;
  check(cudaStreamCreateWithFlags(&opened.queue.stream, cudaStreamNonBlocking));
  opened.queue.on_gpu = true;
  opened.queue.cuda = make_cuda_libraries(opened.queue.stream);
  opened.memory = {[](std::size_t bytes) {
                     void* data = nullptr;
                     if (cudaMalloc(&data, bytes) == cudaSuccess) return static_cast<std::byte*>(data);
                     (void)cudaGetLastError();  // the arena reports what is full; the error is not to stick
                     return static_cast<std::byte*>(nullptr);
                   },
                   [](std::byte* data) { (void)cudaFree(data); }};
  return opened;
}

void close(Queue& queue) noexcept {
  queue.cuda.reset();
  if (queue.stream) (void)cudaStreamDestroy(queue.stream);
  queue.stream = nullptr;
}

}  // namespace lockstep::cuda
