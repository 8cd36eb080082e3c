#pragma once

#include "kernels/base/queue.h"
#include "kernels/base/view.h"

namespace lockstep::kernels {

enum class Binary : std::uint8_t { add, subtract, multiply, divide };
inline constexpr Binary all_binary[] = {Binary::add, Binary::subtract, Binary::multiply, Binary::divide};

/// y = a op b, of floats. `b` has as many elements as `a`, or is a row that divides it: b[i % b.size] (bias, scale).
/// y may be a.
void binary(const Queue&, Binary op, View y, View a, View b);

/// da (+)= dy * ∂y/∂a; skipped when da is absent. da may be dy when overwriting.
void binary_backward_a(const Queue&, Binary op, View da, View dy, View a, View b, Write);

/// db (+)= dy * ∂y/∂b, summed over rows when b is a row (fixed order; db may be f32 while the rest has 16 bits).
void binary_backward_b(const Queue&, Binary op, View db, View dy, View a, View b, Write);

}  // namespace lockstep::kernels
