#include "core/ops.h"

namespace lockstep::ops {

Tensor pool(Tape& t, kernels::Pooling kind, const Tensor& x, std::int64_t window, std::int64_t stride, std::int64_t padding) {
  require(x.shape().size() == 4, "pool: {} is not (batch, height, width, channels)", to_text(x.shape()));
  require(stride > 0, "pool: stride {}", stride);
  kernels::PoolingShape s{.batch = x.dim(0),
                          .height = x.dim(1),
                          .width = x.dim(2),
                          .channels = x.dim(3),
                          .window = window,
                          .stride = stride,
                          .padding = padding};
  require(s.out_height() > 0 && s.out_width() > 0, "pool: a window of {} does not fit images {}", window, to_text(x.shape()));
  Tensor y = t.make({s.batch, s.out_height(), s.out_width(), s.channels}, x.dtype());
  Tensor index = kind == kernels::Pooling::max && t.recording() ? t.make(y.shape(), DType::u8) : Tensor();
  kernels::pooling(t.queue(), kind, s, y.view(), index ? index.view() : View{}, x.view());
  return t.record(y, {x}, [=](Tape& t) {
    auto [dx, write] = t.into(x);
    kernels::pooling_backward(t.queue(), kind, s, dx, t.gradient(y), index ? index.view() : View{}, write);
  });
}

Tensor global_average_pool(Tape& t, const Tensor& x) {
  require(x.shape().size() == 4 && x.dim(1) == x.dim(2), "global_average_pool: images {} are not square", to_text(x.shape()));
  return reshape(t, pool(t, kernels::Pooling::average, x, x.dim(1), x.dim(1)), {x.dim(0), x.dim(3)});
}

}  // namespace lockstep::ops
