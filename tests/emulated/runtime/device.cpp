#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <utility>

#include "tests/emulated/runtime/block.h"
#include "tests/emulated/runtime/gpu.h"
#include "tests/emulated/runtime/memory.h"
#include "tests/emulated/runtime/shared_memory.h"

using namespace emulated;

namespace {

thread_local cudaError_t last = cudaSuccess;
std::map<const std::byte*, std::size_t>& page_locked() {
  static auto& all = *new std::map<const std::byte*, std::size_t>;
  return all;
}
std::map<const void*, int>& dynamic_bytes() {
  static auto& all = *new std::map<const void*, int>;
  return all;
}

bool is_page_locked(const void* at, std::size_t bytes) {
  auto* byte = static_cast<const std::byte*>(at);
  auto after = page_locked().upper_bound(byte);
  return after != page_locked().begin() && byte + bytes <= std::prev(after)->first + std::prev(after)->second;
}

/// Whether a copy may read or write there: host memory, or memory that was allocated.
bool valid(const void* at, std::size_t bytes) {
  return !memory::holds(at) || memory::holds(at, bytes);
}

int device_count() {
  const char* count = std::getenv("CUDA_EMULATED_DEVICES");
  return count ? std::atoi(count) : 1;
}

}  // namespace

namespace emulated {

std::string& failure() {
  static auto& sentence = *new std::string;
  return sentence;
}

cudaError_t failed(cudaError_t status) {
  if (status != cudaSuccess) last = status;
  return status;
}

cudaError_t set_dynamic_memory(const void* kernel, int bytes) {
  std::lock_guard held(lock());
  if (bytes < 0 || std::size_t(bytes) > most_dynamic_memory) return failed(cudaErrorInvalidValue);
  dynamic_bytes()[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t launch(Launch launch, cudaStream_t stream) {
  std::lock_guard held(lock());
  const dim3 g = launch.grid, b = launch.block;
  const std::uint64_t threads = std::uint64_t(b.x) * b.y * b.z;
  if (threads == 0 || threads > 1024 || b.z > 64 || g.x == 0 || g.y == 0 || g.z == 0 || g.x > INT32_MAX || g.y > 65535 || g.z > 65535)
    return failed(cudaErrorInvalidConfiguration);
  auto allowed = dynamic_bytes().find(launch.kernel);
  if (launch.bytes > (allowed == dynamic_bytes().end() ? dynamic_memory_unasked : std::size_t(allowed->second)))
    return failed(cudaErrorInvalidValue);
  return give(stream, {.run = [launch = std::move(launch)] {
                failure() = run(launch);
                if (!failure().empty()) std::fprintf(stderr, "emulated GPU: %s\n", failure().c_str());
              }});
}

}  // namespace emulated

const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorIllegalState: return "the operation cannot be performed in the present state";
    case cudaErrorNotReady: return "device not ready";
    case cudaErrorLaunchFailure: return failure().c_str();
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    case cudaErrorStreamCaptureInvalidated: return "operation failed due to a previous error during capture";
    case cudaErrorStreamCaptureUnmatched: return "capture was not begun in this stream";
    case cudaErrorStreamCaptureUnjoined: return "capturing stream has unjoined work";
    case cudaErrorStreamCaptureIsolation: return "dependency created on uncaptured work in another stream";
    case cudaErrorCapturedEvent: return "operation not permitted on an event last recorded in a capturing stream";
    case cudaErrorStreamCaptureWrongThread: return "attempt to terminate a thread-local capture sequence from another thread";
  }
  return "an error that is not emulated";
}

cudaError_t cudaGetLastError() {
  return std::exchange(last, cudaSuccess);
}

cudaError_t cudaGetDeviceCount(int* count) {
  *count = device_count();
  return *count > 0 ? cudaSuccess : failed(cudaErrorNoDevice);
}
cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  return device >= 0 && device < device_count() ? cudaSuccess : failed(cudaErrorInvalidDevice);
}
cudaError_t cudaDeviceReset() {
  std::lock_guard held(lock());
  failure().clear();
  finish_everything();
  last = cudaSuccess;
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (device < 0 || device >= device_count()) return failed(cudaErrorInvalidDevice);
  *properties = {"emulated GPU", 9, 0, 132, memory::size};
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = int(most_dynamic_memory);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetP2PAttribute(int* value, cudaDeviceP2PAttr, int, int) {
  *value = 0;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetPCIBusId(char* text, int size, int device) {
  std::snprintf(text, std::size_t(size), "0000:%02x:00.0", device + 1);
  return cudaSuccess;
}
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0, *greatest = -5;
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
  return *version = 13000, cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  return *version = 13000, cudaSuccess;
}

// ---- memory
cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  std::lock_guard held(lock());
  if (cudaError_t status = unsafe_call(); status != cudaSuccess) return status;
  *data = memory::allocate(bytes);
  return *data ? cudaSuccess : failed(cudaErrorMemoryAllocation);
}
cudaError_t cudaFree(void* data) {
  std::lock_guard held(lock());
  if (!data) return cudaSuccess;
  if (cudaError_t status = unsafe_call(); status != cudaSuccess) return status;
  finish_everything();
  return memory::release(data) ? cudaSuccess : failed(cudaErrorInvalidValue);
}
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  std::lock_guard held(lock());
  *total = memory::size;
  *free = memory::size - memory::used();
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** data, std::size_t bytes, unsigned) {
  std::lock_guard held(lock());
  if (cudaError_t status = unsafe_call(); status != cudaSuccess) return status;
  *data = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
  if (!*data) return failed(cudaErrorMemoryAllocation);
  page_locked()[static_cast<std::byte*>(*data)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
  if (cudaError_t status = cudaHostUnregister(data); status != cudaSuccess) return status;
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaHostRegister(void* data, std::size_t bytes, unsigned) {
  std::lock_guard held(lock());
  page_locked()[static_cast<std::byte*>(data)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaHostUnregister(void* data) {
  std::lock_guard held(lock());
  if (cudaError_t status = unsafe_call(); status != cudaSuccess) return status;
  finish_everything();
  return page_locked().erase(static_cast<std::byte*>(data)) ? cudaSuccess : failed(cudaErrorInvalidValue);
}

// Of memory that is not page-locked CUDA takes a copy at once, and what goes there has come when the call returns.
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  std::lock_guard held(lock());
  if (!stream || !valid(to, bytes) || !valid(from, bytes)) return failed(cudaErrorInvalidValue);
  const bool from_device = memory::holds(from), to_device = memory::holds(to);
  if (kind != cudaMemcpyDefault && (from_device != (kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice) ||
                                    to_device != (kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice)))
    return failed(cudaErrorInvalidValue);
  const bool keeps_from = !from_device && !is_page_locked(from, bytes), waits = !to_device && !is_page_locked(to, bytes);
  if (auto& capture = stream->stream->capture; capture && (keeps_from || waits)) {
    capture->invalid = true;
    return failed(cudaErrorStreamCaptureUnsupported);
  }
  std::vector<std::byte> kept;
  if (keeps_from) kept.assign(static_cast<const std::byte*>(from), static_cast<const std::byte*>(from) + bytes);
  cudaError_t status = give(stream, {.run = [=, kept = std::move(kept)] {
                              if (bytes > 0) std::memcpy(to, keeps_from ? kept.data() : from, bytes);
                            }});
  if (waits) finish(*stream->stream);
  return status;
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  std::lock_guard held(lock());
  if (!memory::holds(to, bytes)) return failed(cudaErrorInvalidValue);
  return give(stream, {.run = [=] { std::memset(to, value, bytes); }});
}
