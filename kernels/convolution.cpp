#include "kernels/convolution.h"

#include "kernels/batch_norm.h"
#include "kernels/memory.h"
#include "kernels/vendor.h"

namespace lockstep::kernels {
namespace {

/// Throws unless the shape makes sense and the images and weights have its sizes. False when there is nothing to compute.
bool checked(const char* op, const ConvolutionShape& s, View x, View w, View y) {
  require(s.batch >= 0 && s.height > 0 && s.width > 0 && s.in > 0 && s.out > 0 && s.kernel_height > 0 && s.kernel_width > 0,
          "{}: images {} x {} x {} x {}, {} filters of {} x {}", op, s.batch, s.height, s.width, s.in, s.out, s.kernel_height,
          s.kernel_width);
  require(s.stride > 0 && s.padding >= 0 && s.dilation > 0, "{}: stride {}, padding {}, dilation {}", op, s.stride, s.padding,
          s.dilation);
  require(s.groups > 0 && s.in % s.groups == 0 && s.out % s.groups == 0, "{}: {} groups do not divide {} and {} channels", op,
          s.groups, s.in, s.out);
  require(s.height + 2 * s.padding > s.dilation * (s.kernel_height - 1) &&
              s.width + 2 * s.padding > s.dilation * (s.kernel_width - 1),
          "{}: the filter is larger than the padded image of {} x {}", op, s.height + 2 * s.padding, s.width + 2 * s.padding);
  std::int64_t x_size = s.batch * s.height * s.width * s.in, y_size = s.batch * s.out_height() * s.out_width() * s.out;
  std::int64_t w_size = s.out * s.kernel_height * s.kernel_width * (s.in / s.groups);
  require(x.size == x_size, "{}: x has {} elements, its shape {}", op, x.size, x_size);
  require(y.size == y_size, "{}: y has {} elements, its shape {}", op, y.size, y_size);
  require(w.size == w_size, "{}: w has {} elements, its shape {}", op, w.size, w_size);
  require(is_float(x.dtype), "{}: works on f32, bf16 and f16, not on {}", op, name_of(x.dtype));
  require(y.dtype == x.dtype, "{}: x is {}, y is {}", op, name_of(x.dtype), name_of(y.dtype));
  return s.batch > 0;
}

}  // namespace

void convolution(const Queue& q, const ConvolutionShape& s, View y, View x, View w, View bias) {
  if (q.recording) return q.recording->add([=](const Queue& then) { convolution(then, s, y, x, w, bias); });
  if (!checked("convolution", s, x, w, y)) return;
  require(w.dtype == x.dtype, "convolution: x is {}, w is {}", name_of(x.dtype), name_of(w.dtype));
  require(!bias || (bias.size == s.out && bias.dtype == x.dtype), "convolution: the bias must hold {} {}", s.out,
          name_of(x.dtype));
  q.on_gpu ? cuda::convolution(q, s, y, x, w, bias) : cpu::convolution(q, s, y, x, w, bias);
}

void convolution_statistics(const Queue& q, const ConvolutionShape& s, View y, View mean, View variance, View x, View w) {
  if (q.recording) return q.recording->add([=](const Queue& then) { convolution_statistics(then, s, y, mean, variance, x, w); });
  require(checked("convolution_statistics", s, x, w, y), "convolution_statistics: no images to take statistics of");
  require(w.dtype == x.dtype, "convolution_statistics: x is {}, w is {}", name_of(x.dtype), name_of(w.dtype));
  require(mean.size == s.out && variance.size == s.out, "convolution_statistics: mean and variance need {} elements", s.out);
  if (q.on_gpu && is_half(x.dtype)) {
    float* memory = workspace(q, 2 * s.out);
    const View sum{memory, s.out, DType::f32}, squares{memory + s.out, s.out, DType::f32};
    if (cuda::convolution_sums(q, s, y, sum, squares, x, w))
      return batch_norm_statistics_of_sums(q, mean, variance, sum, squares, s.batch * s.out_height() * s.out_width());
  }
  convolution(q, s, y, x, w, {});
  batch_norm_statistics(q, mean, variance, y, s.out);
}

std::string convolution_choices(const Queue& q) {
  return q.on_gpu ? cuda::convolution_choices(q) : "";
}

void convolution_backward_data(const Queue& q, const ConvolutionShape& s, View dx, View dy, View w, Write write) {
  if (q.recording) return q.recording->add([=](const Queue& then) { convolution_backward_data(then, s, dx, dy, w, write); });
  if (!checked("convolution_backward_data", s, dx, w, dy)) return;
  require(w.dtype == dx.dtype, "convolution_backward_data: dx is {}, w is {}", name_of(dx.dtype), name_of(w.dtype));
  q.on_gpu ? cuda::convolution_backward_data(q, s, dx, dy, w, write) : cpu::convolution_backward_data(q, s, dx, dy, w, write);
}

void convolution_backward_weights(const Queue& q, const ConvolutionShape& s, View dw, View dy, View x, Write write) {
  if (q.recording) return q.recording->add([=](const Queue& then) { convolution_backward_weights(then, s, dw, dy, x, write); });
  if (!checked("convolution_backward_weights", s, x, dw, dy)) {
    if (write == Write::overwrite) fill(q, dw, 0);
    return;
  }
  require(dw.dtype == x.dtype || dw.dtype == DType::f32, "convolution_backward_weights: x is {}, dw is {}", name_of(x.dtype),
          name_of(dw.dtype));
  q.on_gpu ? cuda::convolution_backward_weights(q, s, dw, dy, x, write)
           : cpu::convolution_backward_weights(q, s, dw, dy, x, write);
}

}  // namespace lockstep::kernels
