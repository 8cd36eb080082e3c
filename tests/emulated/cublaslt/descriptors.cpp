#include "tests/emulated/cublaslt/descriptors.h"

#include <cstring>
#include <new>

namespace emulated::cublaslt {
namespace {

constexpr std::uint32_t mark = 0xcb1a517;

template <class Content, class Opaque>
const Content* content(const Opaque* opaque) {
  static_assert(sizeof(Content) <= sizeof(Opaque) && alignof(Content) <= alignof(Opaque));
  auto* held = reinterpret_cast<const Content*>(opaque);
  return held && held->written == mark ? held : nullptr;
}

template <class Content, class Opaque>
cublasStatus_t write(Opaque* opaque, const Content& value) {
  if (!opaque) return CUBLAS_STATUS_INVALID_VALUE;
  std::memset(opaque, 0xff, sizeof *opaque);
  new (opaque) Content(value);
  return CUBLAS_STATUS_SUCCESS;
}

/// An attribute's value, if it has the size that the attribute has.
template <class T>
cublasStatus_t take(T& to, const void* value, std::size_t bytes) {
  if (!value || bytes != sizeof to) return CUBLAS_STATUS_INVALID_VALUE;
  std::memcpy(&to, value, sizeof to);
  return CUBLAS_STATUS_SUCCESS;
}

}  // namespace

const Layout* read(const cublasLtMatrixLayoutOpaque_t* opaque) {
  return content<Layout>(opaque);
}
const Operation* read(const cublasLtMatmulDescOpaque_t* opaque) {
  return content<Operation>(opaque);
}
const Preference* read(const cublasLtMatmulPreferenceOpaque_t* opaque) {
  return content<Preference>(opaque);
}

}  // namespace emulated::cublaslt

using namespace emulated::cublaslt;

cublasStatus_t cublasLtMatrixLayoutInit(cublasLtMatrixLayout_t layout, cudaDataType_t type, std::uint64_t rows,
                                        std::uint64_t columns, std::int64_t ld) {
  return write(layout, Layout{mark, type, rows, columns, ld, 0, 1});
}
cublasStatus_t cublasLtMatmulDescInit(cublasLtMatmulDesc_t operation, cublasComputeType_t compute, cudaDataType_t scale) {
  return write(operation, Operation{.written = mark,
                                    .compute = compute,
                                    .scale = scale,
                                    .transpose_a = CUBLAS_OP_N,
                                    .transpose_b = CUBLAS_OP_N,
                                    .epilogue = CUBLASLT_EPILOGUE_DEFAULT,
                                    .bias = nullptr,
                                    .bias_stride = 0,
                                    .aux = nullptr,
                                    .aux_ld = 0,
                                    .aux_stride = 0});
}
cublasStatus_t cublasLtMatmulPreferenceInit(cublasLtMatmulPreference_t preference) {
  return write(preference, Preference{mark, CUBLASLT_REDUCTION_SCHEME_MASK, 0, {256, 256, 256, 256}});
}

cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute,
                                                const void* value, std::size_t bytes) {
  auto* to = const_cast<Layout*>(read(layout));
  if (!to) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_MATRIX_LAYOUT_LD: return take(to->ld, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT: return take(to->batch, value, bytes);
    case CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET: return take(to->stride, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute,
                                              const void* value, std::size_t bytes) {
  auto* to = const_cast<Operation*>(read(operation));
  if (!to) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA: return take(to->transpose_a, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB: return take(to->transpose_b, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE: return take(to->epilogue, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER: return take(to->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE: return take(to->bias_stride, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER: return take(to->aux, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD: return take(to->aux_ld, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE: return take(to->aux_stride, value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute, const void* value,
                                                    std::size_t bytes) {
  auto* to = const_cast<Preference*>(read(preference));
  if (!to) return CUBLAS_STATUS_INVALID_VALUE;
  switch (attribute) {
    case CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES: return take(to->workspace, value, bytes);
    case CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK: return take(to->reductions, value, bytes);
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES:
    case CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES:
      return take(to->alignment[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, bytes);
  }
  return CUBLAS_STATUS_INVALID_VALUE;
}
