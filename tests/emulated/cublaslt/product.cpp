#include "tests/emulated/cublaslt/product.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

#include "tests/emulated/runtime/memory.h"

namespace emulated::cublaslt {
namespace {

using std::int64_t;
using std::size_t;

float load(const void* data, cudaDataType_t type, int64_t i) {
  if (type == CUDA_R_32F) return static_cast<const float*>(data)[i];
  if (type == CUDA_R_16F) return float(static_cast<const _Float16*>(data)[i]);
  return std::bit_cast<float>(std::uint32_t(static_cast<const std::uint16_t*>(data)[i]) << 16);
}

void store(void* data, cudaDataType_t type, int64_t i, float value) {
  if (type == CUDA_R_32F) {
    static_cast<float*>(data)[i] = value;
  } else if (type == CUDA_R_16F) {
    static_cast<_Float16*>(data)[i] = _Float16(value);
  } else {  // bf16: the upper half, rounded to the nearest, ties to even
    const auto bits = std::bit_cast<std::uint32_t>(value);
    const std::uint32_t up = std::isnan(value) ? 0 : 0x7fffu + (bits >> 16 & 1);
    static_cast<std::uint16_t*>(data)[i] = std::uint16_t((bits + up) >> 16);
  }
}

/// op(matrix) of one member of a batch, its columns of `rows` elements one after another.
std::vector<double> columns_of(const void* data, const Layout& layout, int64_t member, bool transposed, int64_t rows,
                               int64_t columns) {
  std::vector<double> out(size_t(rows * columns));
  for (int64_t j = 0; j < columns; ++j)
    for (int64_t i = 0; i < rows; ++i)
      out[size_t(j * rows + i)] =
          load(data, layout.type, member * layout.stride + (transposed ? i * layout.ld + j : j * layout.ld + i));
  return out;
}

// GELU and its slope, as their approximation by tanh.
constexpr double root = 0.7978845608028654, cubic = 0.044715;  // sqrt(2 / pi)
double gelu(double x) {
  return x / 2 * (1 + std::tanh(root * (x + cubic * x * x * x)));
}
double gelu_slope(double x) {
  const double t = std::tanh(root * (x + cubic * x * x * x));
  return (1 + t) / 2 + x / 2 * (1 - t * t) * root * (1 + 3 * cubic * x * x);
}

void multiply(const Call& call, int64_t member) {
  const Problem& p = call.problem;
  const Operation& o = p.operation;
  const auto a = columns_of(call.a, p.a, member, o.transpose_a, p.m, p.k),
             b = columns_of(call.b, p.b, member, o.transpose_b, p.k, p.n);
  std::vector<double> column(size_t(p.m)), sums(size_t(p.m), 0.0);
  for (int64_t j = 0; j < p.n; ++j) {
    std::ranges::fill(column, 0.0);
    for (int64_t l = 0; l < p.k; ++l) {
      const double factor = b[size_t(j * p.k + l)];
      const double* from = &a[size_t(l * p.m)];
      for (size_t i = 0; i < column.size(); ++i) column[i] += from[i] * factor;
    }
    for (int64_t i = 0; i < p.m; ++i) {
      float x = float(call.alpha * column[size_t(i)]);
      if (call.beta != 0) x += call.beta * load(call.c, p.c.type, member * p.c.stride + j * p.c.ld + i);
      if (p.adds_bias()) x += load(o.bias, p.d.type, member * o.bias_stride + i);
      const int64_t aux = member * o.aux_stride + j * o.aux_ld + i;
      if (p.is_gelu() && p.uses_aux()) store(o.aux, p.d.type, aux, x);
      if (p.is_gelu()) x = float(gelu(x));
      if (p.is_gelu_gradient()) x = float(x * gelu_slope(load(o.aux, p.d.type, aux)));
      sums[size_t(i)] += x;
      store(call.d, p.d.type, member * p.d.stride + j * p.d.ld + i, x);
    }
  }
  if (p.sums_result())
    for (int64_t i = 0; i < p.m; ++i) store(o.bias, p.d.type, i, float(sums[size_t(i)]));
  auto sum_over_k = [&](int64_t rows, auto element) {
    for (int64_t i = 0; i < rows; ++i) {
      double sum = 0;
      for (int64_t l = 0; l < p.k; ++l) sum += element(i, l);
      store(o.bias, p.d.type, i, float(sum));
    }
  };
  if (p.sums_a()) sum_over_k(p.m, [&](int64_t i, int64_t l) { return a[size_t(l * p.m + i)]; });
  if (p.sums_b()) sum_over_k(p.n, [&](int64_t j, int64_t l) { return b[size_t(j * p.k + l)]; });
}

struct Stretch {
  const char* name;
  const void* begin;
  size_t bytes;
  bool written;
};
Stretch stretch(const char* name, const void* begin, const Layout& layout, bool written) {
  const auto elements = (layout.batch - 1) * layout.stride + int64_t(layout.columns - 1) * layout.ld + int64_t(layout.rows);
  return {name, begin, size_t(elements) * bytes_of(layout.type), written};
}
bool overlap(const Stretch& one, const Stretch& other) {
  auto *a = static_cast<const std::byte*>(one.begin), *b = static_cast<const std::byte*>(other.begin);
  return a < b + other.bytes && b < a + one.bytes;
}

}  // namespace

std::string wrong_addresses(const Call& call) {
  const Problem& p = call.problem;
  const Operation& o = p.operation;
  std::vector<Stretch> all{stretch("A", call.a, p.a, false), stretch("B", call.b, p.b, false), stretch("D", call.d, p.d, true)};
  if (call.beta != 0 && call.c != call.d) all.push_back(stretch("C", call.c, p.c, false));
  if (p.adds_bias() || p.sums()) {
    const auto length = (p.sums_b() ? p.n : p.m) + (p.d.batch - 1) * o.bias_stride;
    all.push_back({"the bias", o.bias, size_t(length) * bytes_of(p.d.type), p.sums()});
  }
  if (p.uses_aux()) {
    Layout aux = p.d;
    aux.ld = o.aux_ld, aux.stride = o.aux_stride;
    all.push_back(stretch("the auxiliary matrix", o.aux, aux, p.is_gelu()));
  }
  if (call.workspace_bytes > 0) all.push_back({"the workspace", call.workspace, call.workspace_bytes, true});
  for (const Stretch& one : all) {
    if (!memory::holds(one.begin, one.bytes)) return std::string(one.name) + " reaches beyond its allocation";
    for (const Stretch& other : all)
      if (&one != &other && one.written && overlap(one, other))
        return std::string(one.name) + " is written and overlaps " + other.name;
  }
  return "";
}

void multiply(const Call& call) {
  if (call.workspace_bytes > 0) std::memset(call.workspace, 0xff, call.workspace_bytes);
  for (int64_t member = 0; member < call.problem.d.batch; ++member) multiply(call, member);
}

}  // namespace emulated::cublaslt
