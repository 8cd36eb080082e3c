#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/binary.h"
#include "kernels/memory.h"
#include "kernels/reduce.h"
#include "kernels/unary.h"
#include "kernels/vendor.h"
#include "kernels/vendor_cuda.h"

// Matrices are row-major, cuBLASLt's are column-major. The same memory read the other way is the transposed matrix, so we ask for
// yᵀ (n, m) = bᵀ (n, k) aᵀ (k, m): cuBLASLt's first operand, A, is b and its second, B, is a. Its bias runs along the columns of
// yᵀ, which is a row of y.

namespace lockstep::kernels::cuda {
namespace {

using std::int64_t;

cudaDataType_t type_of(DType d) {
  return d == DType::f32 ? CUDA_R_32F : d == DType::bf16 ? CUDA_R_16BF : CUDA_R_16F;
}

/// One call of cuBLASLt: y (+)= a b, and what its epilogue does.
struct Product {
  View y, a, b;
  int64_t m, n, k, batch;
  bool transpose_a, transpose_b;
  Write write;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  View bias = {};    ///< read, or written as a gradient; always of y's dtype, and never added to
  View before = {};  ///< what GELU is given: written going forward, read going back
};

PlanKey key_of(const Product& p, bool tf32) {
  return {p.m,
          p.n,
          p.k,
          p.batch,
          p.transpose_a,
          p.transpose_b,
          p.write == Write::accumulate,
          int64_t(p.a.dtype),
          int64_t(p.y.dtype),
          int64_t(p.epilogue),
          tf32,
          alignment_of({p.a.data}),
          alignment_of({p.b.data}),
          alignment_of({p.y.data, p.before.data}),
          alignment_of({p.bias.data})};
}

template <class T>
void set(cublasLtMatmulDescOpaque_t& operation, cublasLtMatmulDescAttributes_t attribute, T value) {
  check(cublasLtMatmulDescSetAttribute(&operation, attribute, &value, sizeof value));
}
template <class T>
void set(cublasLtMatrixLayoutOpaque_t& layout, cublasLtMatrixLayoutAttribute_t attribute, T value) {
  check(cublasLtMatrixLayoutSetAttribute(&layout, attribute, &value, sizeof value));
}
template <class T>
void set(cublasLtMatmulPreferenceOpaque_t& preference, cublasLtMatmulPreferenceAttributes_t attribute, T value) {
  check(cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof value));
}

/// `batch` row-major matrices of rows x columns, one after another, as column-major ones of columns x rows.
void describe(cublasLtMatrixLayoutOpaque_t& layout, DType dtype, int64_t batch, int64_t rows, int64_t columns) {
  check(cublasLtMatrixLayoutInit(&layout, type_of(dtype), std::uint64_t(columns), std::uint64_t(rows), columns));
  set(layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, std::int32_t(batch));
  set(layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, rows * columns);
}

void set_pointers(ProductPlan& plan, const Product& p) {
  if (p.bias) set(plan.operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, static_cast<const void*>(p.bias.data));
  if (p.before) set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, p.before.data);
}

void launch(const Queue& q, ProductPlan& plan, const cublasLtMatmulAlgo_t& algorithm, const Product& p) {
  CudaLibraries& libraries = *q.cuda;
  set_pointers(plan, p);
  const float alpha = 1, beta = p.write == Write::accumulate ? 1 : 0;
  check(cublasLtMatmul(libraries.cublas(), &plan.operation, &alpha, p.b.data, &plan.b, p.a.data, &plan.a, &beta, p.y.data,
                       &plan.y, p.y.data, &plan.y, &algorithm,
                       libraries.library_memory.at_least(CudaLibraries::product_workspace), CudaLibraries::product_workspace,
                       q.stream));
}

/// Operands of a product for timing: several sets of random numbers, more than a cache holds, so that each run finds its operands
/// in memory as it does in a step. Power, and with it the clock, depends on the numbers: zeros would be too kind.
class Rehearsal {
 public:
  Rehearsal(const Queue& q, const Product& p) {
    const View* parts[] = {&p.a, &p.b, &p.y, &p.bias, &p.before};
    std::size_t bytes = 0;
    for (const View* part : parts) bytes += padded(*part);
    sets_ = std::clamp<std::size_t>(cached / bytes + 2, 2, 32);
    if (cudaMalloc(&memory_, sets_ * bytes) != cudaSuccess) {
      (void)cudaGetLastError();  // no room to time in: the caller goes on without
      memory_ = nullptr;
      return;
    }
    char* at = static_cast<char*>(memory_);
    auto place = [&](View& part, std::uint32_t lane) {
      if (!part) return;
      part.data = std::exchange(at, at + padded(part));
      normal(q, part, 0, 1, {.seed = 1, .lane = lane, .site = std::uint32_t(operands_.size())});
    };
    for (std::size_t i = 0; i < sets_; ++i) {
      Product& set = operands_.emplace_back(p);
      place(set.a, 0), place(set.b, 1), place(set.y, 2), place(set.bias, 3), place(set.before, 4);
    }
  }
  ~Rehearsal() { (void)cudaFree(memory_); }
  Rehearsal(const Rehearsal&) = delete;
  Rehearsal& operator=(const Rehearsal&) = delete;

  explicit operator bool() const { return memory_ != nullptr; }
  const Product& next() { return operands_[turn_++ % sets_]; }

 private:
  static constexpr std::size_t cached = std::size_t(128) << 20;  // twice the largest L2
  static std::size_t padded(const View& v) { return v ? (v.bytes() + 255) / 256 * 256 : 0; }

  void* memory_ = nullptr;
  std::size_t sets_ = 0, turn_ = 0;
  std::vector<Product> operands_;
};

/// Two events around some work.
class Stopwatch {
 public:
  Stopwatch() {
    check(cudaEventCreate(&begin_));
    check(cudaEventCreate(&end_));
  }
  ~Stopwatch() {
    (void)cudaEventDestroy(begin_);
    (void)cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  /// Milliseconds.
  template <class Work>
  double time(cudaStream_t stream, Work work) {
    float took = 0;
    check(cudaEventRecord(begin_, stream));
    work();
    check(cudaEventRecord(end_, stream));
    check(cudaEventSynchronize(end_));
    check(cudaEventElapsedTime(&took, begin_, end_));
    return double(took);
  }

 private:
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
};

/// The fastest of the algorithms. The addresses of real operands are aligned as those of a rehearsal are, or less: the algorithms
/// were asked for with the real alignment.
cublasLtMatmulAlgo_t search(const Queue& q, ProductPlan& plan, const Product& p,
                            const std::vector<cublasLtMatmulHeuristicResult_t>& offers) {
  Rehearsal rehearsal(q, p);
  if (!rehearsal || offers.size() < 2) return offers[0].algo;
  Stopwatch watch;
  constexpr int repeats = 3;
  auto run = [&](std::size_t i) {
    for (int k = 0; k < repeats; ++k) launch(q, plan, offers[i].algo, rehearsal.next());
  };
  for (std::size_t i = 0; i < offers.size(); ++i) run(i);  // the first run of each loads its kernel
  return offers[fastest(offers.size(), [&](std::size_t i) { return watch.time(q.stream, [&] { run(i); }); })].algo;
}

static_assert(sizeof(ProductChoices::Algorithm) == sizeof(cublasLtMatmulAlgo_t));

/// Whether the library takes an algorithm that was chosen earlier.
bool accepts(CudaLibraries& libraries, ProductPlan& plan, const cublasLtMatmulAlgo_t& algorithm) {
  cublasLtMatmulHeuristicResult_t result;
  return cublasLtMatmulAlgoCheck(libraries.cublas(), &plan.operation, &plan.b, &plan.a, &plan.y, &plan.y, &algorithm, &result) ==
             CUBLAS_STATUS_SUCCESS &&
         result.workspaceSize <= CudaLibraries::product_workspace;
}

/// The plan with the algorithm that was chosen for this product, or is now; or nothing when cuBLASLt has none for it.
std::optional<ProductPlan> make_plan(const Queue& q, const PlanKey& key, const Product& p) {
  CudaLibraries& libraries = *q.cuda;
  ProductPlan plan;
  bool tf32 = libraries.tf32 && p.a.dtype == DType::f32;
  check(cublasLtMatmulDescInit(&plan.operation, tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F, CUDA_R_32F));
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE, p.epilogue);
  if (p.before) {
    set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, p.n);
    set(plan.operation, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, p.m * p.n);
  }
  set_pointers(plan, p);
  describe(plan.a, p.a.dtype, p.batch, p.transpose_a ? p.k : p.m, p.transpose_a ? p.m : p.k);
  describe(plan.b, p.b.dtype, p.batch, p.transpose_b ? p.n : p.k, p.transpose_b ? p.k : p.n);
  describe(plan.y, p.y.dtype, p.batch, p.m, p.n);

  if (const auto* chosen = libraries.choices.find(key)) {
    std::memcpy(&plan.algorithm, chosen, sizeof plan.algorithm);
    require(Exit::bad_data, accepts(libraries, plan, plan.algorithm),
            "matmul: cuBLASLt does not take the algorithm that was chosen for {} x {} x {} by another version of it, or on "
            "another GPU: use train.products = \"first\", or start anew",
            p.m, p.n, p.k);
    return plan;
  }

  cublasLtMatmulPreferenceOpaque_t preference;
  check(cublasLtMatmulPreferenceInit(&preference));
  set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, std::uint64_t(CudaLibraries::product_workspace));
  // Parts of a sum are added in f32 and in a fixed order, never rounded to 16 bits in between.
  set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, std::uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  auto y_alignment = std::uint32_t(alignment_of({p.y.data, p.before.data}));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, std::uint32_t(alignment_of({p.b.data})));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, std::uint32_t(alignment_of({p.a.data})));
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, y_alignment);
  set(preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, y_alignment);

  std::vector<cublasLtMatmulHeuristicResult_t> offers(libraries.search ? 32 : 1);
  int found = 0;
  cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(libraries.cublas(), &plan.operation, &plan.b, &plan.a, &plan.y, &plan.y,
                                                         &preference, int(offers.size()), offers.data(), &found);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return {};
  check(status);
  offers.resize(std::size_t(found));
  std::erase_if(offers, [](auto& offer) { return offer.state != CUBLAS_STATUS_SUCCESS; });
  if (offers.empty()) return {};
  if (!libraries.search) {
    plan.algorithm = offers[0].algo;
    return plan;
  }
  plan.algorithm = search(q, plan, p, offers);
  ProductChoices::Algorithm chosen;
  std::memcpy(&chosen, &plan.algorithm, sizeof chosen);
  libraries.choices.add(key, chosen);
  return plan;
}

/// Runs the product; false when cuBLASLt has no algorithm for it.
bool run(const Queue& q, const Product& p) {
  CudaLibraries& libraries = *q.cuda;
  const PlanKey key = key_of(p, libraries.tf32);
  std::optional<ProductPlan>& plan = libraries.products.get(key, [&] { return make_plan(q, key, p); });
  if (plan) launch(q, *plan, plan->algorithm, p);
  return bool(plan);
}

/// The same product with another epilogue.
Product with(Product p, cublasLtEpilogue_t epilogue, View bias, View before = {}) {
  p.epilogue = epilogue;
  p.bias = bias;
  p.before = before;
  return p;
}

/// y (+)= a b + bias, where the bias has y's type.
void linear(const Queue& q, Product p, View bias) {
  if (bias && run(q, with(p, CUBLASLT_EPILOGUE_BIAS, bias))) return;
  if (bias) {  // before the product, which adds to it in f32: the sum is rounded to 16 bits once
    if (p.write == Write::overwrite) fill(q, p.y, 0);
    binary(q, Binary::add, p.y, p.y, bias);
    p.write = Write::accumulate;
  }
  if (run(q, p)) return;
  throw Error(format_text("matmul: cuBLASLt has no algorithm for {} x {} x {} in {}, batch {}",
                          {p.m, p.n, p.k, name_of(p.a.dtype), p.batch}));
}

/// Whether cuBLASLt's GELU may be used. It is the tanh approximation, exact enough for 16 bits; it makes no promise for the last
/// digits of f32. Rows of the matrix before the activation must be multiples of 8 long.
bool fits_gelu(const Product& p, Unary activation, bool has_before) {
  return activation == Unary::gelu_tanh && is_half(p.y.dtype) && p.write == Write::overwrite && (!has_before || p.n % 8 == 0);
}

/// y = (a b) * slope, and the sum of its rows if that is asked for. `in_epilogue`: cuBLASLt may write that sum.
void with_slope(const Queue& q, const Product& p, const MatmulOptions& o, bool in_epilogue) {
  const Slope& slope = *o.slope;
  bool gelu = fits_gelu(p, slope.activation, true);
  if (gelu && in_epilogue && run(q, with(p, CUBLASLT_EPILOGUE_DGELU_BGRAD, o.bias_gradient, slope.kept))) return;
  if (!gelu || !run(q, with(p, CUBLASLT_EPILOGUE_DGELU, {}, slope.kept))) {
    linear(q, p, {});
    return activation_backward(q, slope, p.y, p.y, o.bias_gradient, o.write_bias_gradient);
  }
  if (o.bias_gradient) sum_rows(q, o.bias_gradient, p.y, p.n, o.write_bias_gradient);
}

}  // namespace

void matmul(const Queue& q, View y, View a, View b, int64_t m, int64_t n, int64_t k, const MatmulOptions& o) {
  Product p{y, a, b, m, n, k, o.batch, o.transpose_a, o.transpose_b, o.write};
  // An epilogue writes a bias gradient of y's dtype and cannot add to one.
  const bool in_epilogue = o.bias_gradient && o.write_bias_gradient == Write::overwrite && o.bias_gradient.dtype == y.dtype;
  if (o.slope) return with_slope(q, p, o, in_epilogue);
  if (in_epilogue && run(q, with(p, CUBLASLT_EPILOGUE_BGRADB, o.bias_gradient))) return;
  if (o.bias_gradient) {
    linear(q, p, {});
    return sum_rows(q, o.bias_gradient, a, m, o.write_bias_gradient);
  }

  const bool converts = o.bias && o.bias.dtype != y.dtype, adds = o.activation && o.write == Write::accumulate;
  // Room for a converted bias, and for a value that is added to y only after its activation.
  float* room = converts || adds ? workspace(q, y.size + n) : nullptr;
  View bias = o.bias;
  if (converts) {
    bias = {room + y.size, n, y.dtype};
    cast(q, bias, o.bias);
  }
  if (!o.activation) return linear(q, p, bias);

  if (fits_gelu(p, *o.activation, bool(o.kept))) {
    cublasLtEpilogue_t epilogue = o.kept ? bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX
                                  : bias           ? CUBLASLT_EPILOGUE_GELU_BIAS
                                                   : CUBLASLT_EPILOGUE_GELU;
    if (run(q, with(p, epilogue, bias, o.kept))) return;
  }
  View result = adds ? View{room, y.size, y.dtype} : y;
  View before = o.kept ? o.kept : result;
  p.y = before;
  p.write = Write::overwrite;
  linear(q, p, bias);
  unary(q, *o.activation, result, before);
  if (adds) add(q, y, y, result);
}

void search_products(const Queue& q, bool search) {
  q.cuda->search = search;
}
ProductChoices& product_choices(const Queue& q) {
  return q.cuda->choices;
}
std::string product_library() {
  return "cuBLASLt " + std::to_string(cublasLtGetVersion());
}

}  // namespace lockstep::kernels::cuda
