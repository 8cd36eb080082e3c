#include "core/device.h"
#include "kernels/base/check_cuda.h"
#include "parallel/staging.h"
#include "parallel/stamps_cuda.h"

namespace lockstep::parallel {
namespace {

Arena::Source page_locked() {
  Queue gpu;
  gpu.on_gpu = true;
  return host_source(gpu);
}

/// Two streams, one a way: a copy that waits for backward to fill its bucket holds up nothing that comes back.
class CudaStaging final : public Staging {
 public:
  explicit CudaStaging(int device) : device_(device) {}
  std::unique_ptr<Staging> another() const override { return std::make_unique<CudaStaging>(device_); }

  Memory device(std::size_t bytes) override {
    void* data = nullptr;
    cudaError_t status = cudaMalloc(&data, bytes ? bytes : 1);
    if (status == cudaErrorMemoryAllocation) {
      (void)cudaGetLastError();  // it is reported here and is not to stick
      fail(Exit::internal, "out of GPU memory: {} MiB for parameters and gradients were asked for; other ranks share this GPU",
           {bytes >> 20});
    }
    check(status);
    Memory memory(static_cast<std::byte*>(data), [](std::byte* p) { (void)cudaFree(p); });
    check(cudaMemsetAsync(data, 0, bytes, back_));
    check(cudaStreamSynchronize(back_));
    return memory;
  }
  Memory host(std::size_t bytes) override { return pinned_.allocate(bytes); }
  Memory lock(Memory host, std::size_t bytes) override {
    if (bytes == 0 || cudaHostRegister(host.get(), bytes, cudaHostRegisterDefault) != cudaSuccess) {
      (void)cudaGetLastError();  // copies are slower then, and as right
      return host;
    }
    return Memory(host.get(), [host](std::byte* p) { (void)cudaHostUnregister(p); });
  }

  void begin(Ticket ticket, const Queue& after) override {
    require(after.on_gpu, "host-staged collectives: the data lies on a GPU, and the queue is the processor's");
    check(cudaEventRecord(ready_, after.stream));
    check(cudaStreamWaitEvent(out_, ready_));
    stamps_.started(ticket, out_);
  }
  void fetch(Ticket ticket, void* host, View data) override {
    if (data.bytes() > 0) check(cudaMemcpyAsync(host, data.data, data.bytes(), cudaMemcpyDeviceToHost, out_));
    auto& event = fetched_[std::size_t(ticket % Communicator::timings_kept)];
    if (!event) event = std::make_unique<Event>();
    check(cudaEventRecord(*event, out_));
  }
  bool fetched(Ticket ticket) override { return fetched_[std::size_t(ticket % Communicator::timings_kept)]->happened(); }
  void bring(View data, const void* host) override {
    if (data.bytes() > 0) check(cudaMemcpyAsync(data.data, host, data.bytes(), cudaMemcpyHostToDevice, back_));
  }
  void end(Ticket ticket) override { stamps_.finished(ticket, back_); }
  bool ended(Ticket ticket) override { return stamps_.has_finished(ticket); }
  void join(const Queue& queue) override {
    check(cudaEventRecord(brought_, back_));
    check(cudaStreamWaitEvent(queue.stream, brought_));
  }
  void mark(Ticket ticket, const Queue& queue) override { stamps_.mark(ticket, queue.stream); }
  Timing timing(Ticket ticket) override { return stamps_.timing(ticket, back_); }

 private:
  int device_;
  Stream out_, back_;
  Event ready_, brought_;
  std::vector<std::unique_ptr<Event>> fetched_ = std::vector<std::unique_ptr<Event>>(std::size_t(Communicator::timings_kept));
  Stamps stamps_;
  Arena pinned_{page_locked()};
};

}  // namespace

std::unique_ptr<Staging> open_cuda_staging(const Queue& queue) {
  require(queue.on_gpu, "host-staged collectives: the queue is not on a GPU");
  int device = 0;
  check(cudaGetDevice(&device));
  return std::make_unique<CudaStaging>(device);
}

}  // namespace lockstep::parallel
