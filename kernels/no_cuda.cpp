// Stands in for kernels/*_cuda.{cpp,cu} where the CUDA half is not built.

#include "kernels/base/check.h"
#include "kernels/libraries.h"
#include "kernels/memory_cuda.h"
#include "kernels/vendor.h"
#include "kernels/version.h"

namespace lockstep {
namespace {
[[noreturn]] void absent() {
  throw Error("This program was built without CUDA.", Exit::usage);
}
}  // namespace

std::shared_ptr<CudaLibraries> make_cuda_libraries(CUstream_st*) {
  absent();
}

std::size_t workspace_bytes(const CudaLibraries&) {
  return 0;
}

// kernels/memory_cuda.cpp
namespace kernels::cuda {
void copy(const Queue&, View, View) {
  absent();
}
void synchronize(const Queue&) {
  absent();
}
}  // namespace kernels::cuda

// kernels/version_cuda.cpp
namespace kernels::cuda {
std::vector<Version> versions() {
  return {{"CUDA", "", ""}, {"cuDNN", "", ""}};
}
}  // namespace kernels::cuda

// the vendors' libraries
namespace kernels::cuda {
float* workspace(const Queue&, std::int64_t) {
  absent();
}
void matmul(const Queue&, View, View, View, std::int64_t, std::int64_t, std::int64_t, const MatmulOptions&) {
  absent();
}
void search_products(const Queue&, bool) {
  absent();
}
ProductChoices& product_choices(const Queue&) {
  absent();
}
std::string product_library() {
  absent();
}
void convolution(const Queue&, const ConvolutionShape&, View, View, View, View) {
  absent();
}
bool convolution_sums(const Queue&, const ConvolutionShape&, View, View, View, View, View) {
  absent();
}
std::string convolution_choices(const Queue&) {
  absent();
}
void convolution_backward_data(const Queue&, const ConvolutionShape&, View, View, View, Write) {
  absent();
}
void convolution_backward_weights(const Queue&, const ConvolutionShape&, View, View, View, Write) {
  absent();
}
void attention(const Queue&, const AttentionShape&, View, View, View, RandomKey) {
  absent();
}
void attention_backward(const Queue&, const AttentionShape&, View, View, View, View, View, RandomKey, View) {
  absent();
}
}  // namespace kernels::cuda

}  // namespace lockstep
