#include "tests/support/kernel_checks.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <bit>
#include <cmath>

namespace lockstep::test {

void for_each_device(const std::function<void(Device&, DType)>& body) {
  for (auto& device : devices())
    for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      SCOPED_TRACE(device->name() + " " + name_of(dtype));
      body(*device, dtype);
    }
}

void for_each_golden(const std::string& file, const std::function<void(Device&, DType, const GoldenCase&)>& body) {
  auto cases = read_golden(file);
  for_each_device([&](Device& device, DType dtype) {
    for (auto& one : cases) {
      SCOPED_TRACE(file + ": " + one.name);
      body(device, dtype, one);
    }
  });
}

void expect_close(Device& device, const Tensor& actual, const std::vector<float>& expected, DType dtype,
                  const std::string& what) {
  double error = relative_norm(download(device.queue(), actual), expected);
  EXPECT_LE(error, golden_tolerance(dtype)) << what;  // false for NaN
}

void expect_gradient(Device& device, Shape shape, DType dtype, DType arithmetic, const std::vector<float>& expected,
                     const std::function<void(View, Write)>& kernel, const std::string& what) {
  Tensor fresh = poisoned(device, shape, dtype);
  kernel(fresh.view(), Write::overwrite);
  expect_close(device, fresh, expected, arithmetic, what + ", overwriting");

  std::vector<float> sum = random_values(count(shape), 77);
  Tensor added = make_tensor(device, shape, sum, dtype);
  kernel(added.view(), Write::accumulate);
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += expected[i];
  expect_close(device, added, sum, arithmetic, what + ", adding");
}

void expect_same_for_any_threads(const std::function<std::vector<float>()>& result, const std::string& what) {
  int before = omp_get_max_threads();
  std::vector<std::vector<float>> results;
  for (int threads : {1, 2, 3}) {
    omp_set_num_threads(threads);
    results.push_back(result());
  }
  omp_set_num_threads(before);
  for (std::size_t k = 1; k < results.size(); ++k) {
    ASSERT_EQ(results[0].size(), results[k].size()) << what;
    std::size_t different = 0;
    for (std::size_t i = 0; i < results[0].size(); ++i)
      different += std::bit_cast<std::uint32_t>(results[0][i]) != std::bit_cast<std::uint32_t>(results[k][i]);
    EXPECT_EQ(different, 0u) << what << ": elements that differ between 1 and " << k + 1 << " threads";
  }
}

double derivative_error(const Values& inputs, const std::function<std::vector<float>(const Values&)>& forward,
                        const std::function<Values(const Values&, const std::vector<float>&)>& backward, float step) {
  std::vector<float> dy = random_values(std::int64_t(forward(inputs).size()), 901);
  auto loss = [&](const Values& at) {
    std::vector<float> y = forward(at);
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += double(y[i]) * double(dy[i]);
    return sum;
  };
  Values gradients = backward(inputs, dy), directions;
  require(gradients.size() == inputs.size(), "derivative_error: {} gradients of {} inputs", gradients.size(), inputs.size());
  double analytic = 0;
  for (std::size_t k = 0; k < inputs.size(); ++k) {
    require(gradients[k].size() == inputs[k].size(), "derivative_error: gradient {} has another size", k);
    directions.push_back(random_values(std::int64_t(inputs[k].size()), 902 + k));
    for (std::size_t i = 0; i < inputs[k].size(); ++i) analytic += double(gradients[k][i]) * double(directions[k][i]);
  }
  auto at = [&](float distance) {
    Values moved = inputs;
    for (std::size_t k = 0; k < inputs.size(); ++k)
      for (std::size_t i = 0; i < inputs[k].size(); ++i) moved[k][i] += distance * directions[k][i];
    return loss(moved);
  };
  double near = at(step) - at(-step), far = at(2 * step) - at(-2 * step);
  double numeric = (8 * near - far) / (12 * double(step));
  return std::abs(analytic - numeric) / std::max({std::abs(analytic), std::abs(numeric), 1e-12});
}

}  // namespace lockstep::test
