#include <cublasLt.h>
#include <cuda_runtime_api.h>
#include <cudnn.h>

#include "kernels/version.h"

namespace lockstep::kernels::cuda {

std::vector<Version> versions() {
  auto toolkit = [](int v) { return std::to_string(v / 1000) + "." + std::to_string(v % 1000 / 10); };
  auto library = [](std::size_t v, std::size_t major) {
    return std::to_string(v / major) + "." + std::to_string(v % major / 100) + "." + std::to_string(v % 100);
  };
  int runtime = 0, driver = 0;
  cudaRuntimeGetVersion(&runtime);
  if (cudaDriverGetVersion(&driver) != cudaSuccess) driver = 0;
  return {{"CUDA", toolkit(CUDART_VERSION), toolkit(runtime)},
          {"CUDA driver", toolkit(CUDART_VERSION), driver ? "supports CUDA " + toolkit(driver) : ""},
          {"cuBLASLt", library(CUBLAS_VERSION, 10000), library(cublasLtGetVersion(), 10000)},
          {"cuDNN", library(CUDNN_VERSION, 10000), library(cudnnGetVersion(), 10000)}};
}

}  // namespace lockstep::kernels::cuda
