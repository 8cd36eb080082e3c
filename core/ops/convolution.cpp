#include "core/ops.h"
#include "kernels/batch_norm.h"
#include "kernels/memory.h"
#include "kernels/unary.h"

namespace lockstep::ops {
namespace {

/// A lane's own mean and biased variance for each channel.
struct Statistics {
  Tensor mean, variance;
  Statistics(Tape& t, std::int64_t channels) : mean(t.make({channels}, DType::f32)), variance(t.make({channels}, DType::f32)) {}
};

/// With `statistics` those of the result are written, on the way where the library can.
Tensor convolution(Tape& t, const Tensor& x, const Tensor& w, const Tensor& bias, ConvolutionOptions o,
                   const Statistics* statistics) {
  require(o.stride > 0 && o.padding >= 0 && o.dilation > 0 && o.groups > 0,
          "convolution: stride {}, padding {}, dilation {}, {} groups", o.stride, o.padding, o.dilation, o.groups);
  require(x.shape().size() == 4 && w.shape().size() == 4 && w.dim(3) * o.groups == x.dim(3) && w.dim(0) % o.groups == 0,
          "convolution: weights {} (out, height, width, in / groups) cannot take {} (batch, height, width, in) in {} groups",
          to_text(w.shape()), to_text(x.shape()), o.groups);
  kernels::ConvolutionShape s{.batch = x.dim(0),
                              .height = x.dim(1),
                              .width = x.dim(2),
                              .in = x.dim(3),
                              .out = w.dim(0),
                              .kernel_height = w.dim(1),
                              .kernel_width = w.dim(2),
                              .stride = o.stride,
                              .padding = o.padding,
                              .dilation = o.dilation,
                              .groups = o.groups};
  require(s.out_height() > 0 && s.out_width() > 0, "convolution: a {} x {} kernel does not fit images {}", s.kernel_height,
          s.kernel_width, to_text(x.shape()));
  Tensor y = t.make({s.batch, s.out_height(), s.out_width(), s.out}, x.dtype());
  if (statistics)
    kernels::convolution_statistics(t.queue(), s, y.view(), statistics->mean.view(), statistics->variance.view(), x.view(),
                                    w.view());
  else
    kernels::convolution(t.queue(), s, y.view(), x.view(), w.view(), bias ? bias.view() : View{});
  return t.record(y, {x, w, bias}, [=](Tape& t) {
    View dy = t.gradient(y);
    if (auto [dw, write] = t.into(w); dw) kernels::convolution_backward_weights(t.queue(), s, dw, dy, x.view(), write);
    if (auto [db, write] = t.into(bias); db) kernels::sum_rows(t.queue(), db, dy, s.out, write);
    if (auto [dx, write] = t.into(x); dx) kernels::convolution_backward_data(t.queue(), s, dx, dy, w.view(), write);
  });
}

/// relu((x - mean) / sqrt(variance + epsilon) * w + b + residual) and its gradient; x's statistics are given.
Tensor normalise(Tape& t, const Tensor& x, const Statistics& statistics, const BatchNormTensors& n, bool relu,
                 const Tensor& residual, float epsilon) {
  const std::int64_t channels = x.dim(-1), rows = x.rows();
  const Tensor mean = statistics.mean, variance = statistics.variance;
  Tensor y = t.make(x.shape(), x.dtype());
  kernels::batch_norm_inference(t.queue(), y.view(), x.view(), n.weight.view(), n.bias.view(), mean.view(), variance.view(),
                                residual ? residual.view() : View{}, channels, epsilon, relu);
  return t.record(y, {x, n.weight, n.bias, n.running_mean, n.running_variance, residual}, [=](Tape& t) {
    // The lane's statistics travel with the gradients; running variance is unbiased, as in PyTorch.
    if (auto [statistic, write] = t.into(n.running_mean); statistic) kernels::scale(t.queue(), statistic, mean.view(), 1, write);
    if (auto [statistic, write] = t.into(n.running_variance); statistic)
      kernels::scale(t.queue(), statistic, variance.view(), float(rows) / float(rows - 1), write);
    if (!y->has_gradient) return;
    if (residual && relu) {  // the gradient behind relu is wanted twice, so it takes the place of y's
      View dy = t.exclusive_gradient(y);
      kernels::unary_backward(t.queue(), Unary::relu, dy, dy, y.view(), y.view(), Write::overwrite);
    }
    auto dx = t.into(x), dw = t.into(n.weight), db = t.into(n.bias);
    kernels::batch_norm_backward(t.queue(), dx.view, dw.view, db.view, t.gradient(y), x.view(), n.weight.view(), n.bias.view(),
                                 mean.view(), variance.view(), channels, epsilon, relu && !residual, dx.write, dw.write,
                                 db.write);
    t.pass(residual, y);
  });
}

/// Evaluation: the running averages are the statistics.
Tensor normalise_by_averages(Tape& t, const Tensor& x, const BatchNormTensors& n, bool relu, const Tensor& residual,
                             float epsilon) {
  Tensor y = t.make(x.shape(), x.dtype());
  kernels::batch_norm_inference(t.queue(), y.view(), x.view(), n.weight.view(), n.bias.view(), n.running_mean.view(),
                                n.running_variance.view(), residual ? residual.view() : View{}, x.dim(-1), epsilon, relu);
  return t.record(y, {x, n.weight, n.bias, residual}, [](Tape&) {
    throw Error("batch_norm: gradients through running averages are not defined; run the forward pass in train mode",
                Exit::usage);
  });
}

void check_rows(std::int64_t rows) {
  require(rows > 1, "batch_norm: a lane with one value per channel has no variance; use at least 2 rows_per_lane");
}

}  // namespace

Tensor convolution(Tape& t, const Tensor& x, const Tensor& w, const Tensor& bias, ConvolutionOptions o) {
  return convolution(t, x, w, bias, o, nullptr);
}

Tensor batch_norm(Tape& t, const Tensor& x, const BatchNormTensors& n, bool relu, float epsilon) {
  if (!t.training()) return normalise_by_averages(t, x, n, relu, {}, epsilon);
  check_rows(x.rows());
  Statistics statistics(t, x.dim(-1));
  kernels::batch_norm_statistics(t.queue(), statistics.mean.view(), statistics.variance.view(), x.view(), x.dim(-1));
  return normalise(t, x, statistics, n, relu, {}, epsilon);
}

Tensor convolution_batch_norm(Tape& t, const Tensor& x, const Tensor& w, ConvolutionOptions o, const BatchNormTensors& n,
                              bool relu, const Tensor& residual, float epsilon) {
  auto check_residual = [&](const Tensor& y) {
    require(!residual || residual.shape() == y.shape(), "convolution_batch_norm: the residual {} is not {}",
            residual ? to_text(residual.shape()) : "", to_text(y.shape()));
  };
  if (!t.training()) {
    Tensor y = convolution(t, x, w, {}, o);
    check_residual(y);
    return normalise_by_averages(t, y, n, relu, residual, epsilon);
  }
  Statistics statistics(t, w.dim(0));
  Tensor y = convolution(t, x, w, {}, o, &statistics);
  check_rows(y.rows());
  check_residual(y);
  return normalise(t, y, statistics, n, relu, residual, epsilon);
}

}  // namespace lockstep::ops
