#include "kernels/binary.h"
#include "kernels/memory.h"
#include "kernels/vendor.h"
#include "kernels/vendor_cuda.h"

// Convolutions through cuDNN's graph interface: a graph of one operation, for which its heuristics offer engines, best first. We
// take the first that keeps our promises: the same bits each run, sums in f32, no inputs rounded on the way. No engine of cuDNN 9
// writes f32 gradients of 16-bit images' weights: those are rounded to 16 bits once, then converted.

namespace lockstep::kernels::cuda {
namespace {

using std::int64_t;

enum class Pass : int64_t { forward, data, weights };

/// Engines that want more scratch memory than this are passed over.
constexpr int64_t workspace_limit = int64_t(1) << 30;

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
};

/// The names of the three arrays in a graph.
constexpr int64_t x_name = 'x', w_name = 'w', y_name = 'y';

/// One of cuDNN's descriptors.
class Descriptor {
 public:
  explicit Descriptor(cudnnBackendDescriptorType_t type) {
    cudnnBackendDescriptor_t made = nullptr;
    check(cudnnBackendCreateDescriptor(type, &made));
    held_ = {made, [](void* d) { (void)cudnnBackendDestroyDescriptor(d); }};
  }
  const std::shared_ptr<void>& held() const { return held_; }

  template <class T>
  void set(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, std::initializer_list<T> values) {
    check(cudnnBackendSetAttribute(held_.get(), name, type, int64_t(values.size()), values.begin()));
  }
  void set(cudnnBackendAttributeName_t name, std::initializer_list<int64_t> values) { set(name, CUDNN_TYPE_INT64, values); }
  void set(cudnnBackendAttributeName_t name, cudnnDataType_t value) { set(name, CUDNN_TYPE_DATA_TYPE, {value}); }
  void set(cudnnBackendAttributeName_t name, const Descriptor& value) {
    set(name, CUDNN_TYPE_BACKEND_DESCRIPTOR, {value.held_.get()});
  }
  /// Up to `most` values.
  template <class T>
  std::vector<T> get(cudnnBackendAttributeName_t name, cudnnBackendAttributeType_t type, int64_t most) const {
    std::vector<T> values(static_cast<std::size_t>(most));
    int64_t count = 0;
    check(cudnnBackendGetAttribute(held_.get(), name, type, most, &count, values.data()));
    values.resize(std::size_t(count < most ? count : most));
    return values;
  }
  /// Fills `value`, a descriptor of the right kind.
  void get(cudnnBackendAttributeName_t name, const Descriptor& value) const {
    int64_t count = 0;
    void* slot = value.held_.get();
    check(cudnnBackendGetAttribute(held_.get(), name, CUDNN_TYPE_BACKEND_DESCRIPTOR, 1, &count, &slot));
  }
  void finish() { check(try_finish()); }
  /// cuDNN tells what it cannot do when a descriptor is finished.
  cudnnStatus_t try_finish() { return cudnnBackendFinalize(held_.get()); }

 private:
  std::shared_ptr<void> held_;
};

cudnnDataType_t type_of(DType d) {
  return d == DType::f32 ? CUDNN_DATA_FLOAT : d == DType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF;
}

/// An array of n x c x h x w elements whose channels are neighbours in memory.
Descriptor tensor(int64_t name, DType dtype, int64_t alignment, int64_t n, int64_t c, int64_t h, int64_t w) {
  Descriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, {name});
  d.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type_of(dtype));
  d.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, {alignment});
  d.set(CUDNN_ATTR_TENSOR_DIMENSIONS, {n, c, h, w});
  d.set(CUDNN_ATTR_TENSOR_STRIDES, {h * w * c, 1, w * c, c});
  d.finish();
  return d;
}

Descriptor convolution_descriptor(const ConvolutionShape& s) {
  Descriptor d(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  d.set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, {2});
  d.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT);
  d.set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, {CUDNN_CROSS_CORRELATION});
  d.set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, {s.padding, s.padding});
  d.set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, {s.padding, s.padding});
  d.set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, {s.stride, s.stride});
  d.set(CUDNN_ATTR_CONVOLUTION_DILATIONS, {s.dilation, s.dilation});
  d.finish();
  return d;
}

/// A kind of operation and its attributes.
struct Kind {
  cudnnBackendDescriptorType_t type;
  cudnnBackendAttributeName_t convolution, x, w, y, alpha, beta;
};
Kind kind_of(Pass pass) {
  switch (pass) {
    case Pass::forward:
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

/// cuDNN keeps references between finished descriptors, so the parts may go.
Descriptor graph_of(cudnnHandle_t cudnn, const Request& r) {
  const ConvolutionShape& s = r.s;
  const Kind kind = kind_of(r.pass);
  Descriptor operation(kind.type);
  operation.set(kind.convolution, convolution_descriptor(s));
  operation.set(kind.x, tensor(x_name, r.dtype, r.alignment, s.batch, s.in, s.height, s.width));
  operation.set(kind.w, tensor(w_name, r.dtype, r.alignment, s.out, s.in / s.groups, s.kernel_height, s.kernel_width));
  operation.set(kind.y, tensor(y_name, r.dtype, r.alignment, s.batch, s.out, s.out_height(), s.out_width()));
  operation.set(kind.alpha, CUDNN_TYPE_FLOAT, {1.f});
  operation.set(kind.beta, CUDNN_TYPE_FLOAT, {r.add ? 1.f : 0.f});
  operation.finish();
  Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_OPS, operation);
  graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, {cudnn});
  graph.finish();
  return graph;
}

/// Whether an engine keeps our promises, by what cuDNN notes about it.
bool acceptable(const Descriptor& configuration, const Request& r) {
  Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  configuration.get(CUDNN_ATTR_ENGINECFG_ENGINE, engine);
  auto notes = engine.get<cudnnBackendNumericalNote_t>(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                                       CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
  for (auto note : notes) {
    if (note == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC || note == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION ||
        note == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS || note == CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6 ||
        note == CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13)
      return false;
    // For f32 images tensor cores mean TF32.
    if (note == CUDNN_NUMERICAL_NOTE_TENSOR_CORE && r.dtype == DType::f32 && !r.tf32) return false;
  }
  return true;
}

/// The configurations that cuDNN offers, best first.
std::vector<Descriptor> offers(const Descriptor& graph, cudnnBackendHeurMode_t mode) {
  Descriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, {mode});
  if (heuristic.try_finish() != CUDNN_STATUS_SUCCESS) return {};
  int64_t count = 0;
  check(cudnnBackendGetAttribute(heuristic.held().get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, 0, &count,
                                 nullptr));
  std::vector<Descriptor> found;
  std::vector<void*> slots;
  for (int64_t i = 0; i < count; ++i) slots.push_back(found.emplace_back(CUDNN_BACKEND_ENGINECFG_DESCRIPTOR).held().get());
  if (count == 0) return found;
  check(cudnnBackendGetAttribute(heuristic.held().get(), CUDNN_ATTR_ENGINEHEUR_RESULTS, CUDNN_TYPE_BACKEND_DESCRIPTOR, count,
                                 &count, slots.data()));
  found.erase(found.begin() + count, found.end());
  return found;
}

/// The first offer that is acceptable and works, or nothing.
std::optional<ConvolutionPlan> make_plan(cudnnHandle_t cudnn, const Request& r) {
  Descriptor graph = graph_of(cudnn, r);
  for (auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK})
    for (const Descriptor& configuration : offers(graph, mode)) {
      if (!acceptable(configuration, r)) continue;
      Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, {cudnn});
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
      if (plan.try_finish() != CUDNN_STATUS_SUCCESS) continue;
      auto workspace = plan.get<int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1);
      if (workspace.empty() || workspace[0] > workspace_limit) continue;
      return ConvolutionPlan{plan.held(), std::size_t(workspace[0])};
    }
  return {};
}

/// Runs one pass; false when cuDNN has no engine for it.
bool run(const Queue& q, Pass pass, const ConvolutionShape& s, View x, View w, View y, bool add) {
  CudaLibraries& libraries = *q.cuda;
  Request request{pass, s, x.dtype, add, libraries.tf32, alignment_of({x.data, w.data, y.data})};
  auto& plan = libraries.convolutions.get(request.key(), [&] { return make_plan(libraries.cudnn(), request); });
  if (!plan) return false;
  Descriptor variant(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  variant.set(CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, {x.data, w.data, y.data});
  variant.set(CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, {x_name, w_name, y_name});
  variant.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, {libraries.library_memory.at_least(plan->workspace_bytes)});
  variant.finish();
  check(cudnnBackendExecute(libraries.cudnn(), plan->plan.get(), variant.held().get()));
  return true;
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

}  // namespace lockstep::kernels::cuda
