#include "kernels/matmul.h"

#include "kernels/binary.h"
#include "kernels/memory.h"
#include "kernels/reduce.h"
#include "kernels/unary.h"
#include "kernels/vendor.h"

namespace lockstep::kernels {
namespace {

// A sum of no terms is 0; the libraries leave such an output unwritten.
void matmul_of_nothing(const Queue& q, View y, const MatmulOptions& o) {
  bool add = o.write == Write::accumulate;
  require(!add || !o.activation, "matmul: accumulating an activation needs an inner size above 0");
  View sum = o.kept ? o.kept : y;
  if (!add) fill(q, sum, 0);
  if (o.bias) binary(q, Binary::add, sum, sum, o.bias);
  if (o.kept)
    activate(q, *o.activation, y, o.kept, sum);
  else if (o.activation)
    unary(q, *o.activation, y, sum);
}

}  // namespace

void matmul(const Queue& q, View y, View a, View b, std::int64_t m, std::int64_t n, std::int64_t k, const MatmulOptions& o) {
  if (q.recording) return q.recording->add([=](const Queue& then) { matmul(then, y, a, b, m, n, k, o); });
  require(m >= 0 && n >= 0 && k >= 0 && o.batch >= 0, "matmul: sizes {} x {} x {}, batch {}", m, n, k, o.batch);
  require(a.size == o.batch * m * k, "matmul: a has {} elements, not {} x {} x {}", a.size, o.batch, m, k);
  require(b.size == o.batch * k * n, "matmul: b has {} elements, not {} x {} x {}", b.size, o.batch, k, n);
  require(y.size == o.batch * m * n, "matmul: y has {} elements, not {} x {} x {}", y.size, o.batch, m, n);
  require(a.dtype == b.dtype, "matmul: a is {}, b is {}", name_of(a.dtype), name_of(b.dtype));
  require(is_float(a.dtype), "matmul: works on f32, bf16 and f16, not on {}", name_of(a.dtype));
  require(y.dtype == a.dtype || y.dtype == DType::f32, "matmul: y is {}, a is {}", name_of(y.dtype), name_of(a.dtype));
  require(!o.bias || o.bias.size == n, "matmul: the bias has {} elements, not {}", o.bias.size, n);
  require(!o.kept || o.activation, "matmul: nothing is kept without an activation");
  require(!o.kept || (o.kept.size == y.size && o.kept.dtype == y.dtype), "matmul: what is kept must look like y");
  require(!o.slope || (!o.bias && !o.activation && o.write == Write::overwrite),
          "matmul: a slope goes without bias, activation and adding to y");
  require(!o.slope || (o.slope->kept.size == y.size && o.slope->y.size == y.size && o.slope->kept.dtype == y.dtype &&
                       o.slope->y.dtype == y.dtype),
          "matmul: what the slope is made of must look like the product");
  std::int64_t biases = o.slope ? n : m;
  require(!o.bias_gradient || o.bias_gradient.size == biases, "matmul: the bias gradient has {} elements, not {}",
          o.bias_gradient.size, biases);
  require(!o.bias_gradient || (o.batch == 1 && (o.slope || (o.transpose_a && !o.bias && !o.activation))),
          "matmul: a bias gradient goes with a slope or with a transposed a alone, batch 1");
  if (y.size == 0 || k == 0) {
    if (y.size > 0) matmul_of_nothing(q, y, o);
    if (o.bias_gradient) sum_rows(q, o.bias_gradient, o.slope ? y : a, biases, o.write_bias_gradient);
    return;
  }
  q.on_gpu ? cuda::matmul(q, y, a, b, m, n, k, o) : cpu::matmul(q, y, a, b, m, n, k, o);
}

}  // namespace lockstep::kernels
