#pragma once

// Private to kernels/*_cpu.cpp, the only files that see oneDNN. What oneDNN 2 and 3 spell differently is in vendor_cpu.cpp.

#include <cstdlib>
#include <dnnl.hpp>
#include <unordered_map>
#include <vector>

#include "kernels/base/view.h"
#include "kernels/libraries.h"
#include "kernels/plan_cache.h"

namespace lockstep {

/// A oneDNN primitive with the memory objects of its arguments, ready to run. An argument that the primitive wants in another
/// layout than ours has memory of its own, and a reorder between the two.
class CpuPlan {
 public:
  CpuPlan(const dnnl::engine& engine, dnnl::primitive primitive) : engine_(engine), primitive_(std::move(primitive)) {}

  /// The next argument is read: `ours` is its layout in our memory, `theirs` the one that the primitive wants.
  CpuPlan& reads(int id, const dnnl::memory::desc& ours, const dnnl::memory::desc& theirs);
  /// The next argument is written.
  CpuPlan& writes(int id, const dnnl::memory::desc& ours, const dnnl::memory::desc& theirs);

  /// Runs on the data given, in the order of the arguments; done on return.
  void run(dnnl::stream& stream, std::initializer_list<void*> data);

 private:
  struct Argument {
    dnnl::memory ours, theirs;
    dnnl::reorder before, after;
  };
  Argument& add(int id, const dnnl::memory::desc& ours, const dnnl::memory::desc& theirs);
  dnnl::engine engine_;
  dnnl::primitive primitive_;
  std::vector<Argument> arguments_;
  std::unordered_map<int, dnnl::memory> handles_;
};

/// Memory that grows as it is asked for.
class CpuWorkspace {
 public:
  /// `floats_each` for each of `threads`, one after another, aligned to 64 bytes; contents last until the next call.
  float* operator()(int threads, std::int64_t floats_each);

 private:
  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> memory_;
  std::size_t bytes_ = 0;
};

class CpuLibraries {
 public:
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  /// Whether oneDNN computes with this type on this processor (bf16 wants AVX-512, f16 its FP16 part); where it does not, or only
  /// by its reference code, callers work on f32 copies.
  bool computes_in(DType d) const { return d == DType::f32 || (d == DType::bf16 ? bf16_ : f16_); }

  CpuLibraries();
  /// The plan made earlier for `key` and this number of threads (oneDNN divides work when a primitive is made), else the one that
  /// make() returns now. The last entry of the key is ours. Where oneDNN cannot, the error has the text that name() gives.
  template <class Name, class Make>
  CpuPlan& plan(PlanKey key, Name name, Make make) {
    key.back() = threads();
    try {
      return plans_.get(key, make);
    } catch (const dnnl::error& error) {
      throw Error(name() + ": oneDNN says \"" + error.what() + "\"");
    }
  }
  CpuWorkspace workspace;  ///< of our kernels
  CpuWorkspace panels;     ///< of products, which our kernels call while they use theirs

 private:
  static int threads();
  PlanCache<CpuPlan> plans_;
  bool bf16_, f16_;
};

/// f32 memory that stands in for a view: filled from it, or written back to it, or both.
class FloatCopy {
 public:
  FloatCopy(const Queue& q, View original, bool read);
  View view() { return {values_.data(), std::int64_t(values_.size()), DType::f32}; }
  void write_back();

 private:
  const Queue& queue_;
  View original_;
  std::vector<float> values_;
};

/// The two major versions of oneDNN build descriptors differently; these do it for both.
namespace onednn {
using Desc = dnnl::memory::desc;

dnnl::memory::data_type type_of(DType);
void append_eltwise(dnnl::post_ops&, dnnl::algorithm, float alpha);
/// `bias` may be null.
dnnl::matmul::primitive_desc matmul(const dnnl::engine&, const Desc& a, const Desc& b, const Desc* bias, const Desc& y,
                                    const dnnl::primitive_attr&);

struct ConvolutionDescs {
  Desc x, w, y;
  dnnl::memory::dims strides, dilations, padding;
  dnnl::algorithm algorithm = dnnl::algorithm::convolution_direct;
};
dnnl::convolution_forward::primitive_desc convolution(const dnnl::engine&, const ConvolutionDescs&, const Desc* bias);
dnnl::convolution_backward_data::primitive_desc convolution_backward_data(const dnnl::engine&, const ConvolutionDescs&);
/// `dw` may be f32 while the rest has 16 bits.
dnnl::convolution_backward_weights::primitive_desc convolution_backward_weights(const dnnl::engine&, const ConvolutionDescs&,
                                                                                const Desc& dw);
}  // namespace onednn

}  // namespace lockstep
