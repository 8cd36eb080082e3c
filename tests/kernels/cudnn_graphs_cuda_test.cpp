#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <cstring>
#include <iostream>

#include "kernels/graph_check.h"

// cuDNN is asked about our graphs for an H200 that is only described: whether it takes them, and with how many engines. No GPU is
// needed, and nothing is computed. Engines that compile at run time want to see a driver's library: the toolkit's stub will do.

// cuDNN's frontend asks the runtime which GPU this is. This program answers in its place.
extern "C" cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
extern "C" cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::memset(properties, 0, sizeof *properties);
  properties->major = 9;
  properties->multiProcessorCount = 132;
  return cudaSuccess;
}

namespace lockstep {
namespace {

using kernels::AttentionShape;
using kernels::ConvolutionShape;
using namespace kernels::cuda;

const std::string h200 = R"({"deviceName": "NVIDIA H200", "deviceVer": 900, "driverVer": 13000, "cudaDeviceId": 0,
  "multiProcessorCount": 132, "warpSize": 32, "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64],
  "maxThreadsPerBlock": 1024, "maxThreadsPerSM": 2048, "maxCtasPerSM": 32, "regsPerBlock": 65536, "maxRegistersPerSM": 65536,
  "maxSharedMemoryPerBlock": 49152, "maxSharedMemoryPerBlockOptin": 232448, "reservedSharedMemoryPerBlock": 1024,
  "totalGlobalMem": 150109880320, "l2CacheSize": 62914560, "smClockRateKHz": 1980000, "memClockRateKHz": 3201000,
  "pciDeviceId": 0, "isTccDriver": 0, "supportCoopLaunch": 1})";

class CudnnGraphs : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL) || dlopen(LOCKSTEP_DRIVER_STUB, RTLD_NOW | RTLD_GLOBAL);
  }
  static inline bool driver = false;
};

std::string text(const ConvolutionShape& s) {
  auto n = [](std::int64_t v) { return std::to_string(v); };
  return n(s.height) + " x " + n(s.width) + " x " + n(s.in) + " -> " + n(s.out) + ", " + n(s.kernel_height) + " x " +
         n(s.kernel_width) + ", stride " + n(s.stride);
}

/// Each shape of ResNet-50 once, as its bottlenecks meet them.
std::vector<ConvolutionShape> resnet50(std::int64_t batch) {
  std::vector<ConvolutionShape> all{{batch, 224, 224, 3, 64, 7, 7, 2, 3}};
  auto add = [&](std::int64_t size, std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride) {
    all.push_back({batch, size, size, in, out, kernel, kernel, stride, kernel / 2});
  };
  std::int64_t size = 56, in = 64;
  for (std::int64_t width = 64; width <= 512; width *= 2) {
    const std::int64_t stride = width > 64 ? 2 : 1;
    add(size, in, width, 1, 1);
    add(size, width, width, 3, stride);
    add(size, in, 4 * width, 1, stride);  // the shortcut
    size /= stride;
    in = 4 * width;
    add(size, width, in, 1, 1);
    add(size, in, width, 1, 1);  // the stage's other blocks
    add(size, width, width, 3, 1);
  }
  return all;
}

void expect_taken(const GraphCheck& found, const std::string& what) {
  EXPECT_GT(found.acceptable, 0) << what << ": " << found.offered << " offers, " << found.refusal;
}
void say(const GraphCheck& found, const std::string& what) {
  std::cout << what << ": " << found.acceptable << " of " << found.offered << " offers, workspace " << found.workspace_bytes
            << " bytes, engine " << found.engine << "\n";
}

const char* name_of_pass(ConvolutionPass pass) {
  return pass == ConvolutionPass::forward ? "forward" : pass == ConvolutionPass::data ? "data" : "weights";
}

TEST_F(CudnnGraphs, Convolutions) {
  for (DType dtype : {DType::bf16, DType::f16, DType::f32})
    for (auto pass : {ConvolutionPass::forward, ConvolutionPass::data, ConvolutionPass::weights})
      for (const ConvolutionShape& s : resnet50(256)) {
        std::string what = std::string(name_of_pass(pass)) + " " + text(s) + ", " + name_of(dtype);
        GraphCheck found = check_convolution(h200, pass, s, dtype, false);
        expect_taken(found, what);
        say(found, what);
      }
}

// Engines that sum in a fixed order, by way of workspace, exist for f16 and channels by eights. Others, all there is for bf16,
// add with atomics: they must be passed over.
TEST_F(CudnnGraphs, SumsForBatchNormalisation) {
  if (!driver) GTEST_SKIP() << "neither libcuda.so.1 nor the toolkit's stub of it";
  for (DType dtype : {DType::bf16, DType::f16})
    for (const ConvolutionShape& s : resnet50(256)) {
      std::string what = "forward with sums " + text(s) + ", " + name_of(dtype);
      GraphCheck found = check_convolution(h200, ConvolutionPass::sums, s, dtype, false);
      EXPECT_GT(found.offered, 0) << what << ": " << found.refusal;
      EXPECT_EQ(found.acceptable > 0, dtype == DType::f16 && s.in % 8 == 0) << what;
      EXPECT_LT(found.acceptable, found.offered) << what;
      say(found, what);
    }
}

TEST_F(CudnnGraphs, ConvolutionsOfOtherKinds) {  // small images, odd sizes, dilation, groups
  const ConvolutionShape all[] = {{128, 28, 28, 1, 32, 3, 3, 1, 1},  {128, 14, 14, 32, 64, 3, 3, 1, 1},
                                  {2, 6, 5, 4, 6, 3, 2, 2, 1, 1, 2}, {3, 9, 11, 5, 7, 3, 3, 1, 0, 2},
                                  {8, 32, 32, 64, 64, 3, 3, 1, 1},   {64, 32, 32, 3, 64, 3, 3, 1, 1}};
  for (DType dtype : {DType::bf16, DType::f16, DType::f32})
    for (auto pass : {ConvolutionPass::forward, ConvolutionPass::data, ConvolutionPass::weights})
      for (const ConvolutionShape& s : all)
        expect_taken(check_convolution(h200, pass, s, dtype, false),
                     std::string(name_of_pass(pass)) + " " + text(s) + ", " + name_of(dtype));
}

TEST_F(CudnnGraphs, Attention) {
  if (!driver) GTEST_SKIP() << "neither libcuda.so.1 nor the toolkit's stub of it";
  const AttentionShape all[] = {
      {.batch = 64, .length = 1024, .heads = 12, .size = 64},  // GPT-2 124M
      {.batch = 32, .length = 1024, .heads = 16, .size = 64}, {.batch = 8, .length = 2048, .heads = 16, .size = 128},
      {.batch = 4, .length = 256, .heads = 3, .size = 64},    {.batch = 2, .length = 65, .heads = 2, .size = 40},
      {.batch = 2, .length = 100, .heads = 2, .size = 8},     {.batch = 2, .length = 128, .heads = 2, .size = 256}};
  for (DType dtype : {DType::bf16, DType::f16})
    for (bool causal : {true, false})
      for (bool backward : {false, true})
        for (AttentionShape s : all) {
          s.causal = causal;
          s.scale = 0.125f;
          std::string what = std::string(backward ? "backward" : "forward") + (causal ? ", causal" : ", full") + ", length " +
                             std::to_string(s.length) + ", size " + std::to_string(s.size) + ", " + name_of(dtype);
          GraphCheck found = check_attention(h200, s, dtype, backward);
          expect_taken(found, what);
          std::cout << what << ": " << found.offered << " offers\n";
        }
}

TEST_F(CudnnGraphs, WhatCudnnCannotDoIsRefused) {  // the question is a real one
  const AttentionShape odd{.batch = 2, .length = 128, .heads = 2, .size = 63, .scale = 1};
  EXPECT_EQ(check_attention(h200, odd, DType::bf16, false).acceptable, 0);
  std::string old = h200;
  old.replace(old.find("900"), 3, "500");
  EXPECT_EQ(check_convolution(old, ConvolutionPass::forward, resnet50(256)[1], DType::bf16, false).acceptable, 0);
  EXPECT_THROW(check_convolution("{}", ConvolutionPass::forward, resnet50(256)[1], DType::bf16, false), Error);
}

}  // namespace
}  // namespace lockstep
