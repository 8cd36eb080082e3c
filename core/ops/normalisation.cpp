#include "core/ops.h"
#include "kernels/batch_norm.h"
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

Tensor batch_norm(Tape& t, const Tensor& x, const Tensor& w, const Tensor& b, const Tensor& running_mean,
                  const Tensor& running_variance, bool relu, float epsilon) {
  std::int64_t channels = x.dim(-1), rows = x.rows();
  Tensor y = t.make(x.shape(), x.dtype());
  if (!t.training()) {
    kernels::batch_norm_inference(t.queue(), y.view(), x.view(), w.view(), b.view(), running_mean.view(), running_variance.view(),
                                  channels, epsilon, relu);
    return t.record(y, {x, w, b}, [](Tape&) {
      throw Error("batch_norm: gradients through running averages are not defined; run the forward pass in train mode",
                  Exit::usage);
    });
  }
  require(rows > 1, "batch_norm: a lane with one value per channel has no variance; use at least 2 rows_per_lane");
  Tensor mean = t.make({channels}, DType::f32), variance = t.make({channels}, DType::f32);
  kernels::batch_norm(t.queue(), y.view(), mean.view(), variance.view(), x.view(), w.view(), b.view(), channels, epsilon, relu);
  return t.record(y, {x, w, b, running_mean, running_variance}, [=](Tape& t) {
    // The lane's statistics travel with the gradients; running variance is unbiased, as in PyTorch.
    if (auto [statistic, write] = t.into(running_mean); statistic) kernels::scale(t.queue(), statistic, mean.view(), 1, write);
    if (auto [statistic, write] = t.into(running_variance); statistic)
      kernels::scale(t.queue(), statistic, variance.view(), float(rows) / float(rows - 1), write);
    if (!y->has_gradient) return;
    auto dx = t.into(x), dw = t.into(w), db = t.into(b);
    kernels::batch_norm_backward(t.queue(), dx.view, dw.view, db.view, t.gradient(y), x.view(), w.view(), b.view(), mean.view(),
                                 variance.view(), channels, epsilon, relu, dx.write, dw.write, db.write);
  });
}

}  // namespace lockstep::ops
