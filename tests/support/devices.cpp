#include "tests/support/devices.h"

#include <cmath>

namespace lockstep::test {

std::vector<std::unique_ptr<Device>> devices() {
  std::vector<std::unique_ptr<Device>> all;
  all.push_back(std::make_unique<Device>(DeviceKind::cpu));
  if (Device::cuda_count() > 0) all.push_back(std::make_unique<Device>(DeviceKind::cuda));
  return all;
}

std::vector<float> random_values(std::int64_t n, std::uint64_t seed, float deviation) {
  std::vector<float> values(std::size_t(n), 0.f);
  RandomKey key{seed, 0, 0, hash_name("test")};
  for (std::int64_t i = 0; i < n; ++i) {
    float u = to_uniform(random_word(key, std::uint64_t(2 * i))), v = to_uniform(random_word(key, std::uint64_t(2 * i + 1)));
    values[std::size_t(i)] = deviation * std::sqrt(-2 * std::log(1 - u)) * std::cos(6.2831853f * v);
  }
  return values;
}

Tensor make_tensor(Device& device, Shape shape, const std::vector<float>& values, DType dtype) {
  Tensor t(device, std::move(shape), dtype);
  upload(device.queue(), t, values);
  return t;
}

Tensor make_indices(Device& device, Shape shape, const std::vector<std::int32_t>& values) {
  Tensor t(device, std::move(shape), DType::i32);
  upload(device.queue(), t, values);
  return t;
}

Tensor poisoned(Device& device, Shape shape, DType dtype) {
  std::vector<float> values(std::size_t(count(shape)), NAN);
  return make_tensor(device, std::move(shape), values, dtype);
}

namespace {
template <class B>
double relative(const std::vector<float>& a, const std::vector<B>& b) {
  require(a.size() == b.size(), "relative_norm: {} and {} elements", a.size(), b.size());
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - double(b[i])) * (a[i] - double(b[i]));
    norm += double(b[i]) * double(b[i]);
  }
  return std::sqrt(difference) / (norm > 0 ? std::sqrt(norm) : 1);
}
}  // namespace

double relative_norm(const std::vector<float>& a, const std::vector<float>& b) { return relative(a, b); }
double relative_norm(const std::vector<float>& a, const std::vector<double>& b) { return relative(a, b); }

}  // namespace lockstep::test
