// In the place of kernels/{convolution,version}_cuda.cpp: what cuDNN does is done by the processor's half, in the stream.

#include <cuda_runtime.h>

#include "kernels/base/check_cuda.h"
#include "kernels/libraries.h"
#include "kernels/vendor.h"
#include "kernels/version.h"

namespace lockstep::kernels::cuda {
namespace {

/// Only work in a stream uses it: one piece at a time.
const Queue& processor() {
  static const Queue one = [] {
    Queue q;
    q.cpu = make_cpu_libraries();
    return q;
  }();
  return one;
}

template <class Work>
void in_stream(const Queue& q, Work work) {
  check(emulated::enqueue(q.stream, [work] { work(processor()); }));
}

}  // namespace

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

std::vector<Version> versions() {
  return {{"CUDA", "emulated", "emulated"}};
}

}  // namespace lockstep::kernels::cuda
