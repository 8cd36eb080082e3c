#include <algorithm>
#include <chrono>
#include <set>

#include "tests/emulated/runtime/block.h"
#include "tests/emulated/runtime/gpu.h"
#include "tests/emulated/runtime/memory.h"

namespace emulated {
namespace {

std::set<CUstream_st*>& streams() {
  static auto& all = *new std::set<CUstream_st*>;
  return all;
}

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Does the stream's next piece, after what it waits for.
void step(Stream& stream) {
  Work work = std::move(stream.works.front());
  stream.works.pop_front();
  if (work.wait) finish(work.wait);
  if (work.run && failure().empty()) work.run();
  if (work.mark) {
    work.mark->done = true;
    work.mark->seconds = now();
  }
}

}  // namespace

std::recursive_mutex& lock() {
  static auto& one = *new std::recursive_mutex;
  return one;
}

void finish(Stream& stream) {
  if (stream.works.empty()) return;
  memory::Open open;
  while (!stream.works.empty()) step(stream);
}

void finish(const std::shared_ptr<Mark>& mark) {
  if (mark->done) return;
  memory::Open open;
  auto stream = mark->stream.lock();
  while (!mark->done && stream && !stream->works.empty()) step(*stream);
}

void finish_everything() {
  for (CUstream_st* one : streams()) finish(*one->stream);
}

cudaError_t give(CUstream_st* to, Work work) {
  if (!to) return failed(cudaErrorInvalidValue);  // our sources use no default stream
  Stream& stream = *to->stream;
  if (stream.capture) {
    if (stream.capture->invalid) return failed(cudaErrorStreamCaptureInvalidated);
    stream.capture->works[stream.place].push_back(std::move(work));
    return cudaSuccess;
  }
  stream.works.push_back(std::move(work));
  if (chance().below(4) == 0) finish(stream);
  return failed(failure().empty() ? cudaSuccess : cudaErrorLaunchFailure);
}

cudaError_t enqueue(cudaStream_t stream, std::function<void()> work) {
  std::lock_guard held(lock());
  return give(stream, {.run = std::move(work)});
}

}  // namespace emulated

using namespace emulated;

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  std::lock_guard held(lock());
  streams().insert(*stream = new CUstream_st);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
  return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  std::lock_guard held(lock());
  if (!streams().erase(stream)) return failed(cudaErrorInvalidValue);
  finish(*stream->stream);
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  std::lock_guard held(lock());
  if (!stream) return failed(cudaErrorInvalidValue);
  if (auto& capture = stream->stream->capture) {
    capture->invalid = true;
    return failed(cudaErrorStreamCaptureUnsupported);
  }
  if (cudaError_t status = unsafe_call(); status != cudaSuccess) return status;
  finish(*stream->stream);
  return failed(failure().empty() ? cudaSuccess : cudaErrorLaunchFailure);
}

cudaError_t cudaDeviceSynchronize() {
  std::lock_guard held(lock());
  if (cudaError_t status = unsafe_call(); status != cudaSuccess) return status;
  finish_everything();
  return failed(failure().empty() ? cudaSuccess : cudaErrorLaunchFailure);
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  std::lock_guard held(lock());
  if (cudaError_t status = unsafe_call(); status != cudaSuccess) return status;
  if (!stream->stream->works.empty() && chance().below(2)) return cudaErrorNotReady;
  return cudaStreamSynchronize(stream);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  *event = new CUevent_st{nullptr, (flags & cudaEventDisableTiming) == 0};
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  std::lock_guard held(lock());
  delete event;
  return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t to, unsigned flags) {
  std::lock_guard held(lock());
  if (!to || !event) return failed(cudaErrorInvalidValue);
  Stream& stream = *to->stream;
  if (flags == cudaEventRecordExternal) {
    if (!stream.capture) return failed(cudaErrorIllegalState);
    return give(to, {.mark = std::make_shared<Mark>(), .event = event});
  }
  auto mark = std::make_shared<Mark>(Mark{.stream = to->stream, .capture = stream.capture, .captured = bool(stream.capture)});
  event->latest = mark;
  return give(to, {.mark = mark});
}

cudaError_t cudaStreamWaitEvent(cudaStream_t to, cudaEvent_t event, unsigned flags) {
  std::lock_guard held(lock());
  if (!to || !event) return failed(cudaErrorInvalidValue);
  Stream& stream = *to->stream;
  auto mark = event->latest;
  if (flags == cudaEventWaitExternal) {  // of a graph: what the event marks when the graph begins
    if (!stream.capture) return failed(cudaErrorIllegalState);
    return give(to, {.event = event});
  }
  if (!mark) return cudaSuccess;  // waiting for what was never recorded is waiting for nothing
  if (mark->captured) {
    auto capture = mark->capture.lock();
    if (!capture) return failed(cudaErrorCapturedEvent);
    if (stream.capture && stream.capture != capture) return failed(cudaErrorStreamCaptureIsolation);
    if (!stream.capture) {  // the stream joins the capture
      stream.capture = capture;
      stream.place = capture->streams.size();
      capture->streams.push_back(to->stream);
      capture->works.emplace_back();
    }
  } else if (stream.capture) {
    stream.capture->invalid = true;
    return failed(cudaErrorStreamCaptureIsolation);
  }
  return give(to, {.wait = mark});
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  std::lock_guard held(lock());
  if (event->latest && event->latest->captured) return failed(cudaErrorCapturedEvent);
  if (cudaError_t status = unsafe_call(); status != cudaSuccess) return status;
  if (event->latest && !event->latest->done && chance().below(2)) return failed(cudaErrorNotReady);
  return cudaEventSynchronize(event);
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  std::lock_guard held(lock());
  if (event->latest && event->latest->captured) return failed(cudaErrorCapturedEvent);
  if (cudaError_t status = unsafe_call(); status != cudaSuccess) return status;
  if (event->latest) finish(event->latest);
  return failed(failure().empty() ? cudaSuccess : cudaErrorLaunchFailure);
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t from, cudaEvent_t to) {
  std::lock_guard held(lock());
  for (cudaEvent_t event : {from, to}) {
    if (!event->timed || !event->latest) return failed(cudaErrorInvalidValue);
    if (event->latest->captured) return failed(cudaErrorCapturedEvent);
    if (!event->latest->done) return failed(cudaErrorNotReady);
  }
  *milliseconds = float((to->latest->seconds - from->latest->seconds) * 1e3);
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*work)(void*), void* data) {
  return enqueue(stream, [=] { work(data); });
}
