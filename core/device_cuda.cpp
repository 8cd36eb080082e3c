#include "core/device_cuda.h"

#include <cuda_runtime.h>

#include "kernels/base/check_cuda.h"
#include "kernels/libraries.h"

namespace lockstep::cuda {
namespace {

std::string address_of(int index) {
  char text[32] = "";
  check(cudaDeviceGetPCIBusId(text, sizeof text, index));
  return text;
}

/// Native atomics across the link are what NVLink has and PCIe has not.
std::string link_between(int a, int b) {
  if (a == b) return "itself";
  int access = 0, atomics = 0;
  check(cudaDeviceGetP2PAttribute(&access, cudaDevP2PAttrAccessSupported, a, b));
  check(cudaDeviceGetP2PAttribute(&atomics, cudaDevP2PAttrNativeAtomicSupported, a, b));
  return !access ? "through the host" : atomics ? "NVLink" : "PCIe";
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  (void)cudaGetLastError();  // asked and answered; it is not to stick
  return 0;
}

std::vector<GpuInfo> gpus() {
  std::vector<GpuInfo> all;
  int before = 0, count = device_count();
  if (count > 0) check(cudaGetDevice(&before));
  for (int i = 0; i < count; ++i) {
    cudaDeviceProp properties;
    check(cudaGetDeviceProperties(&properties, i));
    GpuInfo gpu;
    gpu.name = properties.name, gpu.address = address_of(i);
    gpu.major = properties.major, gpu.minor = properties.minor;
    check(cudaSetDevice(i));
    check(cudaMemGetInfo(&gpu.free, &gpu.bytes));
    for (int j = 0; j < count; ++j) gpu.to_peers.push_back(link_between(i, j));
    all.push_back(gpu);
  }
  if (count > 0) check(cudaSetDevice(before));
  return all;
}

std::string problem() {
  int count = 0, driver = 0, runtime = 0;
  cudaError_t status = cudaGetDeviceCount(&count);
  (void)cudaGetLastError();
  if (status == cudaSuccess) return count > 0 ? "" : "the driver shows no GPU to this process";
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  (void)cudaRuntimeGetVersion(&runtime);
  if (driver == 0) return "there is no NVIDIA driver here (libcuda.so.1), so GPUs cannot be used";
  if (status == cudaErrorInsufficientDriver)
    return "the NVIDIA driver supports CUDA " + version_text(driver) + ", and this program runs with CUDA " +
           version_text(runtime) + ": update the driver, or build with an older toolkit";
  if (status == cudaErrorNoDevice)
    return "the NVIDIA driver shows no GPU to this process: look at CUDA_VISIBLE_DEVICES, and at nvidia-smi";
  return std::string("CUDA cannot start: ") + cudaGetErrorString(status);
}

Opened open(int index) {
  require(Exit::usage, index >= 0 && index < device_count(), "device cuda:{} was asked for, but this process sees {} GPUs", index,
          device_count());
  check(cudaSetDevice(index));
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, index));
  Opened opened;
  opened.name = properties.name;
  opened.address = address_of(index);
  check(cudaStreamCreateWithFlags(&opened.queue.stream, cudaStreamNonBlocking));
  opened.queue.on_gpu = true;
  try {
    opened.queue.cuda = make_cuda_libraries(opened.queue.stream);
  } catch (...) {
    close(opened.queue);
    throw;
  }
  opened.memory = {.allocate =
                       [](std::size_t bytes) {
                         // A step that is being captured may need more than those before it, and asking is no part of it.
                         cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
                         (void)cudaThreadExchangeStreamCaptureMode(&mode);
                         void* data = nullptr;
                         const cudaError_t status = cudaMalloc(&data, bytes);
                         (void)cudaThreadExchangeStreamCaptureMode(&mode);
                         if (status == cudaSuccess) return static_cast<std::byte*>(data);
                         (void)cudaGetLastError();  // the arena reports what is full; the error is not to stick
                         return static_cast<std::byte*>(nullptr);
                       },
                   .release = [](std::byte* data) { (void)cudaFree(data); },
                   .capacity =
                       [name = opened.name, libraries = opened.queue.cuda.get()] {
                         Arena::Capacity capacity{.name = name};
                         if (cudaMemGetInfo(&capacity.free, &capacity.total) != cudaSuccess) return Arena::Capacity{};
                         capacity.owners.emplace_back("workspaces of kernels and libraries", workspace_bytes(*libraries));
                         return capacity;
                       }};
  return opened;
}

Arena::Source host_source() {
  return {.allocate =
              [](std::size_t bytes) {
                void* data = nullptr;
                if (cudaHostAlloc(&data, bytes, cudaHostAllocDefault) == cudaSuccess) return static_cast<std::byte*>(data);
                (void)cudaGetLastError();  // the arena reports what is full; the error is not to stick
                return static_cast<std::byte*>(nullptr);
              },
          .release = [](std::byte* data) { (void)cudaFreeHost(data); }};
}

void close(Queue& queue) noexcept {
  queue.cuda.reset();
  if (queue.stream) (void)cudaStreamDestroy(queue.stream);
  queue.stream = nullptr;
}

CopyStream open_copy_stream(const Queue& queue) {
  CopyStream copies;
  if (!queue.on_gpu) return copies;
  check(cudaGetDevice(&copies.device));
  check(cudaStreamCreateWithFlags(&copies.queue.stream, cudaStreamNonBlocking));
  copies.queue.on_gpu = true;
  return copies;
}
void enter(const CopyStream& copies) {
  if (copies.queue.on_gpu) check(cudaSetDevice(copies.device));
}
void record(Event& event, const Queue& queue) {
  if (!queue.on_gpu) return;
  if (!event) {
    cudaEvent_t made = nullptr;
    check(cudaEventCreateWithFlags(&made, cudaEventDisableTiming));
    event = Event(made, [](void* old) { (void)cudaEventDestroy(static_cast<cudaEvent_t>(old)); });
  }
  check(cudaEventRecord(static_cast<cudaEvent_t>(event.get()), queue.stream));
}
void wait(const Queue& queue, const Event& event) {
  if (!event) return;
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(queue.stream, &capturing));
  const bool captured = capturing == cudaStreamCaptureStatusActive;
  check(cudaStreamWaitEvent(queue.stream, static_cast<cudaEvent_t>(event.get()),
                            captured ? cudaEventWaitExternal : cudaEventWaitDefault));
}
void wait(const Event& event) {
  if (event) check(cudaEventSynchronize(static_cast<cudaEvent_t>(event.get())));
}
void finish(const Event& event) noexcept {
  if (event) (void)cudaEventSynchronize(static_cast<cudaEvent_t>(event.get()));
}

void begin_capture(const Queue& queue) {
  check(cudaStreamBeginCapture(queue.stream, cudaStreamCaptureModeThreadLocal));
}

Graph end_capture(const Queue& queue) {
  cudaGraph_t recorded = nullptr;
  check(cudaStreamEndCapture(queue.stream, &recorded));
  require(Exit::internal, recorded != nullptr, "capture: CUDA ended it early");
  cudaGraphExec_t ready = nullptr;
  cudaError_t status = cudaGraphInstantiate(&ready, recorded, 0);
  (void)cudaGraphDestroy(recorded);  // what was made of it holds all it needs
  check(status);
  Graph graph(ready, [](void* exec) { (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(exec)); });
  check(cudaGraphUpload(ready, queue.stream));
  return graph;
}

void abandon_capture(const Queue& queue) noexcept {
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  if (cudaStreamIsCapturing(queue.stream, &capturing) == cudaSuccess && capturing != cudaStreamCaptureStatusNone) {
    cudaGraph_t recorded = nullptr;
    (void)cudaStreamEndCapture(queue.stream, &recorded);
    if (recorded) (void)cudaGraphDestroy(recorded);
  }
  (void)cudaGetLastError();  // whoever failed has told; it is not to stick
}

void launch(const Queue& queue, const Graph& graph) {
  check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph.get()), queue.stream));
}

}  // namespace lockstep::cuda
