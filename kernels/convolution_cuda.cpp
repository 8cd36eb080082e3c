#include <algorithm>

#include "kernels/binary.h"
#include "kernels/graph_cuda.h"
#include "kernels/memory.h"
#include "kernels/vendor.h"

// Convolutions as graphs of one operation, or of two where sums for batch normalisation are taken on the way. No engine of cuDNN
// 9 writes f32 gradients of 16-bit images' weights: those are rounded to 16 bits once, then converted.

namespace lockstep::kernels::cuda {
namespace {

using Pass = ConvolutionPass;

/// What a plan is made for.
struct Request {
  Pass pass;
  const ConvolutionShape& s;
  DType dtype;
  bool add, tf32;
  int64_t alignment;

  PlanKey key() const {
    return {int64_t(pass), s.batch,    s.height, s.width,        s.in, s.out, s.kernel_height, s.kernel_width, s.stride,
            s.padding,     s.dilation, s.groups, int64_t(dtype), add,  tf32,  alignment};
  }
  /// Tiles that leave sums behind have at most 256 rows; 1 KiB tells them from other uses of workspace.
  Promises promises() const {
    const int64_t tiles = (s.batch * s.out_height() * s.out_width() + 255) / 256,
                  sums = tiles * 2 * s.out * int64_t(sizeof(float));
    return {.tensor_cores = dtype != DType::f32 || tf32,
            .least_workspace = pass == Pass::sums ? std::max<int64_t>(sums, 1024) : 0};
  }
};

/// The names of the arrays in a graph.
constexpr int64_t x_name = 'x', w_name = 'w', y_name = 'y', sum_name = 's', squares_name = 'q';

/// A kind of operation and its attributes.
struct Kind {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t convolution, x, w, y, alpha, beta;
};
Kind kind_of(Pass pass) {
  switch (pass) {
    case Pass::forward:
    case Pass::sums:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
    case Pass::data:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};
    case Pass::weights:
      return {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
              CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};
  }
  throw Error("convolution: unknown pass");
}

/// Sums of y's channels and of their squares. Its arithmetic must be said to be f32: cuDNN's frontend says something else.
Descriptor sums_of(const Descriptor& y, std::int64_t channels) {
  Descriptor operation(CUDNN_BACKEND_OPERATION_GEN_STATS_DESCRIPTOR);
  operation.set(CUDNN_ATTR_OPERATION_GENSTATS_MODE, CUDNN_TYPE_GENSTATS_MODE, {CUDNN_GENSTATS_SUM_SQSUM});
  operation.set(CUDNN_ATTR_OPERATION_GENSTATS_MATH_PREC, CUDNN_DATA_FLOAT);
  operation.set(CUDNN_ATTR_OPERATION_GENSTATS_XDESC, y);
  operation.set(CUDNN_ATTR_OPERATION_GENSTATS_SUMDESC, tensor(sum_name, DType::f32, 16, 1, channels, 1, 1));
  operation.set(CUDNN_ATTR_OPERATION_GENSTATS_SQSUMDESC, tensor(squares_name, DType::f32, 16, 1, channels, 1, 1));
  operation.finish();
  return operation;
}

Descriptor graph_of(const GraphDevice& device, const Request& r) {
  const ConvolutionShape& s = r.s;
  const Kind kind = kind_of(r.pass);
  const Descriptor y = tensor(y_name, r.dtype, r.alignment, s.batch, s.out, s.out_height(), s.out_width());
  Descriptor operation(kind.type);
  operation.set(kind.convolution, convolution_descriptor(s));
  operation.set(kind.x, tensor(x_name, r.dtype, r.alignment, s.batch, s.in, s.height, s.width));
  operation.set(kind.w, tensor(w_name, r.dtype, r.alignment, s.out, s.in / s.groups, s.kernel_height, s.kernel_width));
  operation.set(kind.y, y);
  operation.set(kind.alpha, CUDNN_TYPE_FLOAT, {1.f});
  operation.set(kind.beta, CUDNN_TYPE_FLOAT, {r.add ? 1.f : 0.f});
  operation.finish();
  std::vector<Descriptor> operations{operation};
  if (r.pass == Pass::sums) operations.push_back(sums_of(y, s.out));
  return graph_of(device, operations);
}

std::optional<ConvolutionPlan>& plan_of(CudaLibraries& libraries, const Request& request) {
  return libraries.convolutions.get(request.key(), [&] {
    GraphDevice device{libraries.cudnn(), {}};
    auto made = make_plan(device, graph_of(device, request), request.promises());
    if (request.pass == Pass::sums) ++(made ? libraries.fused_convolutions : libraries.plain_convolutions);
    return made;
  });
}

/// Runs one pass; false when cuDNN has no engine for it.
bool run(const Queue& q, Pass pass, const ConvolutionShape& s, View x, View w, View y, bool add) {
  CudaLibraries& libraries = *q.cuda;
  auto& plan = plan_of(libraries, {pass, s, x.dtype, add, libraries.tf32, alignment_of({x.data, w.data, y.data})});
  if (plan) execute(libraries, *plan, {{x_name, x.data}, {w_name, w.data}, {y_name, y.data}});
  return bool(plan);
}

[[noreturn]] void no_engine(const char* op, const ConvolutionShape& s, DType dtype) {
  fail(Exit::internal,
       "{}: cuDNN has no deterministic engine for images {} x {} x {} x {} and {} filters of {} x {}, stride {}, padding {}, "
       "dilation {}, {} groups, in {}",
       {op, s.batch, s.height, s.width, s.in, s.out, s.kernel_height, s.kernel_width, s.stride, s.padding, s.dilation, s.groups,
        name_of(dtype)});
}

}  // namespace

void convolution(const Queue& q, const ConvolutionShape& s, View y, View x, View w, View bias) {
  if (!run(q, Pass::forward, s, x, w, y, false)) no_engine("convolution", s, x.dtype);
  if (bias) binary(q, Binary::add, y, y, bias);
}

bool convolution_sums(const Queue& q, const ConvolutionShape& s, View y, View sum, View squares, View x, View w) {
  if (alignment_of({sum.data, squares.data}) < 16) return false;
  CudaLibraries& libraries = *q.cuda;
  auto& plan = plan_of(libraries, {Pass::sums, s, x.dtype, false, libraries.tf32, alignment_of({x.data, w.data, y.data})});
  if (plan)
    execute(libraries, *plan,
            {{x_name, x.data}, {w_name, w.data}, {y_name, y.data}, {sum_name, sum.data}, {squares_name, squares.data}});
  return bool(plan);
}

std::string convolution_choices(const Queue& q) {
  const int fused = q.cuda->fused_convolutions, all = fused + q.cuda->plain_convolutions;
  if (all == 0) return "";
  return format_text("convolutions: cuDNN sums for batch normalisation in {} of {} shapes", {fused, all});
}

void convolution_backward_data(const Queue& q, const ConvolutionShape& s, View dx, View dy, View w, Write write) {
  const bool accumulate = write == Write::accumulate;
  if (run(q, Pass::data, s, dx, w, dy, accumulate)) return;
  View sum{accumulate ? workspace(q, dx.size) : nullptr, dx.size, dx.dtype};
  if (!accumulate || !run(q, Pass::data, s, sum, w, dy, false)) no_engine("convolution_backward_data", s, dx.dtype);
  add(q, dx, dx, sum);
}

void convolution_backward_weights(const Queue& q, const ConvolutionShape& s, View dw, View dy, View x, Write write) {
  const bool accumulate = write == Write::accumulate, converts = dw.dtype != x.dtype;
  if (!converts && run(q, Pass::weights, s, x, dw, dy, accumulate)) return;
  float* memory = workspace(q, 2 * dw.size);
  View sum{memory, dw.size, x.dtype}, wide{memory + dw.size, dw.size, dw.dtype};
  if (!run(q, Pass::weights, s, x, sum, dy, false)) no_engine("convolution_backward_weights", s, x.dtype);
  if (!accumulate) return cast(q, dw, sum);
  if (converts) cast(q, wide, sum);
  add(q, dw, dw, converts ? wide : sum);
}

GraphCheck check_convolution(const std::string& properties, ConvolutionPass pass, const ConvolutionShape& s, DType dtype,
                             bool add) {
  Request request{pass, s, dtype, add, false, 16};
  GraphDevice device = described_device(properties);
  return look_at(device, graph_of(device, request), request.promises());
}

}  // namespace lockstep::kernels::cuda
