#pragma once

#include "kernels/base/queue.h"
#include "kernels/base/view.h"

namespace lockstep::kernels {

enum class Pooling : std::uint8_t { max, average };  ///< average counts only elements inside the image

/// NHWC: x (batch, height, width, channels).
struct PoolingShape {
  std::int64_t batch, height, width, channels;
  std::int64_t window, stride, padding = 0;
  std::int64_t out_height() const { return (height + 2 * padding - window) / stride + 1; }
  std::int64_t out_width() const { return (width + 2 * padding - window) / stride + 1; }
  bool operator==(const PoolingShape&) const = default;
};

/// y = pooled x. For max, index (u8, as y) receives the position of the first largest element in its window, for backward;
/// windows have at most 255 elements. index is absent for average, and may be in inference.
void pooling(const Queue&, Pooling, const PoolingShape&, View y, View index, View x);
/// dx (+)= gradient.
void pooling_backward(const Queue&, Pooling, const PoolingShape&, View dx, View dy, View index, Write);

}  // namespace lockstep::kernels
