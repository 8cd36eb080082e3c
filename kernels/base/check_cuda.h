#pragma once

// Private to CUDA files.

#include <cuda_runtime.h>

#include "kernels/base/check.h"

namespace lockstep {

/// Throws unless a CUDA runtime call succeeded. The error is told here: the next launch is not to report it again.
inline void check(cudaError_t status, Here at = Here::current()) {
  if (status == cudaSuccess) [[likely]]
    return;
  (void)cudaGetLastError();
  throw Error(std::string("CUDA: ") + cudaGetErrorString(status), Exit::internal, at);
}

}  // namespace lockstep
