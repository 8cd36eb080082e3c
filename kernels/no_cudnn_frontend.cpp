// Stands in for kernels/attention_cudnn_cuda.cpp where cuDNN's frontend, a library of headers, was not found.

#include "kernels/attention_cudnn.h"
#include "kernels/graph_check.h"

namespace lockstep::kernels::cuda {

bool cudnn_attention(const Queue&, const AttentionShape&, View, View, View) {
  return false;
}
bool cudnn_attention_backward(const Queue&, const AttentionShape&, View, View, View, View, View) {
  return false;
}

GraphCheck check_attention(const std::string&, const AttentionShape&, DType, bool) {
  return {.refusal = "built without cuDNN's frontend"};
}

}  // namespace lockstep::kernels::cuda
