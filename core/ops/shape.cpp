#include "core/ops.h"

namespace lockstep::ops {

Tensor reshape(Tape& t, const Tensor& x, Shape shape) {
  Tensor y = x.reshaped(std::move(shape));
  return t.record(y, {x}, [=](Tape& t) { t.pass(x, y); });
}

Tensor detach(const Tensor& x) {
  return x.reshaped(x.shape());
}

Tensor recompute(Tape& t, const Tensor& x, const std::vector<Tensor>& parameters,
                 std::function<Tensor(Tape&, const Tensor&)> block) {
  Tape forward = t.nested(false);
  Tensor y = detach(block(forward, x));
  std::vector<Tensor> inputs = parameters;  // each counts as used here, so the inner tape never sees its last use
  inputs.push_back(x);
  return t.record(y, inputs, [=](Tape& t) {
    Tape inner = t.nested(true);
    Tensor inside = detach(x);
    inside->wants_gradient = x->wants_gradient;
    Tensor again = block(inner, inside);
    inner.pass(again, y);
    inner.backward();
    t.pass(x, inside);
  });
}

}  // namespace lockstep::ops
