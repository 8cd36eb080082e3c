#pragma once

// Private to CUDA files.

#include "kernels/base/check_cuda.h"
#include "kernels/base/queue.h"

namespace lockstep {

/// The memory that a block's threads share, of which start_kernel was told the size.
__device__ inline float4* dynamic_memory() {
  extern __shared__ float4 dynamic_shared_memory[];
  return dynamic_shared_memory;
}

/// kernel<<<blocks, threads, bytes, q.stream>>>(arguments...), as a call that any C++ compiler can read. `bytes` are those
/// of its dynamic_memory().
template <class... P, class... A>
void start_kernel(const Queue& q, unsigned blocks, dim3 threads, std::size_t bytes, void (*kernel)(P...), A... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = threads;
  config.dynamicSmemBytes = bytes;
  config.stream = q.stream;
  static_cast<void>(cudaLaunchKernelEx(&config, kernel, arguments...));
  check(cudaGetLastError());  // takes the error away, too
}

}  // namespace lockstep
