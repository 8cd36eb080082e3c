#include "kernels/growing_memory_cuda.h"

#include <algorithm>

#include "kernels/base/check_cuda.h"

namespace lockstep {

GrowingMemory::~GrowingMemory() {
  for (void* block : blocks_) (void)cudaFree(block);
}

void* GrowingMemory::at_least(std::size_t bytes) {
  if (bytes <= bytes_) return blocks_.empty() ? nullptr : blocks_.back();
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream_, &capturing));
  require(capturing == cudaStreamCaptureStatusNone,
          "a step that is being captured needs {} MiB of workspace, and the steps before it only {} MiB: run it once before",
          bytes >> 20, bytes_ >> 20);
  bytes = std::max(bytes, 2 * bytes_);
  void* block = nullptr;
  cudaError_t status = cudaMalloc(&block, bytes);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // it is reported here and is not to stick
    throw Error(format_text("out of GPU memory: {} MiB of workspace were asked for", {bytes >> 20}));
  }
  check(status);
  blocks_.push_back(block);
  bytes_ = bytes;
  held_ += bytes;
  return block;
}

}  // namespace lockstep
