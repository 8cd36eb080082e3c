#pragma once

#include <memory>

struct CUstream_st;

namespace lockstep {

/// Handles and plan caches of the vendor libraries (oneDNN; cuBLASLt and cuDNN): kernels/vendor_{cpu,cuda}.h.
class CpuLibraries;
class CudaLibraries;

/// Where work goes: the calling CPU thread (and its OpenMP team), or a CUDA stream with its handles.
/// A queue is owned by a Device (core/device.h) and passed by reference.
struct Queue {
  CUstream_st* stream = nullptr;
  bool on_gpu = false;
  std::shared_ptr<CpuLibraries> cpu;
  std::shared_ptr<CudaLibraries> cuda;
};

}  // namespace lockstep
