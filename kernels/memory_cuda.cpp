#include "kernels/memory_cuda.h"

#include <cuda_runtime.h>

#include "kernels/base/check_cuda.h"

namespace lockstep::kernels::cuda {

void copy(const Queue& q, View to, View from) {
  check(cudaMemcpyAsync(to.data, from.data, from.bytes(), cudaMemcpyDefault, q.stream));
}

void synchronize(const Queue& q) {
  check(cudaStreamSynchronize(q.stream));
}

}  // namespace lockstep::kernels::cuda
