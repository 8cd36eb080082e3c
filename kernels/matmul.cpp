#include "kernels/matmul.h"

#include "kernels/binary.h"
#include "kernels/memory.h"
#include "kernels/unary.h"
#include "kernels/vendor.h"

namespace lockstep::kernels {
namespace {

// A sum of no terms is 0; the libraries leave such an output unwritten.
void matmul_of_nothing(const Queue& q, View y, const MatmulOptions& o) {
  bool add = o.write == Write::accumulate;
  require(!add || !o.activation, "matmul: accumulating an activation needs an inner size above 0");
  View sum = o.pre_activation ? o.pre_activation : y;
  if (!add) fill(q, sum, 0);
  if (o.bias) binary(q, Binary::add, sum, sum, o.bias);
  if (o.activation) unary(q, *o.activation, y, sum);
}

}  // namespace

void matmul(const Queue& q, View y, View a, View b, std::int64_t m, std::int64_t n, std::int64_t k, const MatmulOptions& o) {
  require(m >= 0 && n >= 0 && k >= 0 && o.batch >= 0, "matmul: sizes {} x {} x {}, batch {}", m, n, k, o.batch);
  require(a.size == o.batch * m * k, "matmul: a has {} elements, not {} x {} x {}", a.size, o.batch, m, k);
  require(b.size == o.batch * k * n, "matmul: b has {} elements, not {} x {} x {}", b.size, o.batch, k, n);
  require(y.size == o.batch * m * n, "matmul: y has {} elements, not {} x {} x {}", y.size, o.batch, m, n);
  require(a.dtype == b.dtype, "matmul: a is {}, b is {}", name_of(a.dtype), name_of(b.dtype));
  require(a.dtype == DType::f32 || a.dtype == DType::bf16, "matmul: works on f32 and bf16, not on {}", name_of(a.dtype));
  require(y.dtype == a.dtype || y.dtype == DType::f32, "matmul: y is {}, a is {}", name_of(y.dtype), name_of(a.dtype));
  require(!o.bias || o.bias.size == n, "matmul: the bias has {} elements, not {}", o.bias.size, n);
  require(!o.pre_activation || o.activation, "matmul: pre_activation without an activation");
  require(!o.pre_activation || (o.pre_activation.size == y.size && o.pre_activation.dtype == y.dtype),
          "matmul: pre_activation must look like y");
  if (y.size == 0) return;
  if (k == 0) return matmul_of_nothing(q, y, o);
  q.on_gpu ? cuda::matmul(q, y, a, b, m, n, k, o) : cpu::matmul(q, y, a, b, m, n, k, o);
}

}  // namespace lockstep::kernels
