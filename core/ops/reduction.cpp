#include "core/ops.h"
#include "kernels/softmax.h"

namespace lockstep::ops {

Tensor reduce(Tape& t, kernels::Reduction reduction, const Tensor& x) {
  Shape shape = x.shape();
  if (shape.size() > 1)
    shape.pop_back();
  else
    shape = {1};
  std::int64_t columns = x.dim(-1);
  Tensor y = t.make(shape, x.dtype());
  kernels::reduce_columns(t.queue(), reduction, y.view(), x.view(), columns);
  return t.record(y, {x}, [=](Tape& t) {
    auto [dx, write] = t.into(x);
    kernels::reduce_columns_backward(t.queue(), reduction, dx, t.gradient(y), x.view(), y.view(), columns, write);
  });
}

Tensor sum(Tape& t, const Tensor& x) {
  Tensor y = t.make({1}, DType::f32);
  kernels::sum_all(t.queue(), y.view(), x.view(), Write::overwrite);
  return t.record(y, {x}, [=](Tape& t) {
    auto [dx, write] = t.into(x);
    kernels::reduce_columns_backward(t.queue(), kernels::Reduction::sum, dx, t.gradient(y), x.view(), y.view(), x.size(), write);
  });
}

Tensor softmax(Tape& t, const Tensor& x) {
  Tensor y = t.make(x.shape(), x.dtype());
  std::int64_t columns = x.dim(-1);
  kernels::softmax(t.queue(), y.view(), x.view(), columns);
  return t.record(y, {x}, [=](Tape& t) {
    auto [dx, write] = t.into(x);
    kernels::softmax_backward(t.queue(), dx, t.gradient(y), y.view(), columns, write);
  });
}

}  // namespace lockstep::ops
