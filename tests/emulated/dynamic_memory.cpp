// The memory that dynamic_memory() of kernels/base/kernel_cuda.h names. It is linked into every library or program that holds
// kernels.

#include <cuda_runtime.h>

#include "tests/emulated/runtime/shared_memory.h"

namespace lockstep {

thread_local float4 dynamic_shared_memory[(emulated::most_dynamic_memory + emulated::watched) / sizeof(float4)];

namespace {
const bool given = [] {
  emulated::give_dynamic_memory([] { return reinterpret_cast<std::byte*>(dynamic_shared_memory); }, sizeof dynamic_shared_memory);
  return true;
}();
}  // namespace

}  // namespace lockstep
