#pragma once

#include "kernels/base/queue.h"
#include "kernels/base/random.h"
#include "kernels/base/view.h"

namespace lockstep::kernels {

/// y = x * keep / (1 - p) where keep is 0 with probability p, decided by (key, first + i) with Philox; no mask is stored. y may be x.
/// `first` is the index of x[0] in the unsharded tensor.
void dropout(const Queue&, View y, View x, float p, RandomKey key, std::int64_t first = 0);

/// dx (+)= dy * keep / (1 - p) with the same draws. dx may be dy when overwriting.
void dropout_backward(const Queue&, View dx, View dy, float p, RandomKey key, Write, std::int64_t first = 0);

}  // namespace lockstep::kernels
