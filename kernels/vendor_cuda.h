#pragma once

// Private to kernels/*_cuda.{cpp,cu}, the only files that see cuBLASLt and cuDNN.

#include <cublasLt.h>
#include <cudnn.h>

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/base/check_cuda.h"
#include "kernels/base/view.h"
#include "kernels/libraries.h"

namespace lockstep {

/// Throw unless a call to the library succeeded.
void check(cublasStatus_t, Here = Here::current());
void check(cudnnStatus_t, Here = Here::current());

/// What a cached plan depends on: an operation, its sizes, types and options and the alignment of its memory; unused entries are
/// 0.
using PlanKey = std::array<std::int64_t, 24>;

/// The largest power of two, up to 256, that divides every one of the addresses (an absent one counts as aligned).
std::int64_t alignment_of(std::initializer_list<const void*> addresses);

/// One or several products as cuBLASLt knows them, with the algorithm it chose. Holds no pointers but the descriptor's bias and
/// pre-activation, which are set before each run.
struct ProductPlan {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t a, b, y;
  cublasLtMatmulAlgo_t algorithm;
};

/// A convolution as a finished cuDNN execution plan.
struct ConvolutionPlan {
  std::shared_ptr<void> plan;
  std::size_t workspace_bytes = 0;
};

/// Device memory that is asked for again and again and only grows. Blocks that became too small stay until the end: steps that
/// were captured hold their addresses.
class GrowingMemory {
 public:
  explicit GrowingMemory(CUstream_st* stream) : stream_(stream) {}
  ~GrowingMemory();
  GrowingMemory(const GrowingMemory&) = delete;
  GrowingMemory& operator=(const GrowingMemory&) = delete;

  /// At least `bytes` bytes, aligned to 256; what is in them lasts until the next call. Throws while a step is being captured
  /// and more are needed than ever before: the two steps before a capture find that out.
  void* at_least(std::size_t bytes);

 private:
  CUstream_st* stream_;
  std::vector<void*> blocks_;
  std::size_t bytes_ = 0;
};

/// The plans made so far: of products in one map, of convolutions in another. A plan that the library does not have is remembered
/// too, as nothing.
template <class Plan>
class Plans {
 public:
  /// The plan made earlier for `key`, else the one that make() returns now; null when there is none.
  template <class Make>
  Plan* find(const PlanKey& key, Make make) {
    auto found = plans_.find(key);
    if (found == plans_.end()) found = plans_.emplace(key, make()).first;
    return found->second ? &*found->second : nullptr;
  }

 private:
  std::map<PlanKey, std::optional<Plan>> plans_;
};

class CudaLibraries {
 public:
  explicit CudaLibraries(CUstream_st* stream);
  ~CudaLibraries();
  CudaLibraries(const CudaLibraries&) = delete;
  CudaLibraries& operator=(const CudaLibraries&) = delete;

  cublasLtHandle_t cublas() const { return cublas_; }
  /// Opened at the first use: programs without images never load cuDNN's engines.
  cudnnHandle_t cudnn();

  /// Bytes that cuBLASLt may use for one product.
  static constexpr std::size_t product_workspace = std::size_t(32) << 20;
  /// Products and convolutions of f32 may round their inputs to TF32, which keeps 10 bits of 23. Off: f32 means f32.
  bool tf32 = false;

  Plans<ProductPlan> products;
  Plans<ConvolutionPlan> convolutions;
  GrowingMemory library_memory;  ///< workspace of the libraries
  GrowingMemory kernel_memory;   ///< workspace() of our own kernels

 private:
  CUstream_st* stream_;
  cublasLtHandle_t cublas_ = nullptr;
  cudnnHandle_t cudnn_ = nullptr;
};

}  // namespace lockstep
