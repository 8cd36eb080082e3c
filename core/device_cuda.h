#pragma once

#include <memory>
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
Arena::Source host_source();

/// A stream for copies beside the work of `queue`, on the same GPU; of a CPU's queue a CPU's queue. close() it.
struct CopyStream {
  Queue queue;
  int device = 0;
};
CopyStream open_copy_stream(const Queue& queue);
/// The calling thread works with the stream's GPU.
void enter(const CopyStream&);
/// A place in a queue, absent until it is recorded. Of a CPU's queue nothing is recorded, and waiting for it is waiting for
/// nothing.
using Event = std::shared_ptr<void>;
void record(Event&, const Queue&);
/// Later work in the queue, or the calling thread, waits for it. A queue that captures keeps the wait as a part of the graph, for
/// what was recorded last when that is launched.
void wait(const Queue&, const Event&);
void wait(const Event&);
void finish(const Event&) noexcept;

/// Work put into the queue's stream (and streams that wait for it) by this thread is recorded, not run, until end_capture gives
/// it as a graph. Only this thread is held to what a capture allows; others go on as they are.
void begin_capture(const Queue&);
using Graph = std::shared_ptr<void>;
Graph end_capture(const Queue&);
/// After a failure: the stream is as before, nothing was run.
void abandon_capture(const Queue&) noexcept;
/// Puts the graph's work into the queue.
void launch(const Queue&, const Graph&);

}  // namespace lockstep::cuda
