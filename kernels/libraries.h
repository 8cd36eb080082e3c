#pragma once

#include <memory>

#include "kernels/base/queue.h"

namespace lockstep {

/// oneDNN's engine and an empty cache of primitives, for a Queue that works on the calling CPU thread.
std::shared_ptr<CpuLibraries> make_cpu_libraries();
/// cuBLASLt and cuDNN handles bound to `stream`, with a workspace on the current device. Throws when built without CUDA.
std::shared_ptr<CudaLibraries> make_cuda_libraries(CUstream_st* stream);

/// Bytes of device memory that the libraries and our own kernels hold as workspace.
std::size_t workspace_bytes(const CudaLibraries&);

}  // namespace lockstep
