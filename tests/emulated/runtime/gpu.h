#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <cuda_runtime.h>

// Streams, events and captured graphs of the emulated GPU. It is lazy: what is put into a stream is done when somebody waits for
// it, or for what waits for it, and now and then at once. So what nobody waited for has not been done when it is looked at, and
// what must not yet be done may be. All of it happens on the thread that asks, under one lock.
namespace emulated {

struct Stream;
struct Capture;

/// One recording of an event: a place in a stream.
struct Mark {
  std::weak_ptr<Stream> stream;
  std::weak_ptr<Capture> capture;  ///< recorded while its stream was captured
  bool captured = false, done = false;
  double seconds = 0;  ///< when it was done
};

/// A piece of what a stream holds: work, or a place to mark, or one to wait for.
struct Work {
  std::function<void()> run = {};
  std::shared_ptr<Mark> mark = {}, wait = {};
  CUevent_st* event = nullptr;  ///< what an external mark of a graph belongs to
};

struct Stream {
  std::deque<Work> works;
  std::shared_ptr<Capture> capture;
  std::size_t place = 0;  ///< among the streams of the capture
};

/// What streams were given while they were captured: the one it began in comes first.
struct Capture {
  std::thread::id thread;
  cudaStreamCaptureMode mode;
  std::vector<std::shared_ptr<Stream>> streams;
  std::vector<std::vector<Work>> works;
  bool invalid = false;
};

/// Held by every call of the runtime, and while work is done.
std::recursive_mutex& lock();
/// After a kernel went wrong all calls fail, and say this.
std::string& failure();

/// Notes the error for cudaGetLastError.
cudaError_t failed(cudaError_t);
/// Puts work into a stream, or into its capture. Now and then it is done at once.
cudaError_t give(CUstream_st*, Work);
/// Whether calls that wait or allocate are allowed on this thread; if not, its capture is no longer valid.
cudaError_t unsafe_call();
/// Does everything up to a mark, or all that a stream holds, or everything.
void finish(const std::shared_ptr<Mark>&);
void finish(Stream&);
void finish_everything();

}  // namespace emulated

struct CUstream_st {
  std::shared_ptr<emulated::Stream> stream = std::make_shared<emulated::Stream>();
};
struct CUevent_st {
  std::shared_ptr<emulated::Mark> latest;
  bool timed;
};
