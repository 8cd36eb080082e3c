#pragma once

#include <cublasLt.h>

// What lies inside cuBLASLt's opaque structures here.
namespace emulated::cublaslt {

/// A matrix in columns that lie `ld` elements apart, or `batch` of them.
struct Layout {
  std::uint32_t written;  ///< by Init
  cudaDataType_t type;
  std::uint64_t rows, columns;
  std::int64_t ld, stride;
  std::int32_t batch;
};

struct Operation {
  std::uint32_t written;
  cublasComputeType_t compute;
  cudaDataType_t scale;
  std::int32_t transpose_a, transpose_b;
  std::uint32_t epilogue;
  void* bias;
  std::int64_t bias_stride;
  void* aux;
  std::int64_t aux_ld, aux_stride;
};

struct Preference {
  std::uint32_t written;
  std::uint32_t reductions;
  std::uint64_t workspace;
  std::uint32_t alignment[4];  ///< of A, B, C and D, in bytes
};

/// What an opaque structure holds; null where Init has not been called.
const Layout* read(const cublasLtMatrixLayoutOpaque_t*);
const Operation* read(const cublasLtMatmulDescOpaque_t*);
const Preference* read(const cublasLtMatmulPreferenceOpaque_t*);

constexpr std::size_t bytes_of(cudaDataType_t type) {
  return type == CUDA_R_32F ? 4 : 2;
}

}  // namespace emulated::cublaslt
