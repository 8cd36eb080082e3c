#include <bit>

#include "kernels/matmul.h"
#include "kernels/matmul_amx_cpu.h"
#include "kernels/reduce.h"
#include "kernels/unary.h"
#include "kernels/vendor.h"
#include "kernels/vendor_cpu.h"

namespace lockstep::kernels {

std::string cpu_products() {
  return amx::available() ? "f32 by AMX where that pays, six products of bf16 for one; else by oneDNN" : "by oneDNN";
}

namespace cpu {
namespace {

using dnnl::algorithm;
using onednn::Desc;

/// oneDNN's name of an activation, all with alpha = 1 where it counts (swish: x * sigmoid(alpha x)).
algorithm algorithm_of(Unary op) {
  switch (op) {
    case Unary::relu: return algorithm::eltwise_relu;
    case Unary::gelu: return algorithm::eltwise_gelu_erf;
    case Unary::gelu_tanh: return algorithm::eltwise_gelu_tanh;
    case Unary::sigmoid: return algorithm::eltwise_logistic;
    case Unary::tanh: return algorithm::eltwise_tanh;
    case Unary::silu: return algorithm::eltwise_swish;
  }
  throw Error("matmul: unknown activation");
}

/// Row-major matrices, one after another; `transposed` when they are stored as (columns, rows).
Desc matrices(std::int64_t batch, std::int64_t rows, std::int64_t columns, bool transposed, DType dtype) {
  using Dims = dnnl::memory::dims;
  return {Dims{batch, rows, columns}, onednn::type_of(dtype),
          transposed ? Dims{rows * columns, 1, rows} : Dims{rows * columns, columns, 1}};
}
/// The first columns of a row-major matrix whose rows lie `stride` apart.
Desc columns_of(std::int64_t rows, std::int64_t columns, std::int64_t stride, DType dtype) {
  using Dims = dnnl::memory::dims;
  return {Dims{1, rows, columns}, onednn::type_of(dtype), Dims{rows * stride, stride, 1}};
}

/// In how many pieces of columns a product is computed. Where the rows of b lie a multiple of 2 KiB apart, what oneDNN's f32
/// kernel reads of them falls into few sets of the cache, and the product runs at half the rate of its neighbours (GPT-2's width
/// of 3072 is such a one, and so is 5120; powers of two are not). The order of additions is another one, the same for any number
/// of threads.
std::int64_t pieces_of(std::int64_t n, std::int64_t k, View y, View a, View b, const MatmulOptions& o) {
  const bool slow = n % 512 == 0 && n >= 1024 && !std::has_single_bit(std::uint64_t(n)) && k >= 256;
  const bool plain = o.batch == 1 && !o.transpose_b && !o.bias && !o.activation;
  const bool floats = y.dtype == DType::f32 && a.dtype == DType::f32 && b.dtype == DType::f32;
  return slow && plain && floats ? 4 : 1;
}

bool goes_by_amx(View y, View a, std::int64_t m, std::int64_t n, std::int64_t k, const MatmulOptions& o) {
  const bool floats = y.dtype == DType::f32 && a.dtype == DType::f32 && (!o.bias || o.bias.dtype == DType::f32);
  return floats && !o.activation && amx::suits(m, n, k) && amx::available();
}
/// y (+)= a b + bias, one batch after another.
void product_on_amx(const Queue& q, View y, View a, View b, std::int64_t m, std::int64_t n, std::int64_t k, const MatmulOptions& o) {
  auto floats = [](View v) { return static_cast<float*>(v.data); };
  for (std::int64_t i = 0; i < o.batch; ++i) {
    const float *at = floats(a) + i * m * k, *bt = floats(b) + i * k * n;
    amx::product(*q.cpu, floats(y) + i * m * n, n, o.transpose_a ? amx::Operand{at, 1, m} : amx::Operand{at, k, 1},
                 o.transpose_b ? amx::Operand{bt, k, 1} : amx::Operand{bt, 1, n}, m, n, k, floats(o.bias),
                 o.write == Write::accumulate);
  }
}

/// y (+)= activation(a b + bias), all of it in one primitive. Our layouts are given as they are: asking for packed weights gains
/// 1-2 % here and costs a pass, and packing for a transposed a loses 20 %.
void product(const Queue& q, View y, View a, View b, std::int64_t m, std::int64_t n, std::int64_t k, const MatmulOptions& o) {
  if (goes_by_amx(y, a, m, n, k, o)) return product_on_amx(q, y, a, b, m, n, k, o);
  bool add = o.write == Write::accumulate;
  PlanKey key{1,
              m,
              n,
              k,
              o.batch,
              o.transpose_a,
              o.transpose_b,
              add,
              std::int64_t(a.dtype),
              std::int64_t(y.dtype),
              o.bias ? 1 + std::int64_t(o.bias.dtype) : 0,
              o.activation ? 1 + std::int64_t(*o.activation) : 0};
  const std::int64_t pieces = pieces_of(n, k, y, a, b, o), columns = n / pieces;
  CpuLibraries& libraries = *q.cpu;
  auto name = [&] { return format_text("product of {} x {} and {} x {} in {}", {m, k, k, n, name_of(a.dtype)}); };
  CpuPlan& plan = libraries.plan(key, name, [&] {
    Desc da = matrices(o.batch, m, k, o.transpose_a, a.dtype), db = matrices(o.batch, k, n, o.transpose_b, b.dtype);
    Desc dy = matrices(o.batch, m, n, false, y.dtype), dbias;
    if (pieces > 1) db = columns_of(k, columns, n, b.dtype), dy = columns_of(m, columns, n, y.dtype);
    if (o.bias) dbias = Desc({1, 1, n}, onednn::type_of(o.bias.dtype), dnnl::memory::format_tag::abc);
    dnnl::post_ops after;
    if (o.activation) onednn::append_eltwise(after, algorithm_of(*o.activation), o.activation == Unary::silu ? 1.f : 0.f);
    if (add) after.append_sum(1.f);
    dnnl::primitive_attr attributes;
    attributes.set_post_ops(after);
    auto made = onednn::matmul(libraries.engine, da, db, o.bias ? &dbias : nullptr, dy, attributes);
    CpuPlan plan(libraries.engine, dnnl::matmul(made));
    plan.writes(DNNL_ARG_DST, dy, dy).reads(DNNL_ARG_SRC, da, da).reads(DNNL_ARG_WEIGHTS, db, db);
    if (o.bias) plan.reads(DNNL_ARG_BIAS, dbias, dbias);
    return plan;
  });
  if (o.bias)
    plan.run(libraries.stream, {y.data, a.data, b.data, o.bias.data});
  else
    for (std::int64_t at = 0; at < n; at += columns)
      plan.run(libraries.stream, {y.slice(at, 0).data, a.data, b.slice(at, 0).data});
}

void product_in_f32(const Queue& q, View y, View a, View b, std::int64_t m, std::int64_t n, std::int64_t k, MatmulOptions o) {
  FloatCopy fa(q, a, true), fb(q, b, true), bias(q, o.bias, true), fy(q, y, o.write == Write::accumulate);
  if (o.bias) o.bias = bias.view();
  product(q, fy.view(), fa.view(), fb.view(), m, n, k, o);
  fy.write_back();
}

}  // namespace

void matmul(const Queue& q, View y, View a, View b, std::int64_t m, std::int64_t n, std::int64_t k, const MatmulOptions& o) {
  const bool copies = !q.cpu->computes_in(a.dtype);
  auto run = [&](View to, const MatmulOptions& options) {
    copies ? product_in_f32(q, to, a, b, m, n, k, options) : product(q, to, a, b, m, n, k, options);
  };
  if (o.slope || o.bias_gradient) {
    run(y, {.transpose_a = o.transpose_a, .transpose_b = o.transpose_b, .batch = o.batch, .write = o.write});
    if (o.slope)
      activation_backward(q, *o.slope, y, y, o.bias_gradient, o.write_bias_gradient);
    else
      sum_rows(q, o.bias_gradient, a, m, o.write_bias_gradient);
    return;
  }
  if (!o.kept) return run(y, o);
  MatmulOptions linear = o;
  linear.activation = {};
  linear.write = Write::overwrite;
  run(o.kept, linear);
  activate(q, *o.activation, y, o.kept, o.kept, o.write);
}

}  // namespace cpu
}  // namespace lockstep::kernels
