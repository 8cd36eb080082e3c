#pragma once

#include <functional>
#include <string>
#include <vector>

#include "tests/support/devices.h"
#include "tests/support/golden.h"

// What every test of a kernel asks. Failures are reported to GoogleTest with `what` in the message.
namespace lockstep::test {

/// Calls body(device, dtype) for every device present, with f32, bf16 and f16.
void for_each_device(const std::function<void(Device&, DType)>& body);

/// The same for every golden case of a file.
void for_each_golden(const std::string& file, const std::function<void(Device&, DType, const GoldenCase&)>& body);

/// ‖actual - expected‖ / ‖expected‖ is within golden_tolerance(dtype), and no element is NaN.
void expect_close(Device&, const Tensor& actual, const std::vector<float>& expected, DType dtype, const std::string& what);

/// Runs kernel(output, write) twice: overwriting poisoned memory must give `expected`; adding must give `expected` plus what was
/// there. The output has type `dtype`; the tolerance is that of `arithmetic`.
void expect_gradient(Device&, Shape shape, DType dtype, DType arithmetic, const std::vector<float>& expected,
                     const std::function<void(View, Write)>& kernel, const std::string& what);
inline void expect_gradient(Device& device, Shape shape, DType dtype, const std::vector<float>& expected,
                            const std::function<void(View, Write)>& kernel, const std::string& what) {
  expect_gradient(device, std::move(shape), dtype, dtype, expected, kernel, what);
}

/// result() gives the same bits with 1, 2 and 3 OpenMP threads.
void expect_same_for_any_threads(const std::function<std::vector<float>()>& result, const std::string& what);

/// Values of several inputs, or their gradients.
using Values = std::vector<std::vector<float>>;
/// Compares gradients with central differences of fourth order along a random direction in all inputs; sums are taken in double.
/// forward gives y of the inputs; backward the gradients of all inputs for an upstream dy. Returns |analytic - numeric| /
/// max(|analytic|, |numeric|).
double derivative_error(const Values& inputs, const std::function<std::vector<float>(const Values&)>& forward,
                        const std::function<Values(const Values&, const std::vector<float>&)>& backward, float step = 1e-2f);

}  // namespace lockstep::test
