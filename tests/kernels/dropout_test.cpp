#include "kernels/dropout.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/memory.h"
#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;

constexpr RandomKey key{7, 3, 1, 42};

std::vector<float> drop(Device& device, const Tensor& x, float p, RandomKey k = key, std::int64_t first = 0) {
  Tensor y = poisoned(device, x.shape(), x.dtype());
  kernels::dropout(device.queue(), y.view(), x.view(), p, k, first);
  return download(device.queue(), y);
}

TEST(Dropout, KeepsTheStatedShareAndScalesIt) {
  for_each_device([](Device& device, DType dtype) {
    std::int64_t n = 100003;
    Tensor x = make_tensor(device, {n}, std::vector<float>(std::size_t(n), 1.f), dtype);
    for (float p : {0.1f, 0.5f, 0.75f}) {
      auto y = drop(device, x, p);
      double dropped = 0;
      for (float v : y) {
        dropped += v == 0;
        if (v != 0) {
          ASSERT_NEAR(v, 1 / (1 - p), dtype == DType::f32 ? 1e-6 : 5e-3);
        }
      }
      EXPECT_NEAR(dropped / double(n), p, 5 * std::sqrt(p * (1 - p) / double(n)));
    }
  });
}

// The step's number may lie in the device's memory, where a captured step finds the present one.
TEST(Dropout, TheStepIsReadWhereItLies) {
  for_each_device([](Device& device, DType dtype) {
    Tensor x = make_tensor(device, {301}, random_values(301, 1), dtype), step = make_indices(device, {1}, {3});
    RandomKey there = key;
    there.step = 99;
    there.step_at = step.view().as<std::int32_t>();
    for (std::int64_t first : {0, 2}) EXPECT_EQ(drop(device, x, 0.5f, there, first), drop(device, x, 0.5f, key, first));
    kernels::store(device.queue(), step.view(), 4);
    RandomKey next = key;
    next.step = 4;
    EXPECT_EQ(drop(device, x, 0.5f, there), drop(device, x, 0.5f, next));
    EXPECT_NE(drop(device, x, 0.5f, there), drop(device, x, 0.5f, key));
  });
}

TEST(Dropout, DecidedByKeyAndElement) {
  for_each_device([](Device& device, DType dtype) {
    std::int64_t n = 301;
    Tensor x = make_tensor(device, {n}, random_values(n, 1), dtype);
    auto whole = drop(device, x, 0.5f);
    // By the words of the generator, element by element.
    auto values = download(device.queue(), x);
    for (std::size_t i = 0; i < values.size(); ++i)
      ASSERT_EQ(whole[i], to_uniform(random_word(key, i)) < 0.5f ? 0.f : 2 * values[i]) << i;
    // A piece of the tensor draws what the whole drew there, wherever it begins and ends.
    for (std::int64_t begin : {0, 1, 2, 3, 4, 127, 298})
      for (std::int64_t size : {1, 2, 3, 5, 150}) {
        if (begin + size > n) continue;
        Tensor piece = poisoned(device, {size}, dtype);
        kernels::dropout(device.queue(), piece.view(), x.view().slice(begin, size), 0.5f, key, begin);
        EXPECT_EQ(download(device.queue(), piece),
                  std::vector<float>(whole.begin() + std::ptrdiff_t(begin), whole.begin() + std::ptrdiff_t(begin + size)));
      }
    EXPECT_NE(drop(device, x, 0.5f, {7, 4, 1, 42}), whole) << "another step draws other numbers";
  });
}

TEST(Dropout, GradientUsesTheSameDraws) {
  for_each_device([](Device& device, DType dtype) {
    std::int64_t n = 1001;
    for (std::int64_t first : {0, 5}) {
      Tensor dy = make_tensor(device, {n}, random_values(n, 2), dtype);
      auto expected = drop(device, dy, 0.3f, key, first);
      expect_gradient(
          device, {n}, dtype, expected,
          [&](View dx, Write write) { kernels::dropout_backward(device.queue(), dx, dy.view(), 0.3f, key, write, first); }, "dx");
      kernels::dropout_backward(device.queue(), dy.view(), dy.view(), 0.3f, key, Write::overwrite, first);
      EXPECT_EQ(download(device.queue(), dy), expected) << "in place";
    }
  });
}

TEST(Dropout, NoneAllAndNothing) {
  for_each_device([](Device& device, DType dtype) {
    Tensor x = make_tensor(device, {6}, {1, 2, 3, 4, 5, 6}, dtype),
           bad = make_tensor(device, {4}, {NAN, INFINITY, NAN, NAN}, dtype);
    EXPECT_EQ(drop(device, x, 0), (std::vector<float>{1, 2, 3, 4, 5, 6}));
    EXPECT_EQ(drop(device, x, 1), std::vector<float>(6, 0.f));
    EXPECT_EQ(drop(device, bad, 1), std::vector<float>(4, 0.f)) << "what is dropped is zero, whatever it was";
    View nothing{nullptr, 0, dtype};
    kernels::dropout(device.queue(), nothing, nothing, 0.5f, key);
    EXPECT_THROW(drop(device, x, 1.5f), Error);
    EXPECT_THROW(drop(device, x, NAN), Error);
  });
}

TEST(Dropout, ThreadsDoNotMatter) {
  Device device;
  std::int64_t n = 200001;
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Tensor x = make_tensor(device, {n}, random_values(n, 1), dtype);
    expect_same_for_any_threads([&] { return drop(device, x, 0.2f, key, 3); }, "dropout");
  }
}

}  // namespace
}  // namespace lockstep
