#pragma once

#include <string>

#include "kernels/base/queue.h"
#include "kernels/base/view.h"

namespace lockstep::kernels {

/// Sizes of a 2-d convolution. Images are NHWC: x (batch, height, width, in), y (batch, out_height(), out_width(), out).
/// Weights are (out, kernel_height, kernel_width, in / groups).
struct ConvolutionShape {
  std::int64_t batch, height, width, in, out;
  std::int64_t kernel_height, kernel_width;
  std::int64_t stride = 1, padding = 0, dilation = 1, groups = 1;
  std::int64_t out_height() const { return (height + 2 * padding - dilation * (kernel_height - 1) - 1) / stride + 1; }
  std::int64_t out_width() const { return (width + 2 * padding - dilation * (kernel_width - 1) - 1) / stride + 1; }
  bool operator==(const ConvolutionShape&) const = default;
};

/// y = conv(x, w) + bias (bias may be absent); all of one dtype.
void convolution(const Queue&, const ConvolutionShape&, View y, View x, View w, View bias);
/// y = conv(x, w), and the mean and biased variance (f32, `out` of each) of y's channels over all rows, for the batch
/// normalisation that follows (batch_norm_inference). On a GPU cuDNN sums y and y² of f16 while it computes y, where it can do so
/// in a fixed order; else, and on a CPU, they are batch_norm_statistics of y, which read it again.
void convolution_statistics(const Queue&, const ConvolutionShape&, View y, View mean, View variance, View x, View w);
/// What that came to on this queue so far: for how many of how many shapes of 16 bits cuDNN sums; "" on a CPU and before the first.
std::string convolution_choices(const Queue&);
/// dx (+)= gradient with respect to x.
void convolution_backward_data(const Queue&, const ConvolutionShape&, View dx, View dy, View w, Write);
/// dw (+)= gradient with respect to w; dw may be f32 while the rest has 16 bits.
void convolution_backward_weights(const Queue&, const ConvolutionShape&, View dw, View dy, View x, Write);

}  // namespace lockstep::kernels
