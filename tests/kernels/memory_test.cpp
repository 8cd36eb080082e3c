#include "kernels/memory.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>

#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;

/// The type of the two that keeps fewer digits.
DType coarsest(DType a, DType b) {
  for (DType d : {DType::bf16, DType::f16})
    if (a == d || b == d) return d;
  return DType::f32;
}

constexpr DType all_types[] = {DType::f32, DType::bf16, DType::f16, DType::i32, DType::u8};

TEST(Memory, CastBetweenAllTypes) {
  for (auto& device : devices()) {
    const Queue& q = device->queue();
    std::vector<float> values;  // exact in every type
    for (int i = 0; i < 1001; ++i) values.push_back(float(i % 129));
    Tensor x = make_tensor(*device, {1001}, values);
    for (DType from : all_types)
      for (DType to : all_types) {
        Tensor a(*device, {1001}, from), b(*device, {1001}, to), back = poisoned(*device, {1001});
        kernels::cast(q, a.view(), x.view());
        kernels::cast(q, b.view(), a.view());
        kernels::cast(q, back.view(), b.view());
        EXPECT_EQ(download(q, back), values) << name_of(from) << " to " << name_of(to);
      }
  }
}

TEST(Memory, CastRoundsToNearestEvenAndHoldsRanges) {
  for (auto& device : devices()) {
    const Queue& q = device->queue();
    auto cast = [&](std::vector<float> in, DType to) {
      Tensor x = make_tensor(*device, {std::int64_t(in.size())}, in), y(*device, x.shape(), to),
             back = poisoned(*device, x.shape());
      kernels::cast(q, y.view(), x.view());
      kernels::cast(q, back.view(), y.view());
      return download(q, back);
    };
    float unit = 0x1p-7f;  // the last place of bf16 at 1
    auto rounded = cast(
        {1 + unit / 2, 1 + 1.5f * unit, 1 + unit * .51f, -1 - unit / 2, NAN, INFINITY, -INFINITY, 3.4e38f, 1e-40f}, DType::bf16);
    EXPECT_EQ(rounded[0], 1);
    EXPECT_EQ(rounded[1], 1 + 2 * unit);
    EXPECT_EQ(rounded[2], 1 + unit);
    EXPECT_EQ(rounded[3], -1);
    EXPECT_TRUE(std::isnan(rounded[4]));
    EXPECT_EQ(rounded[5], INFINITY);
    EXPECT_EQ(rounded[6], -INFINITY);
    EXPECT_EQ(rounded[7], INFINITY);
    EXPECT_NEAR(rounded[8], 1e-40f, 1e-40f * 0x1p-1f);
    EXPECT_EQ(cast({2.9f, -2.9f, 300, -300, NAN, INFINITY}, DType::u8), (std::vector<float>{2, 0, 255, 0, 0, 255}));
    EXPECT_EQ(cast({2.9f, -2.9f, 3e9f, -3e9f, NAN}, DType::i32), (std::vector<float>{2, -2, 2147483520.f, -2147483648.f, 0}));
  }
}

// Against the compiler's own type: every number of f16, and what lies around the middle of neighbours.
TEST(Memory, HalfPrecisionIsIeee754) {
  __extension__ using Reference = _Float16;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    f16 half;
    half.bits = std::uint16_t(bits);
    const float value = half, expected = float(std::bit_cast<Reference>(half));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_TRUE(std::isnan(float(f16(value)))) << bits;
      continue;
    }
    ASSERT_EQ(std::bit_cast<std::uint32_t>(value), std::bit_cast<std::uint32_t>(expected)) << bits;
    if (std::isinf(value)) continue;
    const float next =
        (bits & 0x7fff) == 0x7bff ? std::copysign(65536.f, value) : float(std::bit_cast<Reference>(std::uint16_t(bits + 1)));
    const float middle = value + (next - value) / 2;
    for (float x : {value, middle, std::nextafter(middle, value), std::nextafter(middle, next), next})
      ASSERT_EQ(f16(x).bits, std::bit_cast<std::uint16_t>(Reference(x))) << x;
  }
  for (float x : {65519.996f, 65520.f, 3e38f, 1e-38f, -1e-44f, INFINITY})
    EXPECT_EQ(f16(x).bits, std::bit_cast<std::uint16_t>(Reference(x))) << x;
}

TEST(Memory, FillEveryType) {
  for (auto& device : devices())
    for (DType dtype : all_types)
      for (std::int64_t n : {0, 1, 100003}) {
        Tensor y(*device, {n + 1}, dtype), back = poisoned(*device, {n + 1});
        kernels::fill(device->queue(), y.view(), 9);
        kernels::fill(device->queue(), y.view().slice(0, n), 3);
        kernels::cast(device->queue(), back.view(), y.view());
        auto values = download(device->queue(), back);
        for (std::int64_t i = 0; i < n; ++i) ASSERT_EQ(values[std::size_t(i)], 3);
        EXPECT_EQ(values.back(), 9) << "beyond the end";
      }
}

TEST(Memory, StoreFewNumbers) {
  for (auto& device : devices()) {
    const Queue& q = device->queue();
    Tensor y = make_tensor(*device, {6}, {9, 9, 9, 9, 9, 9}), number = make_indices(*device, {1}, {0});
    {
      const std::vector<float> values = {1, -2.5f, 1e-30f, INFINITY};  // gone when the work is done
      kernels::store(q, y.view().slice(1, 4), values);
    }
    EXPECT_EQ(download(q, y), (std::vector<float>{9, 1, -2.5f, 1e-30f, INFINITY, 9}));
    kernels::store(q, number.view(), -16777217);  // no float
    std::int32_t back = 0;
    kernels::copy(q, View{&back, 1, DType::i32}, number.view());
    kernels::synchronize(q);
    EXPECT_EQ(back, -16777217);
    kernels::store(q, y.view().slice(0, 0), std::span<const float>{});
    EXPECT_THROW(kernels::store(q, y.view(), std::vector<float>(5)), Error);
    EXPECT_THROW(kernels::store(q, y.view(), 1), Error);
    Tensor many(*device, {17});
    EXPECT_THROW(kernels::store(q, many.view(), std::vector<float>(17)), Error);
  }
}

TEST(Memory, ScaleAndAdd) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    std::int64_t n = 1003;
    auto a = random_values(n, 1), b = random_values(n, 2), scaled = a, sum = a;
    for (std::size_t i = 0; i < a.size(); ++i) {
      scaled[i] = a[i] * -1.5f;
      sum[i] = a[i] + b[i];
    }
    for (DType out : {DType::f32, DType::bf16, DType::f16}) {
      DType coarser = coarsest(out, dtype);
      Tensor x = make_tensor(device, {n}, a, dtype);
      expect_gradient(
          device, {n}, out, coarser, scaled, [&](View y, Write write) { kernels::scale(q, y, x.view(), -1.5f, write); }, "scale");
      for (DType other : {DType::f32, DType::bf16, DType::f16}) {
        Tensor z = make_tensor(device, {n}, b, other), y = poisoned(device, {n}, out);
        kernels::add(q, y.view(), x.view(), z.view());
        expect_close(device, y, sum, coarsest(other, coarser), "add");
      }
    }
    Tensor x = make_tensor(device, {3}, {1, 2, 3}, dtype);
    kernels::scale(q, x.view(), x.view(), 2);
    kernels::add(q, x.view(), x.view(), x.view());
    EXPECT_EQ(download(q, x), (std::vector<float>{4, 8, 12}));
  });
}

TEST(Memory, UniformNumbers) {
  for_each_device([](Device& device, DType dtype) {
    std::int64_t n = 200003;
    Tensor y = poisoned(device, {n}, dtype);
    kernels::uniform(device.queue(), y.view(), -2, 3, {1, 0, 0, 5});
    double mean = 0, square = 0;
    for (float v : download(device.queue(), y)) {
      ASSERT_TRUE(v >= -2 && v <= 3);
      if (dtype == DType::f32) {
        ASSERT_LT(v, 3);
      }
      mean += double(v) / double(n);
      square += double(v) * double(v) / double(n);
    }
    EXPECT_NEAR(mean, 0.5, 5 * 5 / std::sqrt(12. * double(n)));
    EXPECT_NEAR(square - mean * mean, 25. / 12, 0.03);
  });
}

TEST(Memory, NormalNumbers) {
  for_each_device([](Device& device, DType dtype) {
    std::int64_t n = 400003;
    Tensor y = poisoned(device, {n}, dtype);
    kernels::normal(device.queue(), y.view(), 1, 2, {1, 0, 0, 5});
    auto values = download(device.queue(), y);
    double moments[5] = {}, inside[4] = {}, neighbours = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      double z = (double(values[i]) - 1) / 2, power = 1;
      ASSERT_LT(std::abs(z), 6.8);
      for (double& m : moments) {
        m += power / double(n);
        power *= z;
      }
      for (int k = 1; k < 4; ++k) inside[k] += (std::abs(z) < k) / double(n);
      if (i > 0) neighbours += z * (double(values[i - 1]) - 1) / 2 / double(n);
    }
    double error = 5 / std::sqrt(double(n));  // five standard errors of a mean of unit variance
    EXPECT_NEAR(moments[1], 0, error);
    EXPECT_NEAR(moments[2], 1, error * std::sqrt(2.));
    EXPECT_NEAR(moments[3], 0, error * std::sqrt(15.));
    EXPECT_NEAR(moments[4], 3, error * std::sqrt(96.));
    EXPECT_NEAR(neighbours, 0, error) << "sine and cosine of one angle are independent";
    EXPECT_NEAR(inside[1], std::erf(1 / std::sqrt(2.)), 0.005);
    EXPECT_NEAR(inside[2], std::erf(2 / std::sqrt(2.)), 0.003);
    EXPECT_NEAR(inside[3], std::erf(3 / std::sqrt(2.)), 0.001);
  });
}

TEST(Memory, InitialValuesAreDecidedByTheElement) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    RandomKey key{1, 0, 0, 5};
    auto draw = [&](std::int64_t n, bool is_normal) {
      Tensor y = poisoned(device, {n}, dtype);
      is_normal ? kernels::normal(q, y.view(), 0, 1, key) : kernels::uniform(q, y.view(), 0, 1, key);
      return download(q, y);
    };
    for (bool is_normal : {false, true}) {
      auto whole = draw(200, is_normal);
      for (std::int64_t n : {1, 2, 3, 4, 5, 63, 66, 199})  // a shorter tensor begins alike, to its last element
        EXPECT_EQ(draw(n, is_normal), std::vector<float>(whole.begin(), whole.begin() + std::ptrdiff_t(n)));
    }
  });
}

TEST(Memory, Copy) {
  for (auto& device : devices())
    for (std::int64_t n : {0, 1, 999, 300007}) {
      const Queue& q = device->queue();
      auto values = random_values(n, 1);
      Tensor x = make_tensor(*device, {n}, values), y = poisoned(*device, {n});
      kernels::copy(q, y.view(), x.view());
      kernels::synchronize(q);
      EXPECT_EQ(download(q, y), values);
      kernels::copy(q, y.view(), y.view());
      // Bytes are bytes: the dtype does not matter, the size does.
      Tensor bytes(*device, {4 * n}, DType::u8), back = poisoned(*device, {n});
      kernels::copy(q, bytes.view(), x.view());
      kernels::copy(q, back.view(), bytes.view());
      EXPECT_EQ(download(q, back), values);
      EXPECT_THROW(kernels::copy(q, y.view(), Tensor(*device, {n + 1}).view()), Error);
    }
}

TEST(Memory, ThreadsDoNotMatter) {
  Device device;
  const Queue& q = device.queue();
  std::int64_t n = 200003;
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Tensor y(device, {n}, dtype);
    expect_same_for_any_threads(
        [&] {
          kernels::normal(q, y.view(), 0, 1, {3});
          kernels::scale(q, y.view(), y.view(), 0.3f, Write::accumulate);
          kernels::add(q, y.view(), y.view(), y.view());
          return download(q, y);
        },
        "normal, scale, add");
  }
}

}  // namespace
}  // namespace lockstep
