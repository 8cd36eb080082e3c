#include "kernels/vendor_cuda.h"

#include "kernels/vendor.h"

namespace lockstep {

void check(cublasStatus_t status, Here at) {
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    throw Error(std::string("cuBLASLt: ") + cublasLtGetStatusString(status), Exit::internal, at);
}

void check(cudnnStatus_t status, Here at) {
  if (status == CUDNN_STATUS_SUCCESS) [[likely]]
    return;
  char detail[512] = "";
  cudnnGetLastErrorString(detail, sizeof detail);
  throw Error(std::string("cuDNN: ") + cudnnGetErrorString(status) + (*detail ? std::string(": ") + detail : ""), Exit::internal,
              at);
}

std::int64_t alignment_of(std::initializer_list<const void*> addresses) {
  std::uintptr_t bits = 16;
  for (const void* address : addresses) bits |= reinterpret_cast<std::uintptr_t>(address);
  return std::int64_t(bits & -bits);
}

CudaLibraries::CudaLibraries(CUstream_st* stream) : library_memory(stream), kernel_memory(stream), stream_(stream) {
  library_memory.at_least(product_workspace);
  check(cublasLtCreate(&cublas_));
}

CudaLibraries::~CudaLibraries() {
  if (cublas_) (void)cublasLtDestroy(cublas_);
  if (cudnn_) (void)cudnnDestroy(cudnn_);
}

cudnnHandle_t CudaLibraries::cudnn() {
  if (!cudnn_) {
    check(cudnnCreate(&cudnn_));
    check(cudnnSetStream(cudnn_, stream_));
  }
  return cudnn_;
}

std::shared_ptr<CudaLibraries> make_cuda_libraries(CUstream_st* stream) {
  return std::make_shared<CudaLibraries>(stream);
}

std::size_t workspace_bytes(const CudaLibraries& libraries) {
  return libraries.library_memory.held_bytes() + libraries.kernel_memory.held_bytes();
}

namespace kernels::cuda {
float* workspace(const Queue& q, std::int64_t floats) {
  return static_cast<float*>(q.cuda->kernel_memory.at_least(std::size_t(floats) * sizeof(float)));
}
}  // namespace kernels::cuda

}  // namespace lockstep
