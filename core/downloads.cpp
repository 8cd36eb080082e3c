#include "core/downloads.h"

#include "core/device_cuda.h"
#include "kernels/memory.h"

namespace lockstep {
namespace {

class StreamDownloads : public Downloads {
 public:
  explicit StreamDownloads(const Queue& queue) : queue_(queue), stream_(cuda::open_copy_stream(queue)) {
    cuda::record(done_, stream_.queue);  // a step may be captured before anything was copied
  }
  ~StreamDownloads() override {
    cuda::finish(done_);
    cuda::close(stream_.queue);
  }

  void start(const std::vector<Copy>& copies) override {
    cuda::record(ready_, queue_);
    cuda::wait(stream_.queue, ready_);
    for (const auto& [to, from] : copies) kernels::copy(stream_.queue, to, from);
    // Replays that wait for `done` have passed it: none can mean the copies that come after it.
    kernels::synchronize(queue_);
    cuda::record(done_, stream_.queue);
  }
  void hold() override { cuda::wait(queue_, done_); }
  void finish() override {
    cuda::enter(stream_);
    cuda::wait(done_);
  }

 private:
  const Queue& queue_;
  cuda::CopyStream stream_;
  cuda::Event ready_, done_;  // what is copied is made; it is copied
};

}  // namespace

std::unique_ptr<Downloads> open_downloads(const Queue& queue) {
  return queue.on_gpu ? std::make_unique<StreamDownloads>(queue) : nullptr;
}

}  // namespace lockstep
