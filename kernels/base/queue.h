#pragma once

#include <functional>
#include <memory>
#include <utility>
#include <vector>

struct CUstream_st;

namespace lockstep {

/// Handles and plan caches of the vendor libraries (oneDNN; cuBLASLt and cuDNN): kernels/vendor_{cpu,cuda}.h.
class CpuLibraries;
class CudaLibraries;

struct Queue;

/// What a CPU queue was given while it recorded, with the arguments it was given, to be done later as often as wanted: what a
/// CUDA graph is to a stream.
class Recording {
 public:
  using Work = std::function<void(const Queue&)>;
  void add(Work work) { works_.push_back(std::move(work)); }
  /// Does all of it, in order. `queue` does not record.
  void replay(const Queue& queue) const {
    for (const Work& work : works_) work(queue);
  }
  std::size_t size() const { return works_.size(); }

 private:
  std::vector<Work> works_;
};

/// Where work goes: the calling CPU thread (and its OpenMP team), or a CUDA stream with its handles.
/// A queue is owned by a Device (core/device.h) and passed by reference.
struct Queue {
  CUstream_st* stream = nullptr;
  bool on_gpu = false;
  std::shared_ptr<CpuLibraries> cpu;
  std::shared_ptr<CudaLibraries> cuda;
  Recording* recording = nullptr;  ///< of a CPU: work is kept there, not done
};

}  // namespace lockstep
