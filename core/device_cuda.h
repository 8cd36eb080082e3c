#pragma once

#include <string>
#include <vector>

#include "core/device.h"
#include "kernels/base/queue.h"

// What core/device.cpp needs from CUDA: core/device_cuda.cpp, or core/no_cuda.cpp when there is none.
namespace lockstep::cuda {

/// GPUs visible to this process; 0 without a driver.
int device_count();
/// What they are, and why there is none.
std::vector<GpuInfo> gpus();
std::string problem();
/// A GPU opened for this process: a stream of its own (never the default stream) with the libraries' handles.
struct Opened {
  std::string name, address;
  Queue queue;
  Arena::Source memory;
};
Opened open(int index);
void close(Queue&) noexcept;

}  // namespace lockstep::cuda
