#pragma once

#include "kernels/base/queue.h"
#include "kernels/base/view.h"

namespace lockstep::kernels {

struct CrossEntropyOptions {
  std::int32_t ignore_index = -100;  ///< rows with this target give no loss and no gradient
  float label_smoothing = 0;         ///< ε: the target is (1-ε) one-hot + ε/columns (Szegedy et al. 2016)
};

/// Softmax and cross-entropy in one pass over each row of `columns` logits.
/// row_loss[r] (f32) = the row's loss, 0 when ignored; log_sum[r] (f32) = log sum exp, kept for backward.
/// targets: i32, one a row. A target outside [0, columns) that is not ignore_index makes row_loss NaN.
void cross_entropy(const Queue&, View row_loss, View log_sum, View logits, View targets, std::int64_t columns,
                   CrossEntropyOptions);

/// dlogits (+)= seed[0] * (softmax(logits) - target). Probabilities are never stored. seed: one f32. dlogits may be logits when
/// overwriting.
void cross_entropy_backward(const Queue&, View dlogits, View seed, View logits, View log_sum, View targets, std::int64_t columns,
                            CrossEntropyOptions, Write);

/// Both in one pass, where nobody reads the logits again and the upstream gradient is known ahead of backward: row_loss as
/// cross_entropy gives it, and each row of logits becomes its gradient as cross_entropy_backward gives it, to the same bits on
/// the CPU. The logits are read once from memory and written once.
void cross_entropy_in_place(const Queue&, View row_loss, View logits, View seed, View targets, std::int64_t columns,
                            CrossEntropyOptions);

/// dlogits *= seed[0] / used[0], or 0 where used[0] is: a gradient made for the seed `used` becomes that for another.
void cross_entropy_reseed(const Queue&, View dlogits, View seed, View used);

}  // namespace lockstep::kernels
