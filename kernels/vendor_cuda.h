#pragma once

// Private to kernels/*_cuda.cpp, the only files that see cuBLASLt and cuDNN.

#include <cublasLt.h>
#include <cudnn.h>

#include <memory>
#include <optional>
#include <vector>

#include "kernels/base/check_cuda.h"
#include "kernels/base/view.h"
#include "kernels/growing_memory_cuda.h"
#include "kernels/libraries.h"
#include "kernels/plan_cache.h"
#include "kernels/product_choices.h"

namespace lockstep {

/// Throw unless a call to the library succeeded.
void check(cublasStatus_t, Here = Here::current());
void check(cudnnStatus_t, Here = Here::current());

/// The largest power of two, up to 16, that divides every one of the addresses (an absent one counts as aligned). More is of no
/// use to the libraries' vector loads, and 16 bytes all tensors have: the choice of an algorithm never depends on where one lies.
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

struct AttentionPlan;

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

  /// Algorithms of products: known ones, and whether others are found by timing.
  ProductChoices choices;
  bool search = false;

  // Nothing stands for what the library cannot do.
  PlanCache<std::optional<ProductPlan>> products;
  PlanCache<std::optional<ConvolutionPlan>> convolutions;
  PlanCache<std::shared_ptr<AttentionPlan>> attentions;
  /// Shapes of convolutions before batch normalisation for which cuDNN has an engine that also sums, and for which it has none.
  int fused_convolutions = 0, plain_convolutions = 0;
  GrowingMemory library_memory;  ///< workspace of the libraries
  GrowingMemory kernel_memory;   ///< workspace() of our own kernels

 private:
  CUstream_st* stream_;
  cublasLtHandle_t cublas_ = nullptr;
  cudnnHandle_t cudnn_ = nullptr;
};

}  // namespace lockstep
