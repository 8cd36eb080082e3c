#include "core/ops.h"
#include "kernels/memory.h"

namespace lockstep::ops {
namespace {

/// Forward of both; s and residual absent without a residual.
Tensor normalise(Tape& t, kernels::Norm kind, const Tensor& x, const Tensor& residual, const Tensor& s, const Tensor& w,
                 const Tensor& b, float epsilon, Tensor& mean, Tensor& rstd) {
  std::int64_t columns = x.dim(-1), rows = x.rows();
  require(w.size() == columns && (!b || b.size() == columns), "norm: a scale of {} elements for rows of {}", w.size(), columns);
  Tensor y = t.make(x.shape(), x.dtype());
  if (kind == kernels::Norm::layer) mean = t.make({rows}, DType::f32);
  rstd = t.make({rows}, DType::f32);
  auto view = [](const Tensor& a) { return a ? a.view() : View{}; };
  kernels::norm(t.queue(), kind, y.view(), view(s), view(mean), rstd.view(), x.view(), view(residual), w.view(), view(b), columns,
                epsilon);
  return y;
}

void normalise_backward(Tape& t, kernels::Norm kind, Tape::Target dx, View dy, const Tensor& x, const Tensor& w, const Tensor& b,
                        const Tensor& mean, const Tensor& rstd) {
  auto dw = t.into(w), db = t.into(b);
  kernels::norm_backward(t.queue(), kind, dx.view, dw.view, db.view, dy, x.view(), w.view(), mean ? mean.view() : View{},
                         rstd.view(), x.dim(-1), dx.write, dw.write, db.write);
}

}  // namespace

Tensor norm(Tape& t, kernels::Norm kind, const Tensor& x, const Tensor& w, const Tensor& b, float epsilon) {
  Tensor mean, rstd;
  Tensor y = normalise(t, kind, x, {}, {}, w, b, epsilon, mean, rstd);
  return t.record(y, {x, w, b}, [=](Tape& t) { normalise_backward(t, kind, t.into(x), t.gradient(y), x, w, b, mean, rstd); });
}

Normed add_norm(Tape& t, kernels::Norm kind, const Tensor& x, const Tensor& residual, const Tensor& w, const Tensor& b,
                float epsilon) {
  require(x.shape() == residual.shape(), "add_norm: {} and {} differ", to_text(x.shape()), to_text(residual.shape()));
  Tensor mean, rstd, sum = t.make(x.shape(), x.dtype());
  Tensor y = normalise(t, kind, x, residual, sum, w, b, epsilon, mean, rstd);
  t.record({sum, y}, {x, residual, w, b}, [=](Tape& t) {
    // What reached the sum itself and what comes through the norm are added in place, then shared by both inputs.
    if (View dy = t.gradient(y)) normalise_backward(t, kind, t.into(sum), dy, sum, w, b, mean, rstd);
    t.pass(x, sum);
    t.pass(residual, sum);
  });
  return {sum, y};
}

}  // namespace lockstep::ops
