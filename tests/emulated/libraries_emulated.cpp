// In the place of kernels/{vendor,matmul,convolution,version}_cuda.*: what cuBLASLt and cuDNN do is done by the processor's half,
// in the stream.

#include <cuda_runtime.h>

#include "kernels/base/check_cuda.h"
#include "kernels/growing_memory_cuda.h"
#include "kernels/libraries.h"
#include "kernels/vendor.h"
#include "kernels/version.h"

namespace lockstep {

class CudaLibraries {
 public:
  /// Only work in the stream uses it.
  Queue processor;
  ProductChoices choices;
  GrowingMemory memory;

  explicit CudaLibraries(CUstream_st* stream) : memory(stream) { processor.cpu = make_cpu_libraries(); }
};

std::shared_ptr<CudaLibraries> make_cuda_libraries(CUstream_st* stream) {
  return std::make_shared<CudaLibraries>(stream);
}
std::size_t workspace_bytes(const CudaLibraries& libraries) {
  return libraries.memory.held_bytes();
}

namespace {
template <class Work>
void in_stream(const Queue& q, Work work) {
  check(emulated::enqueue(q.stream, [work, libraries = q.cuda.get()] { work(libraries->processor); }));
}
}  // namespace

namespace kernels::cuda {

float* workspace(const Queue& q, std::int64_t floats) {
  return static_cast<float*>(q.cuda->memory.at_least(std::size_t(floats) * sizeof(float)));
}

void matmul(const Queue& q, View y, View a, View b, std::int64_t m, std::int64_t n, std::int64_t k, const MatmulOptions& o) {
  in_stream(q, [=](const Queue& on) { cpu::matmul(on, y, a, b, m, n, k, o); });
}
void convolution(const Queue& q, const ConvolutionShape& s, View y, View x, View w, View bias) {
  in_stream(q, [=](const Queue& on) { cpu::convolution(on, s, y, x, w, bias); });
}
bool convolution_sums(const Queue&, const ConvolutionShape&, View, View, View, View, View) {
  return false;  // as for shapes that cuDNN's engines do not take: our own kernels sum
}
std::string convolution_choices(const Queue&) {
  return "";
}
void convolution_backward_data(const Queue& q, const ConvolutionShape& s, View dx, View dy, View w, Write write) {
  in_stream(q, [=](const Queue& on) { cpu::convolution_backward_data(on, s, dx, dy, w, write); });
}
void convolution_backward_weights(const Queue& q, const ConvolutionShape& s, View dw, View dy, View x, Write write) {
  in_stream(q, [=](const Queue& on) { cpu::convolution_backward_weights(on, s, dw, dy, x, write); });
}

void search_products(const Queue&, bool) {}
ProductChoices& product_choices(const Queue& q) {
  return q.cuda->choices;
}
std::string product_library() {
  return "emulated";
}
std::vector<Version> versions() {
  return {{"CUDA", "emulated", "emulated"}};
}

}  // namespace kernels::cuda
}  // namespace lockstep
