#pragma once

#include "kernels/base/queue.h"
#include "kernels/base/view.h"

namespace lockstep::kernels {

/// Batch normalisation over rows of x (rows, channels), which is NHWC flattened (Ioffe & Szegedy 2015).
/// Training: mean and variance (f32, biased) of this batch are written, y = (x - mean) / sqrt(variance + epsilon) * w + b, then
/// relu when `relu`.
/// x, y share a dtype; w and b have it too.
void batch_norm(const Queue&, View y, View mean, View variance, View x, View w, View b, std::int64_t channels, float epsilon,
                bool relu);
/// The first half of it: mean and variance.
void batch_norm_statistics(const Queue&, View mean, View variance, View x, std::int64_t channels);
/// The same from sums over `rows` rows of x and of x² (f32), which a product leaves behind. Good to about mean² / variance of an
/// f32's last place.
void batch_norm_statistics_of_sums(const Queue&, View mean, View variance, View sum, View squares, std::int64_t rows);
/// The second half, with given statistics (f32); alone it is evaluation. `residual`, where present, looks like x and is added
/// before relu: the same bits as the sum of the rounded result and it.
void batch_norm_inference(const Queue&, View y, View x, View w, View b, View mean, View variance, View residual,
                          std::int64_t channels, float epsilon, bool relu);
/// dx (+)=, dw (+)=, db (+)=; b is read only with relu, to compute again where it was active: less memory than reading y.
/// dw and db may be f32 while the rest has 16 bits. dx may be dy.
void batch_norm_backward(const Queue&, View dx, View dw, View db, View dy, View x, View w, View b, View mean, View variance,
                         std::int64_t channels, float epsilon, bool relu, Write write_x, Write write_w, Write write_b);

}  // namespace lockstep::kernels
