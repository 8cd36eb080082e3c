#pragma once

#include "kernels/base/queue.h"
#include "kernels/base/view.h"

namespace lockstep::kernels {

enum class Norm : std::uint8_t {
  layer,  ///< (x - mean) / sqrt(variance + epsilon) * w + b      (Ba et al. 2016)
  rms,    ///< x / sqrt(mean(x²) + epsilon) * w                   (Zhang & Sennrich 2019); b and mean are absent
};

/// One pass over rows of `columns`: s = x + residual (when `residual` is present; s is stored), y = norm(s) * w + b.
/// mean and rstd (f32, one a row) are kept for backward; mean is absent for rms. Without a residual, s is absent too.
/// x, residual, s, y, w, b share a dtype; b may be absent.
void norm(const Queue&, Norm, View y, View s, View mean, View rstd, View x, View residual, View w, View b, std::int64_t columns,
          float epsilon);

/// dx (+)= gradient through the norm, where x is what was normalised (s when there was a residual).
/// dw, db (+)= gradients of the scale and shift, summed over rows in blocks of fixed size (db may be absent; both may be f32
/// while the rest has 16 bits). Each of dx, dw may be absent. One pass over x and dy on either device.
void norm_backward(const Queue&, Norm, View dx, View dw, View db, View dy, View x, View w, View mean, View rstd,
                   std::int64_t columns, Write write_x, Write write_w, Write write_b);

}  // namespace lockstep::kernels
