// cuBLASLt's functions: what it refuses, which algorithms it offers, and products as work in a stream.

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string_view>

#include "tests/emulated/cublaslt/product.h"
#include "tests/emulated/runtime/gpu.h"

using namespace emulated::cublaslt;

struct cublasLtContext {};

namespace {

/// They all give the same, and ask for different things. The first reads and writes vectors of 16 bytes.
struct Algorithm {
  std::size_t alignment;  ///< of addresses and of columns, in bytes; 0: that of an element
  std::size_t workspace;
  std::uint32_t reduction;
};
constexpr Algorithm algorithms[] = {
    {16, 64 << 10, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE},
    {0, 0, CUBLASLT_REDUCTION_SCHEME_NONE},
    {16, 0, CUBLASLT_REDUCTION_SCHEME_NONE},
    {0, 16 << 20, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE},
    {0, 64 << 20, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE},
    {0, 4096, CUBLASLT_REDUCTION_SCHEME_INPLACE},
    {0, 64 << 10, CUBLASLT_REDUCTION_SCHEME_OUTPUT_TYPE},
};
constexpr std::uint64_t mark = 0xa190717a190717;

cublasLtMatmulAlgo_t opaque(const Algorithm& algorithm) {
  return {{mark, std::uint64_t(&algorithm - algorithms)}};
}
const Algorithm* known(const cublasLtMatmulAlgo_t* algorithm) {
  return algorithm && algorithm->data[0] == mark && algorithm->data[1] < std::size(algorithms) ? &algorithms[algorithm->data[1]]
                                                                                               : nullptr;
}

/// The types that the table of cublasLtMatmul's documentation has for sums in f32, as far as ours go.
bool types_fit(const Problem& p) {
  const cudaDataType_t in = p.a.type, out = p.d.type;
  for (cudaDataType_t type : {in, out})
    if (type != CUDA_R_32F && type != CUDA_R_16F && type != CUDA_R_16BF) return false;
  const Operation& o = p.operation;
  if (o.compute != CUBLAS_COMPUTE_32F && !(o.compute == CUBLAS_COMPUTE_32F_FAST_TF32 && in == CUDA_R_32F)) return false;
  return o.scale == CUDA_R_32F && p.b.type == in && p.c.type == out && (out == in || out == CUDA_R_32F);
}

/// CUBLASLT_EMULATED=plain: a library without epilogues, so that what our sources do instead is tested.
bool only_plain() {
  const char* wish = std::getenv("CUBLASLT_EMULATED");
  return wish && std::string_view(wish) == "plain";
}

bool known_epilogue(std::uint32_t epilogue) {
  switch (epilogue) {
    case CUBLASLT_EPILOGUE_DEFAULT: return true;
    case CUBLASLT_EPILOGUE_BIAS:
    case CUBLASLT_EPILOGUE_GELU:
    case CUBLASLT_EPILOGUE_GELU_AUX:
    case CUBLASLT_EPILOGUE_GELU_BIAS:
    case CUBLASLT_EPILOGUE_GELU_AUX_BIAS:
    case CUBLASLT_EPILOGUE_DGELU:
    case CUBLASLT_EPILOGUE_DGELU_BGRAD:
    case CUBLASLT_EPILOGUE_BGRADA:
    case CUBLASLT_EPILOGUE_BGRADB: return !only_plain();
  }
  return false;
}

cublasStatus_t epilogue_fits(const Problem& p) {
  const Operation& o = p.operation;
  if (!known_epilogue(o.epilogue)) return CUBLAS_STATUS_NOT_SUPPORTED;
  if ((p.adds_bias() || p.sums()) && !o.bias) return CUBLAS_STATUS_INVALID_VALUE;
  if (p.sums() && p.d.batch > 1) return CUBLAS_STATUS_NOT_SUPPORTED;
  if (p.uses_aux() && (!o.aux || o.aux_ld < p.m || o.aux_ld % 8 != 0)) return CUBLAS_STATUS_INVALID_VALUE;
  if (p.uses_aux() && p.d.batch > 1 && (o.aux_stride % 8 != 0 || o.aux_stride < o.aux_ld * p.n))
    return CUBLAS_STATUS_INVALID_VALUE;
  return CUBLAS_STATUS_SUCCESS;
}

/// The problem that descriptors describe, if there is an algorithm for it.
cublasStatus_t understand(Problem& p, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                          cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d) {
  if (!read(operation) || !read(a) || !read(b) || !read(c) || !read(d)) return CUBLAS_STATUS_INVALID_VALUE;
  p = {*read(operation), *read(a), *read(b), *read(c), *read(d), 0, 0, 0};
  const bool ta = p.operation.transpose_a == CUBLAS_OP_T, tb = p.operation.transpose_b == CUBLAS_OP_T;
  p.m = std::int64_t(p.d.rows), p.n = std::int64_t(p.d.columns), p.k = std::int64_t(ta ? p.a.rows : p.a.columns);
  auto fits = [&](const Layout& layout, std::int64_t rows, std::int64_t columns) {
    const bool shape = std::int64_t(layout.rows) == rows && std::int64_t(layout.columns) == columns && rows > 0 && columns > 0;
    const std::int64_t stride = layout.batch > 1 ? layout.stride : 0;
    return shape && layout.ld >= rows && layout.batch == p.d.batch && layout.batch > 0 && stride >= 0;
  };
  if (!fits(p.a, ta ? p.k : p.m, ta ? p.m : p.k) || !fits(p.b, tb ? p.n : p.k, tb ? p.k : p.n) || !fits(p.c, p.m, p.n) ||
      !fits(p.d, p.m, p.n))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (p.d.batch > 1 && p.d.stride < (p.n - 1) * p.d.ld + p.m) return CUBLAS_STATUS_INVALID_VALUE;  // results would overlap
  return types_fit(p) ? epilogue_fits(p) : CUBLAS_STATUS_NOT_SUPPORTED;
}

bool is_multiple(const void* address, std::size_t of) {
  return reinterpret_cast<std::uintptr_t>(address) % of == 0;
}

/// Whether the algorithm may go along columns, the bias and the auxiliary matrix as it does.
bool columns_fit(const Algorithm& algorithm, const Problem& p) {
  for (const Layout* layout : {&p.a, &p.b, &p.c, &p.d}) {
    const std::size_t element = bytes_of(layout->type), wants = std::max(algorithm.alignment, element);
    if (std::size_t(layout->ld) * element % wants != 0) return false;
    if (layout->batch > 1 && std::size_t(layout->stride) * element % wants != 0) return false;
  }
  const std::size_t wants = std::max(algorithm.alignment, bytes_of(p.d.type));
  const Operation& o = p.operation;
  return (!(p.adds_bias() || p.sums()) || is_multiple(o.bias, wants)) && (!p.uses_aux() || is_multiple(o.aux, wants));
}

}  // namespace

int& emulated::cublaslt::count_of(std::uint32_t epilogue) {
  static std::map<std::uint32_t, int> counts;
  return counts[epilogue];
}

const char* cublasLtGetStatusString(cublasStatus_t status) {
  switch (status) {
    case CUBLAS_STATUS_SUCCESS: return "success";
    case CUBLAS_STATUS_NOT_INITIALIZED: return "the library was not initialized";
    case CUBLAS_STATUS_INVALID_VALUE: return "an unsupported value or parameter was passed to the function";
    case CUBLAS_STATUS_EXECUTION_FAILED: return "the program failed to execute";
    case CUBLAS_STATUS_NOT_SUPPORTED: return "the requested functionality is not supported";
  }
  return "a status that is not emulated";
}
std::size_t cublasLtGetVersion() {
  return 130000;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t* handle) {
  *handle = new cublasLtContext;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
  delete handle;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int asked,
                                              cublasLtMatmulHeuristicResult_t* results, int* found) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  if (asked <= 0 || !results || !found || !read(preference)) return CUBLAS_STATUS_INVALID_VALUE;
  *found = 0;
  Problem p;
  if (cublasStatus_t status = understand(p, operation, a, b, c, d); status != CUBLAS_STATUS_SUCCESS) return status;
  const Preference& wish = *read(preference);
  for (const Algorithm& algorithm : algorithms) {
    bool fits = algorithm.workspace <= wish.workspace && columns_fit(algorithm, p);
    fits = fits && (algorithm.reduction == 0 || (algorithm.reduction & wish.reductions) != 0);
    for (std::size_t alignment : wish.alignment) fits = fits && alignment >= algorithm.alignment;
    if (fits && *found < asked) results[(*found)++] = {opaque(algorithm), algorithm.workspace, CUBLAS_STATUS_SUCCESS, 1, {}};
  }
  return *found > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t* algorithm, cublasLtMatmulHeuristicResult_t* result) {
  if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
  Problem p;
  if (cublasStatus_t status = understand(p, operation, a, b, c, d); status != CUBLAS_STATUS_SUCCESS) return status;
  const Algorithm* one = known(algorithm);
  if (!one || !result) return CUBLAS_STATUS_INVALID_VALUE;
  if (!columns_fit(*one, p)) return CUBLAS_STATUS_NOT_SUPPORTED;
  result->workspaceSize = one->workspace;
  result->state = CUBLAS_STATUS_SUCCESS;
  result->wavesCount = 1;
  return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t operation, const void* alpha, const void* a,
                              cublasLtMatrixLayout_t a_layout, const void* b, cublasLtMatrixLayout_t b_layout, const void* beta,
                              const void* c, cublasLtMatrixLayout_t c_layout, void* d, cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t* algorithm, void* workspace, std::size_t bytes, cudaStream_t stream) {
  cublasLtMatmulHeuristicResult_t checked;
  const cublasStatus_t status =
      cublasLtMatmulAlgoCheck(handle, operation, a_layout, b_layout, c_layout, d_layout, algorithm, &checked);
  if (status != CUBLAS_STATUS_SUCCESS) return status;
  const Algorithm& one = *known(algorithm);
  Call call{{}, 0, 0, a, b, c, d, workspace, one.workspace};
  understand(call.problem, operation, a_layout, b_layout, c_layout, d_layout);
  std::memcpy(&call.alpha, alpha, sizeof call.alpha);  // of the host, as they are now
  std::memcpy(&call.beta, beta, sizeof call.beta);
  const Problem& p = call.problem;
  if (!a || !b || !d || (call.beta != 0 && !c)) return CUBLAS_STATUS_INVALID_VALUE;
  if (one.workspace > bytes || (one.workspace > 0 && (!workspace || !is_multiple(workspace, 256))))
    return CUBLAS_STATUS_INVALID_VALUE;
  if (c == d && (p.c.ld != p.d.ld || p.c.stride != p.d.stride)) return CUBLAS_STATUS_INVALID_VALUE;
  auto aligned = [&](const void* data, const Layout& layout) {
    return is_multiple(data, std::max(one.alignment, bytes_of(layout.type)));
  };
  if (!aligned(a, p.a) || !aligned(b, p.b) || !aligned(d, p.d) || (call.beta != 0 && !aligned(c, p.c)))
    return CUBLAS_STATUS_NOT_SUPPORTED;
  ++count_of(p.operation.epilogue);
  const cudaError_t given = emulated::enqueue(stream, [call] {
    const std::string wrong = wrong_addresses(call);
    if (wrong.empty()) return multiply(call);
    emulated::failure() = "cublasLtMatmul: " + wrong;
    std::fprintf(stderr, "emulated GPU: %s\n", emulated::failure().c_str());
  });
  return given == cudaSuccess ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_EXECUTION_FAILED;
}
