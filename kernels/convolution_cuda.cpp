#include "kernels/binary.h"
#include "kernels/memory.h"
#include "kernels/vendor.h"
#include "kernels/vendor_cuda.h"

// cuDNN's convolutions by its older interface: NHWC images, deterministic algorithms that its heuristics put first, no TF32 in
// f32. Gradients of weights have the images' type there; f32 ones of bf16 images pass through scratch memory.

namespace lockstep::kernels::cuda {
namespace {

enum class Direction : std::int64_t { forward, data, weights };

constexpr std::size_t workspace_limit = std::size_t(1) << 30;

ConvolutionPlan describe(const ConvolutionShape& s, DType dtype) {
  ConvolutionPlan plan{TensorDesc::make(), TensorDesc::make(), FilterDesc::make(), ConvolutionDesc::make(), 0, 0};
  auto type = cudnn_type(dtype);
  check(cudnnSetTensor4dDescriptor(plan.x, CUDNN_TENSOR_NHWC, type, int(s.batch), int(s.in), int(s.height), int(s.width)));
  check(cudnnSetTensor4dDescriptor(plan.y, CUDNN_TENSOR_NHWC, type, int(s.batch), int(s.out), int(s.out_height()),
                                   int(s.out_width())));
  check(cudnnSetFilter4dDescriptor(plan.w, type, CUDNN_TENSOR_NHWC, int(s.out), int(s.in / s.groups), int(s.kernel_height),
                                   int(s.kernel_width)));
  check(cudnnSetConvolution2dDescriptor(plan.convolution, int(s.padding), int(s.padding), int(s.stride), int(s.stride),
                                        int(s.dilation), int(s.dilation), CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT));
  check(cudnnSetConvolutionGroupCount(plan.convolution, int(s.groups)));
  check(cudnnSetConvolutionMathType(plan.convolution, dtype == DType::f32 ? CUDNN_FMA_MATH : CUDNN_DEFAULT_MATH));
  return plan;
}

/// Takes the first deterministic algorithm of `get(count, &found, results)` whose workspace is within the limit.
template <class Result, class Get>
void choose(ConvolutionPlan& plan, DType dtype, Get get) {
  Result results[16];
  int found = 0;
  check(get(16, &found, results));
  for (int i = 0; i < found; ++i) {
    const Result& r = results[i];
    if (r.status != CUDNN_STATUS_SUCCESS || r.determinism != CUDNN_DETERMINISTIC || r.memory > workspace_limit) continue;
    plan.algorithm = int(r.algo);
    plan.workspace = r.memory;
    if (dtype != DType::f32) check(cudnnSetConvolutionMathType(plan.convolution, r.mathType));
    return;
  }
  fail(Exit::internal, "convolution: cuDNN has no deterministic algorithm for this shape in {}", {name_of(dtype)});
}

ConvolutionPlan& plan_for(const Queue& q, Direction direction, const ConvolutionShape& s, DType dtype) {
  PlanKey key{std::int64_t(direction), s.batch,        s.height, s.width,   s.in,       s.out,
              s.kernel_height,         s.kernel_width, s.stride, s.padding, s.dilation, s.groups,
              std::int64_t(dtype)};
  return q.cuda->convolutions.get(key, [&] {
    ConvolutionPlan plan = describe(s, dtype);
    cudnnHandle_t cudnn = q.cuda->cudnn;
    if (direction == Direction::forward)
      choose<cudnnConvolutionFwdAlgoPerf_t>(plan, dtype, [&](int count, int* found, auto* results) {
        return cudnnGetConvolutionForwardAlgorithm_v7(cudnn, plan.x, plan.w, plan.convolution, plan.y, count, found, results);
      });
    else if (direction == Direction::data)
      choose<cudnnConvolutionBwdDataAlgoPerf_t>(plan, dtype, [&](int count, int* found, auto* results) {
        return cudnnGetConvolutionBackwardDataAlgorithm_v7(cudnn, plan.w, plan.y, plan.convolution, plan.x, count, found,
                                                           results);
      });
    else
      choose<cudnnConvolutionBwdFilterAlgoPerf_t>(plan, dtype, [&](int count, int* found, auto* results) {
        return cudnnGetConvolutionBackwardFilterAlgorithm_v7(cudnn, plan.x, plan.y, plan.convolution, plan.w, count, found,
                                                             results);
      });
    return plan;
  });
}

}  // namespace

void convolution(const Queue& q, const ConvolutionShape& s, View y, View x, View w, View bias) {
  ConvolutionPlan& plan = plan_for(q, Direction::forward, s, x.dtype);
  float one = 1, zero = 0;
  check(cudnnConvolutionForward(q.cuda->cudnn, &one, plan.x, x.data, plan.w, w.data, plan.convolution,
                                cudnnConvolutionFwdAlgo_t(plan.algorithm), q.cuda->workspace.at_least(plan.workspace),
                                plan.workspace, &zero, plan.y, y.data));
  if (bias) binary(q, Binary::add, y, y, bias);
}

void convolution_backward_data(const Queue& q, const ConvolutionShape& s, View dx, View dy, View w, Write write) {
  ConvolutionPlan& plan = plan_for(q, Direction::data, s, dx.dtype);
  float one = 1, keep = write == Write::accumulate ? 1 : 0;
  check(cudnnConvolutionBackwardData(q.cuda->cudnn, &one, plan.w, w.data, plan.y, dy.data, plan.convolution,
                                     cudnnConvolutionBwdDataAlgo_t(plan.algorithm), q.cuda->workspace.at_least(plan.workspace),
                                     plan.workspace, &keep, plan.x, dx.data));
}

void convolution_backward_weights(const Queue& q, const ConvolutionShape& s, View dw, View dy, View x, Write write) {
  ConvolutionPlan& plan = plan_for(q, Direction::weights, s, x.dtype);
  bool convert = dw.dtype != x.dtype;
  float one = 1, keep = write == Write::accumulate && !convert ? 1 : 0;
  View to = convert ? View{q.cuda->scratch.at_least(2 * std::size_t(dw.size) * sizeof(float)), dw.size, x.dtype} : dw;
  check(cudnnConvolutionBackwardFilter(q.cuda->cudnn, &one, plan.x, x.data, plan.y, dy.data, plan.convolution,
                                       cudnnConvolutionBwdFilterAlgo_t(plan.algorithm),
                                       q.cuda->workspace.at_least(plan.workspace), plan.workspace, &keep, plan.w, to.data));
  if (!convert) return;
  if (write == Write::overwrite) return cast(q, dw, to);
  View wide{static_cast<float*>(to.data) + dw.size, dw.size, DType::f32};
  cast(q, wide, to);
  add(q, dw, dw, wide);
}

}  // namespace lockstep::kernels::cuda
