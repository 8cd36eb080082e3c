#pragma once

// Private to kernels/*_cuda.cpp: operations as graphs of cuDNN, through its own descriptors. For a graph its heuristics offer
// engines, best first; we take the first that keeps our promises: the same bits each run, sums in f32, no inputs rounded on the
// way.

#include <string>

#include "kernels/convolution.h"
#include "kernels/graph_check.h"
#include "kernels/vendor_cuda.h"

namespace lockstep::kernels::cuda {

using std::int64_t;

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

/// Whom plans are made for: the GPU of a handle, or one that is only described.
struct GraphDevice {
  cudnnHandle_t handle = nullptr;
  std::optional<Descriptor> description;
};
GraphDevice described_device(const std::string& properties);

/// An array of n x c x h x w elements whose channels are neighbours in memory. A virtual one exists inside the graph only.
Descriptor tensor(int64_t name, DType, int64_t alignment, int64_t n, int64_t c, int64_t h, int64_t w, bool is_virtual = false);
Descriptor convolution_descriptor(const ConvolutionShape&);
/// cuDNN keeps references between finished descriptors, so the parts may go.
Descriptor graph_of(const GraphDevice&, const std::vector<Descriptor>& operations);

/// What an engine must keep besides what cuDNN notes about all of them.
struct Promises {
  bool tensor_cores;  ///< may be used: for inputs of f32 they mean TF32
  /// Bytes of workspace that it must ask for. Engines that sum columns put the sums of tiles there, and add them in a fixed
  /// order; without that memory they add with atomics, in another order each run, and cuDNN does not note it.
  int64_t least_workspace;
};
/// The first offer that is acceptable and works, or nothing.
std::optional<ConvolutionPlan> make_plan(const GraphDevice&, const Descriptor& graph, Promises);
/// The same without a GPU: what there is to choose from.
GraphCheck look_at(const GraphDevice&, const Descriptor& graph, Promises);

/// Runs a plan on arrays by their names in the graph.
struct Named {
  int64_t name;
  void* data;
};
void execute(CudaLibraries&, const ConvolutionPlan&, std::initializer_list<Named> arrays);

}  // namespace lockstep::kernels::cuda
