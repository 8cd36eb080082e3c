#include "core/ops.h"
#include "kernels/dropout.h"
#include "kernels/memory.h"
#include "kernels/unary.h"

namespace lockstep::ops {

Tensor unary(Tape& t, Unary op, const Tensor& x) {
  Tensor y = t.make(x.shape(), x.dtype());
  kernels::unary(t.queue(), op, y.view(), x.view());
  return t.record(y, {x}, [=](Tape& t) {
    auto [dx, write] = t.into(x);
    kernels::unary_backward(t.queue(), op, dx, t.gradient(y), x.view(), y.view(), write);
  });
}

Tensor binary(Tape& t, kernels::Binary op, const Tensor& a, const Tensor& b) {
  bool row = b.size() != a.size();
  auto& long_shape = a.shape();
  auto& short_shape = b.shape();
  bool fits =
      short_shape.size() <= long_shape.size() && std::equal(short_shape.rbegin(), short_shape.rend(), long_shape.rbegin());
  require(fits || (!row && a.shape() == b.shape()) || b.size() == 1,
          "binary: the second operand {} must have the shape of the first, {}, or of its last axes", to_text(b.shape()),
          to_text(a.shape()));
  Tensor y = t.make(a.shape(), a.dtype());
  kernels::binary(t.queue(), op, y.view(), a.view(), b.view());
  return t.record(y, {a, b}, [=](Tape& t) {
    if (op == kernels::Binary::add) {  // gradients pass unchanged: no copies
      t.pass(a, y);
      if (!row) return t.pass(b, y);
    } else if (auto [da, write] = t.into(a); da) {
      kernels::binary_backward_a(t.queue(), op, da, t.gradient(y), a.view(), b.view(), write);
    }
    if (auto [db, write] = t.into(b); db) kernels::binary_backward_b(t.queue(), op, db, t.gradient(y), a.view(), b.view(), write);
  });
}

Tensor scale(Tape& t, const Tensor& x, float factor) {
  Tensor y = t.make(x.shape(), x.dtype());
  kernels::scale(t.queue(), y.view(), x.view(), factor);
  return t.record(y, {x}, [=](Tape& t) {
    auto [dx, write] = t.into(x);
    kernels::scale(t.queue(), dx, t.gradient(y), factor, write);
  });
}

Tensor cast(Tape& t, const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  Tensor y = t.make(x.shape(), dtype);
  kernels::cast(t.queue(), y.view(), x.view());
  return t.record(y, {x}, [=](Tape& t) { t.pass(x, y); });
}

Tensor dropout(Tape& t, const Tensor& x, float p, std::uint32_t site) {
  require(Exit::usage, p >= 0 && p < 1, "dropout: the probability {} must be at least 0 and below 1", p);
  if (p == 0 || !t.training()) return x;
  Tensor y = t.make(x.shape(), x.dtype());
  RandomKey key = t.random(site);
  kernels::dropout(t.queue(), y.view(), x.view(), p, key);
  return t.record(y, {x}, [=](Tape& t) {
    auto [dx, write] = t.into(x);
    kernels::dropout_backward(t.queue(), dx, t.gradient(y), p, key, write);
  });
}

}  // namespace lockstep::ops
