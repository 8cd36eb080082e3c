#pragma once

#include <memory>
#include <vector>

#include "core/tensor.h"
#include "kernels/base/random.h"

namespace lockstep::test {

/// Every kind of device present: {cpu} or {cpu, cuda}. Tests loop over them.
std::vector<std::unique_ptr<Device>> devices();

/// Normal numbers decided by (seed, index).
std::vector<float> random_values(std::int64_t n, std::uint64_t seed, float deviation = 1);

/// A tensor of given values, rounded to `dtype`.
Tensor make_tensor(Device&, Shape, const std::vector<float>&, DType = DType::f32);
/// i32 values.
Tensor make_indices(Device&, Shape, const std::vector<std::int32_t>&);
/// A tensor full of NaN, so that an element which nobody wrote is seen.
Tensor poisoned(Device&, Shape, DType = DType::f32);

/// The nearest number that a type of floats holds; integers stay.
inline float rounded(DType d, float x) {
  return d == DType::bf16 ? float(bf16(x)) : d == DType::f16 ? float(f16(x)) : x;
}

/// ‖a - b‖ / ‖b‖, NaN when any element is.
double relative_norm(const std::vector<float>& a, const std::vector<float>& b);
double relative_norm(const std::vector<float>& a, const std::vector<double>& b);

}  // namespace lockstep::test
