#pragma once

#include <span>

#include "kernels/base/queue.h"
#include "kernels/base/random.h"
#include "kernels/base/view.h"

namespace lockstep::kernels {

/// y = x, converted between any two dtypes when they differ (f32 <-> bf16, f16, u8 -> f32, …).
void cast(const Queue&, View y, View x);
/// y[i] = value.
void fill(const Queue&, View y, float value);
/// y = a few f32 (at most 16) or one i32 of the host, which travel with the launch: the host never waits, and need not keep them.
void store(const Queue&, View y, std::span<const float> values);
void store(const Queue&, View y, std::int32_t value);
/// y (+)= x * factor. y may be x.
void scale(const Queue&, View y, View x, float factor, Write = Write::overwrite);
/// y = a + b rounded to y's dtype: one node of a reduction tree. y may be a or b.
void add(const Queue&, View y, View a, View b);
/// y[i] = uniform in [low, high) or normal(mean, deviation), decided by (key, element): initial values.
void uniform(const Queue&, View y, float low, float high, RandomKey key);
void normal(const Queue&, View y, float mean, float deviation, RandomKey key);

/// Bytes from `from` to `to` (same size in bytes), either of which may be device memory; ordered in the queue. On a GPU queue the
/// host waits when the host side is pageable.
void copy(const Queue&, View to, View from);
/// Waits until all work in the queue is done.
void synchronize(const Queue&);

}  // namespace lockstep::kernels
