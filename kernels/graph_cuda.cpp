#include "kernels/graph_cuda.h"

#include <algorithm>

namespace lockstep::kernels::cuda {
namespace {

/// Engines that want more scratch memory than this are passed over.
constexpr int64_t workspace_limit = int64_t(1) << 30;

cudnnDataType_t type_of(DType d) {
  return d == DType::f32 ? CUDNN_DATA_FLOAT : d == DType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_HALF;
}

Descriptor engine_of(const Descriptor& configuration) {
  Descriptor engine(CUDNN_BACKEND_ENGINE_DESCRIPTOR);
  configuration.get(CUDNN_ATTR_ENGINECFG_ENGINE, engine);
  return engine;
}

bool compiled_at_run_time(const Descriptor& engine) {
  auto notes = engine.get<cudnnBackendBehaviorNote_t>(CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, CUDNN_TYPE_BEHAVIOR_NOTE,
                                                      CUDNN_BEHAVIOR_NOTE_TYPE_COUNT);
  return std::ranges::find(notes, CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION) != notes.end();
}

/// Whether an engine keeps our promises, by what cuDNN notes about it.
bool acceptable(const Descriptor& engine, Promises promises) {
  auto notes = engine.get<cudnnBackendNumericalNote_t>(CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, CUDNN_TYPE_NUMERICAL_NOTE,
                                                       CUDNN_NUMERICAL_NOTE_TYPE_COUNT);
  for (auto note : notes) {
    if (note == CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC || note == CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION ||
        note == CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS || note == CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6 ||
        note == CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13)
      return false;
    if (note == CUDNN_NUMERICAL_NOTE_TENSOR_CORE && !promises.tensor_cores) return false;
  }
  return true;
}

/// The configurations that cuDNN offers, best first.
std::vector<Descriptor> offers(const GraphDevice& device, const Descriptor& graph, cudnnBackendHeurMode_t mode) {
  Descriptor heuristic(CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, graph);
  heuristic.set(CUDNN_ATTR_ENGINEHEUR_MODE, CUDNN_TYPE_HEUR_MODE, {mode});
  if (device.description) heuristic.set(CUDNN_ATTR_ENGINEHEUR_DEVICEPROP, *device.description);
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

std::string last_error() {
  char text[2048] = "";
  cudnnGetLastErrorString(text, sizeof text);
  return text;
}

}  // namespace

GraphDevice described_device(const std::string& properties) {
  Descriptor d(CUDNN_BACKEND_DEVICEPROP_DESCRIPTOR);
  check(cudnnBackendSetAttribute(d.held().get(), CUDNN_ATTR_DEVICEPROP_JSON_REPRESENTATION, CUDNN_TYPE_CHAR,
                                 int64_t(properties.size()), properties.data()));
  d.finish();
  return {nullptr, d};
}

Descriptor tensor(int64_t name, DType dtype, int64_t alignment, int64_t n, int64_t c, int64_t h, int64_t w, bool is_virtual) {
  Descriptor d(CUDNN_BACKEND_TENSOR_DESCRIPTOR);
  d.set(CUDNN_ATTR_TENSOR_UNIQUE_ID, {name});
  d.set(CUDNN_ATTR_TENSOR_DATA_TYPE, type_of(dtype));
  d.set(CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, {alignment});
  d.set(CUDNN_ATTR_TENSOR_DIMENSIONS, {n, c, h, w});
  d.set(CUDNN_ATTR_TENSOR_STRIDES, {h * w * c, 1, w * c, c});
  if (is_virtual) d.set(CUDNN_ATTR_TENSOR_IS_VIRTUAL, CUDNN_TYPE_BOOLEAN, {true});
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

Descriptor graph_of(const GraphDevice& device, const std::vector<Descriptor>& operations) {
  std::vector<void*> parts;
  for (const Descriptor& operation : operations) parts.push_back(operation.held().get());
  Descriptor graph(CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR);
  check(cudnnBackendSetAttribute(graph.held().get(), CUDNN_ATTR_OPERATIONGRAPH_OPS, CUDNN_TYPE_BACKEND_DESCRIPTOR,
                                 int64_t(parts.size()), parts.data()));
  if (device.handle) graph.set(CUDNN_ATTR_OPERATIONGRAPH_HANDLE, CUDNN_TYPE_HANDLE, {device.handle});
  graph.finish();
  return graph;
}

std::optional<ConvolutionPlan> make_plan(const GraphDevice& device, const Descriptor& graph, Promises promises) {
  for (auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK})
    for (const Descriptor& configuration : offers(device, graph, mode)) {
      if (!acceptable(engine_of(configuration), promises)) continue;
      Descriptor plan(CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR);
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_HANDLE, CUDNN_TYPE_HANDLE, {device.handle});
      plan.set(CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, configuration);
      if (plan.try_finish() != CUDNN_STATUS_SUCCESS) continue;
      auto workspace = plan.get<int64_t>(CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1);
      if (workspace.empty() || workspace[0] > workspace_limit || workspace[0] < promises.least_workspace) continue;
      return ConvolutionPlan{plan.held(), std::size_t(workspace[0])};
    }
  return {};
}

GraphCheck look_at(const GraphDevice& device, const Descriptor& graph, Promises promises) {
  GraphCheck found;
  for (auto mode : {CUDNN_HEUR_MODE_A, CUDNN_HEUR_MODE_FALLBACK})
    for (const Descriptor& configuration : offers(device, graph, mode)) {
      ++found.offered;
      if (!acceptable(engine_of(configuration), promises)) continue;
      auto workspace = configuration.get<int64_t>(CUDNN_ATTR_ENGINECFG_WORKSPACE_SIZE, CUDNN_TYPE_INT64, 1);
      if (workspace.empty() || workspace[0] > workspace_limit || workspace[0] < promises.least_workspace) continue;
      if (found.acceptable++ > 0) continue;
      found.workspace_bytes = workspace[0];
      Descriptor engine = engine_of(configuration);
      found.engine = std::to_string(engine.get<int64_t>(CUDNN_ATTR_ENGINE_GLOBAL_INDEX, CUDNN_TYPE_INT64, 1).at(0));
      if (compiled_at_run_time(engine)) found.engine += ", compiled at run time";
    }
  if (found.offered == 0) found.refusal = last_error();
  return found;
}

void execute(CudaLibraries& libraries, const ConvolutionPlan& plan, std::initializer_list<Named> arrays) {
  std::vector<int64_t> names;
  std::vector<void*> data;
  for (auto [name, at] : arrays) names.push_back(name), data.push_back(at);
  void* memory = libraries.library_memory.at_least(plan.workspace_bytes);
  Descriptor variant(CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR);
  const auto count = int64_t(names.size());
  check(cudnnBackendSetAttribute(variant.held().get(), CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, CUDNN_TYPE_VOID_PTR, count,
                                 data.data()));
  check(
      cudnnBackendSetAttribute(variant.held().get(), CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, CUDNN_TYPE_INT64, count, names.data()));
  variant.set(CUDNN_ATTR_VARIANT_PACK_WORKSPACE, CUDNN_TYPE_VOID_PTR, {memory});
  variant.finish();
  check(cudnnBackendExecute(libraries.cudnn(), plan.plan.get(), variant.held().get()));
}

}  // namespace lockstep::kernels::cuda
