#include <algorithm>
#include <map>

#include "tests/emulated/runtime/gpu.h"

using namespace emulated;

struct CUgraph_st {
  std::vector<std::vector<Work>> works;  // of the streams that were captured; the one it began in comes first
};
struct CUgraphExec_st {
  std::vector<std::vector<Work>> works;
};

namespace {

thread_local cudaStreamCaptureMode mode_of_thread = cudaStreamCaptureModeGlobal;
std::vector<std::shared_ptr<Capture>> captures;  // under way

/// Whether all that other streams were given is waited for, in the end by the first.
bool joined(const Capture& capture) {
  std::vector<bool> done(capture.works.size());
  auto waited_for = [&](std::size_t s) {  // is its last work before a mark for which a joined stream waits?
    for (auto work = capture.works[s].rbegin(); work != capture.works[s].rend() && !work->run; ++work)
      for (std::size_t other = 0; work->mark && other < done.size(); ++other)
        if (done[other] && std::ranges::any_of(capture.works[other], [&](const Work& w) { return w.wait == work->mark; })) return true;
    return false;
  };
  done[0] = true;
  for (std::size_t rounds = 0; rounds < done.size(); ++rounds)
    for (std::size_t s = 1; s < done.size(); ++s) done[s] = done[s] || waited_for(s);
  return std::ranges::all_of(done, [](bool d) { return d; });
}

}  // namespace

cudaError_t emulated::unsafe_call() {
  if (!failure().empty()) return failed(cudaErrorLaunchFailure);
  if (mode_of_thread == cudaStreamCaptureModeRelaxed) return cudaSuccess;
  for (auto& capture : captures) {
    const bool mine = capture->thread == std::this_thread::get_id();
    if (capture->mode == cudaStreamCaptureModeRelaxed) continue;
    if (mine || (capture->mode == cudaStreamCaptureModeGlobal && mode_of_thread == cudaStreamCaptureModeGlobal)) {
      capture->invalid = true;
      return failed(cudaErrorStreamCaptureUnsupported);
    }
  }
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  std::swap(*mode, mode_of_thread);
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t to, cudaStreamCaptureMode mode) {
  std::lock_guard held(lock());
  if (!to || to->stream->capture) return failed(cudaErrorIllegalState);
  auto capture = std::make_shared<Capture>(Capture{std::this_thread::get_id(), mode, {to->stream}, {{}}});
  captures.push_back(capture);
  to->stream->capture = capture;
  to->stream->place = 0;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t from, cudaGraph_t* graph) {
  std::lock_guard held(lock());
  *graph = nullptr;
  if (!from || !from->stream->capture) return failed(cudaErrorIllegalState);
  auto capture = from->stream->capture;
  if (from->stream->place != 0) return failed(cudaErrorStreamCaptureUnmatched);
  if (capture->mode != cudaStreamCaptureModeRelaxed && capture->thread != std::this_thread::get_id())
    return failed(cudaErrorStreamCaptureWrongThread);
  std::erase(captures, capture);
  for (auto& stream : capture->streams) stream->capture = nullptr;
  if (capture->invalid) return failed(cudaErrorStreamCaptureInvalidated);
  if (!joined(*capture)) return failed(cudaErrorStreamCaptureUnjoined);
  *graph = new CUgraph_st{std::move(capture->works)};
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  std::lock_guard held(lock());
  auto& capture = stream->stream->capture;
  *status = !capture           ? cudaStreamCaptureStatusNone
            : capture->invalid ? cudaStreamCaptureStatusInvalidated
                               : cudaStreamCaptureStatusActive;
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{graph->works};
  return cudaSuccess;
}
cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) {
  return cudaSuccess;
}

// The streams that were captured live again for one run, so that what does not wait inside the graph is free to be late there too.
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t to) {
  std::lock_guard held(lock());
  if (!to || to->stream->capture) return failed(cudaErrorInvalidValue);
  std::vector<std::shared_ptr<Stream>> streams{to->stream};
  while (streams.size() < exec->works.size()) streams.push_back(std::make_shared<Stream>());
  std::map<Mark*, std::shared_ptr<Mark>> marks;
  for (std::size_t s = 0; s < streams.size(); ++s)
    for (const Work& work : exec->works[s])
      if (work.mark) marks[work.mark.get()] = std::make_shared<Mark>(Mark{.stream = streams[s], .capture = {}});
  auto begin = [marks, streams, exec](std::size_t s) {
    for (const Work& work : exec->works[s]) {
      Work now{.run = work.run};
      if (work.mark) now.mark = marks.at(work.mark.get());
      if (work.wait) now.wait = marks.at(work.wait.get());
      if (!work.mark && work.event && work.event->latest) now.wait = work.event->latest;
      streams[s]->works.push_back(std::move(now));
    }
  };
  for (std::size_t s = 1; s < streams.size(); ++s) begin(s);
  for (std::size_t s = 0; s < streams.size(); ++s)
    for (const Work& work : exec->works[s])
      if (work.mark && work.event) work.event->latest = marks.at(work.mark.get());
  begin(0);
  return give(to, {.run = [streams] {}});
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  std::lock_guard held(lock());
  finish_everything();
  delete exec;
  return cudaSuccess;
}
