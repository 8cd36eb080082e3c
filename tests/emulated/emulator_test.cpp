// The emulator must see what it is there to see: each mistake is made here once, beside the same thing done right.

#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "kernels/base/kernel_cuda.h"

namespace {

using lockstep::dynamic_memory;
using lockstep::Queue;
using lockstep::start_kernel;

class Emulator : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_EQ(cudaStreamCreateWithFlags(&q.stream, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaStreamCreateWithFlags(&other.stream, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaMalloc(reinterpret_cast<void**>(&device), bytes), cudaSuccess);
    ASSERT_EQ(cudaHostAlloc(reinterpret_cast<void**>(&host), bytes, cudaHostAllocDefault), cudaSuccess);
  }
  void TearDown() override {
    EXPECT_EQ(cudaDeviceReset(), cudaSuccess);
    EXPECT_EQ(cudaFree(device), cudaSuccess);
    EXPECT_EQ(cudaFreeHost(host), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(q.stream), cudaSuccess);
    EXPECT_EQ(cudaStreamDestroy(other.stream), cudaSuccess);
  }
  void fetch(const Queue& from) { EXPECT_EQ(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, from.stream), cudaSuccess); }
  void wait() { EXPECT_EQ(cudaStreamSynchronize(q.stream), cudaSuccess); }
  std::vector<float> result() {
    fetch(q);
    wait();
    return {host, host + count};
  }
  /// What the GPU says of a kernel that went wrong, when it is started or later.
  template <class... P, class... A>
  std::string complaint(dim3 threads, std::size_t shared, void (*kernel)(P...), A... arguments) {
    try {
      start_kernel(q, 2, threads, shared, kernel, arguments...);
    } catch (const lockstep::Error& error) {
      return error.what();
    }
    cudaError_t status = cudaStreamSynchronize(q.stream);
    return status == cudaSuccess ? "" : cudaGetErrorString(status);
  }

  static constexpr int count = 256;
  static constexpr std::size_t bytes = count * sizeof(float);
  Queue q, other;
  float *device = nullptr, *host = nullptr;
};

void expect_says(const std::string& said, const std::string& words) {
  EXPECT_NE(said.find(words), std::string::npos) << "said: " << said;
}

// ---- blocks

template <bool waits>
__global__ void turn_round(float* out) {
  __shared__ float all[256];
  all[threadIdx.x] = float(threadIdx.x);
  if (waits) __syncthreads();
  out[threadIdx.x] = all[255 - threadIdx.x];
}
bool is_turned_round(const std::vector<float>& all) {
  for (std::size_t i = 0; i < all.size(); ++i)
    if (all[i] != float(255 - i)) return false;
  return true;
}
TEST_F(Emulator, AMissingBarrierShows) {
  for (int i = 0; i < 20; ++i) {
    start_kernel(q, 1, 256, 0, turn_round<true>, device);
    EXPECT_TRUE(is_turned_round(result()));
    start_kernel(q, 1, 256, 0, turn_round<false>, device);
    EXPECT_FALSE(is_turned_round(result()));
  }
}

template <bool waits>
__global__ void in_one_warp(float* out) {
  __shared__ float all[32];
  all[threadIdx.x] = float(threadIdx.x);
  if (waits) __syncwarp();
  out[threadIdx.x] = all[31 - threadIdx.x];
}
TEST_F(Emulator, AMissingSyncwarpShows) {
  auto right = [&] {
    auto all = result();
    for (int i = 0; i < 32; ++i)
      if (all[std::size_t(i)] != float(31 - i)) return false;
    return true;
  };
  for (int i = 0; i < 20; ++i) {
    start_kernel(q, 1, 32, 0, in_one_warp<true>, device);
    EXPECT_TRUE(right());
    start_kernel(q, 1, 32, 0, in_one_warp<false>, device);
    EXPECT_FALSE(right());
  }
}

__global__ void two_barriers(float*) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}
TEST_F(Emulator, ABarrierInTwoPlacesFails) {
  std::string said = complaint(64, 0, two_barriers, device);
  expect_says(said, "threads of one block wait at different barriers; block (");
  expect_says(said, "emulator_test.cpp:");
}

__global__ void barrier_for_some(float* out) {
  if (threadIdx.x % 2 == 0) __syncthreads();
  out[threadIdx.x] = __shfl_xor_sync(~0u, 1.f, 1);
}
TEST_F(Emulator, WaitingForThreadsThatDoNotComeFails) {
  expect_says(complaint(64, 0, barrier_for_some, device), "some threads wait for others that do not come; block (");
  EXPECT_NE(cudaStreamSynchronize(q.stream), cudaSuccess) << "a failure stays";
  EXPECT_THROW(start_kernel(q, 1, 256, 0, turn_round<true>, device), lockstep::Error);
}

__global__ void ended_before(float* out) {
  if (threadIdx.x >= 32) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
TEST_F(Emulator, ThreadsThatEndedNeedNotCome) {
  start_kernel(q, 1, 256, 0, ended_before, device);
  EXPECT_EQ(result()[31], 1);
}

__global__ void sum_of_warp(float* out) {
  float v = float(threadIdx.x);
  for (int o = 16; o; o /= 2) v += __shfl_xor_sync(~0u, v, o);
  const unsigned odd = __ballot_sync(~0u, threadIdx.x % 2);
  const bool right = odd == 0xaaaaaaaau && __any_sync(~0u, threadIdx.x == 40) == (threadIdx.x / 32 == 1) && __all_sync(~0u, 1);
  out[threadIdx.x] = right ? v + __shfl_down_sync(~0u, float(threadIdx.x), 1) : -1;
}
TEST_F(Emulator, LanesExchange) {
  start_kernel(q, 1, 64, 0, sum_of_warp, device);
  auto all = result();
  EXPECT_EQ(all[0], 496 + 1);
  EXPECT_EQ(all[31], 496 + 31);
  EXPECT_EQ(all[32], 496 + 1024 + 33);
}

__global__ void absent_lane(float* out, int bits) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_xor_sync(0xffffu, 1.f, bits);
}
TEST_F(Emulator, AnAbsentLaneFails) {
  EXPECT_EQ(complaint(32, 0, absent_lane, device, 8), "");
  expect_says(complaint(32, 0, absent_lane, device, 16), "__shfl_xor_sync asks for the value of lane ");
}
TEST_F(Emulator, ALaneBeyondTheWarpFails) {
  expect_says(complaint(32, 0, absent_lane, device, 32), "which takes no part");
}
__global__ void left_out(float* out) {
  out[threadIdx.x] = __shfl_sync(0xffffu, 1.f, 0);
}
TEST_F(Emulator, AMaskWithoutItsCallerFails) {
  expect_says(complaint(32, 0, left_out, device), "with a mask that leaves out the calling lane");
}

__global__ void unwritten(float* out) {
  __shared__ float all[256];
  out[threadIdx.x] = all[threadIdx.x];
  all[threadIdx.x] = 1;
}
TEST_F(Emulator, SharedMemoryBeginsAsNaN) {
  start_kernel(q, 3, 256, 0, unwritten, device);
  for (float v : result()) EXPECT_TRUE(std::isnan(v));
}

__global__ void dynamic(float* out, int size) {
  float* all = &dynamic_memory()->x;
  all[threadIdx.x % unsigned(size)] = float(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = all[threadIdx.x % unsigned(size)];
}
TEST_F(Emulator, MoreSharedMemoryThanAskedForFails) {
  start_kernel(q, 1, 64, 64 * sizeof(float), dynamic, device, 64);
  EXPECT_EQ(result()[63], 63);
  expect_says(complaint(64, 63 * sizeof(float), dynamic, device, 64), "wrote behind the 252 bytes of shared memory");
}

TEST_F(Emulator, ImpossibleLaunchesAreRefused) {
  EXPECT_THROW(start_kernel(q, 1, 1025, 0, unwritten, device), lockstep::Error);
  EXPECT_THROW(start_kernel(q, 1, dim3(32, 33), 0, unwritten, device), lockstep::Error);
  EXPECT_THROW(start_kernel(q, 0, 32, 0, unwritten, device), lockstep::Error);
  EXPECT_THROW(start_kernel(q, 1, 64, 48 << 10, dynamic, device, 64), lockstep::Error) << "variables count, too";
  EXPECT_THROW(start_kernel(q, 1, 64, 49 << 10, dynamic, device, 64), lockstep::Error);
  EXPECT_EQ(cudaFuncSetAttribute(dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 49 << 10), cudaSuccess);
  start_kernel(q, 1, 64, 49 << 10, dynamic, device, 64);
  EXPECT_EQ(result()[63], 63);
  EXPECT_NE(cudaFuncSetAttribute(dynamic, cudaFuncAttributeMaxDynamicSharedMemorySize, 228 << 10), cudaSuccess);
}

// ---- streams

__global__ void add(float* to, float value) {
  to[threadIdx.x] += value;
}

/// How often of 64 times `work` gave 1 in every element.
template <class Work>
int times_right(Work work, float* host) {
  int right = 0;
  for (int i = 0; i < 64; ++i) {
    work();
    right += std::all_of(host, host + 256, [](float v) { return v == 1; });
  }
  return right;
}
TEST_F(Emulator, AMissingEventWaitShows) {
  cudaEvent_t written = nullptr;
  EXPECT_EQ(cudaEventCreateWithFlags(&written, cudaEventDisableTiming), cudaSuccess);
  auto run = [&](bool waits) {
    EXPECT_EQ(cudaMemsetAsync(device, 0, bytes, q.stream), cudaSuccess);
    wait();
    start_kernel(q, 1, 256, 0, add, device, 1.f);
    EXPECT_EQ(cudaEventRecord(written, q.stream), cudaSuccess);
    if (waits) {
      EXPECT_EQ(cudaStreamWaitEvent(other.stream, written), cudaSuccess);
    }
    fetch(other);
    EXPECT_EQ(cudaStreamSynchronize(other.stream), cudaSuccess);
  };
  EXPECT_EQ(times_right([&] { run(true); }, host), 64);
  EXPECT_LT(times_right([&] { run(false); }, host), 60);
  EXPECT_EQ(cudaEventDestroy(written), cudaSuccess);
}

TEST_F(Emulator, AMissingSynchronizeShows) {
  auto run = [&](bool waits) {
    std::fill(host, host + count, 0.f);
    EXPECT_EQ(cudaMemsetAsync(device, 0, bytes, q.stream), cudaSuccess);
    start_kernel(q, 1, 256, 0, add, device, 1.f);
    fetch(q);
    if (waits) wait();
  };
  EXPECT_EQ(times_right([&] { run(true); }, host), 64);
  EXPECT_LT(times_right([&] { run(false); }, host), 60);
}

TEST_F(Emulator, WhatIsStillToBeCopiedMustStay) {
  auto run = [&](bool waits) {
    std::fill(host, host + count, 1.f);
    EXPECT_EQ(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, q.stream), cudaSuccess);
    if (waits) wait();
    std::fill(host, host + count, 2.f);
    result();
  };
  EXPECT_EQ(times_right([&] { run(true); }, host), 64);
  EXPECT_LT(times_right([&] { run(false); }, host), 60);
}

TEST_F(Emulator, QueriesTellLateAndLeaveAnError) {
  cudaEvent_t event = nullptr;
  EXPECT_EQ(cudaEventCreateWithFlags(&event, cudaEventDefault), cudaSuccess);
  int late = 0;
  for (int i = 0; i < 64; ++i) {
    start_kernel(q, 1, 256, 0, add, device, 1.f);
    EXPECT_EQ(cudaEventRecord(event, q.stream), cudaSuccess);
    while (cudaEventQuery(event) == cudaErrorNotReady) {
      EXPECT_EQ(cudaGetLastError(), cudaErrorNotReady);
      ++late;
    }
  }
  EXPECT_GT(late, 10);
  EXPECT_EQ(cudaEventDestroy(event), cudaSuccess);
}

TEST_F(Emulator, AnErrorThatWasThrownIsNotReportedAgain) {
  EXPECT_THROW(lockstep::check(cudaMemcpyAsync(host, device, 2 * bytes, cudaMemcpyDeviceToHost, q.stream)), lockstep::Error);
  start_kernel(q, 1, 32, 0, unwritten, device);
}

TEST_F(Emulator, TheProcessorCannotTouchTheGpusMemory) {
  EXPECT_DEATH(device[0] = 1, "the processor touched the GPU's memory");
}
TEST_F(Emulator, CopiesStayInsideAllocations) {
  EXPECT_EQ(cudaMemcpyAsync(host, device + 1, bytes, cudaMemcpyDeviceToHost, q.stream), cudaErrorInvalidValue);
  EXPECT_EQ(cudaMemcpyAsync(host, device, bytes, cudaMemcpyHostToDevice, q.stream), cudaErrorInvalidValue);
}

// ---- capture

TEST_F(Emulator, AGraphGivesWhatCallsGive) {
  cudaEvent_t fork = nullptr, join = nullptr;
  EXPECT_EQ(cudaEventCreateWithFlags(&fork, cudaEventDisableTiming), cudaSuccess);
  EXPECT_EQ(cudaEventCreateWithFlags(&join, cudaEventDisableTiming), cudaSuccess);
  for (bool joins : {true, false}) {
    EXPECT_EQ(cudaMemsetAsync(device, 0, bytes, q.stream), cudaSuccess);
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamBeginCapture(q.stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    EXPECT_EQ(cudaEventRecord(fork, q.stream), cudaSuccess);
    EXPECT_EQ(cudaStreamWaitEvent(other.stream, fork), cudaSuccess);
    start_kernel(other, 1, 256, 0, add, device, 1.f);
    EXPECT_EQ(cudaEventRecord(join, other.stream), cudaSuccess);
    if (joins) {
      EXPECT_EQ(cudaStreamWaitEvent(q.stream, join), cudaSuccess);
    }
    EXPECT_EQ(cudaStreamEndCapture(q.stream, &graph), joins ? cudaSuccess : cudaErrorStreamCaptureUnjoined);
    EXPECT_EQ(result()[0], 0) << "captured, not run";
    if (!graph) continue;
    cudaGraphExec_t exec = nullptr;
    EXPECT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(cudaGraphLaunch(exec, q.stream), cudaSuccess);
    EXPECT_EQ(result()[255], 3);
    EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
    EXPECT_EQ(cudaGraphExecDestroy(exec), cudaSuccess);
  }
  EXPECT_EQ(cudaEventDestroy(fork), cudaSuccess);
  EXPECT_EQ(cudaEventDestroy(join), cudaSuccess);
}

TEST_F(Emulator, WhatACaptureForbidsEndsIt) {
  std::vector<float> pageable(count);
  cudaEvent_t before = nullptr;
  EXPECT_EQ(cudaEventCreateWithFlags(&before, cudaEventDisableTiming), cudaSuccess);
  EXPECT_EQ(cudaEventRecord(before, other.stream), cudaSuccess);
  void* more = nullptr;
  auto ends = [&](auto call) {
    cudaGraph_t graph = nullptr;
    EXPECT_EQ(cudaStreamBeginCapture(q.stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    EXPECT_NE(call(), cudaSuccess);
    EXPECT_EQ(cudaStreamEndCapture(q.stream, &graph), cudaErrorStreamCaptureInvalidated);
    EXPECT_EQ(graph, nullptr);
  };
  ends([&] { return cudaMalloc(&more, 1); });
  ends([&] { return cudaStreamSynchronize(q.stream); });
  ends([&] { return cudaEventQuery(before); });
  ends([&] { return cudaStreamWaitEvent(q.stream, before); });
  ends([&] { return cudaMemcpyAsync(pageable.data(), device, bytes, cudaMemcpyDeviceToHost, q.stream); });
  EXPECT_EQ(cudaEventDestroy(before), cudaSuccess);
}

}  // namespace
