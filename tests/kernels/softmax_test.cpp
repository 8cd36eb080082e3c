#include "kernels/softmax.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;

TEST(Softmax, Golden) {
  for_each_golden("softmax", [](Device& device, DType dtype, const GoldenCase& c) {
    const Queue& q = device.queue();
    Tensor x = c.load(device, "x", dtype), dy = c.load(device, "dy", dtype), y = poisoned(device, x.shape(), dtype);
    std::int64_t columns = x.dim(-1);
    kernels::softmax(q, y.view(), x.view(), columns);
    expect_close(device, y, c["y"].values, dtype, "y");
    expect_gradient(
        device, x.shape(), dtype, c["dx"].values,
        [&](View dx, Write write) { kernels::softmax_backward(q, dx, dy.view(), y.view(), columns, write); }, "dx");
    kernels::softmax(q, x.view(), x.view(), columns);
    EXPECT_EQ(download(q, x), download(q, y)) << "in place";
  });
}

TEST(Softmax, Derivatives) {
  for (auto& device : devices()) {
    const Queue& q = device->queue();
    auto forward = [&](const Values& in) {
      Tensor x = make_tensor(*device, {6, 21}, in[0]), y = poisoned(*device, {6, 21});
      kernels::softmax(q, y.view(), x.view(), 21);
      return download(q, y);
    };
    auto backward = [&](const Values& in, const std::vector<float>& up) {
      Tensor dy = make_tensor(*device, {6, 21}, up), y = make_tensor(*device, {6, 21}, forward(in)),
             dx = poisoned(*device, {6, 21});
      kernels::softmax_backward(q, dx.view(), dy.view(), y.view(), 21, Write::overwrite);
      return Values{download(q, dx)};
    };
    EXPECT_LE(derivative_error({random_values(126, 3)}, forward, backward), 1e-3);
  }
}

TEST(Softmax, LargeLogitsMasksAndNan) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    Tensor x = make_tensor(device, {3, 3}, {3e4f, 0, -3e4f, 1, -INFINITY, 1, 0, NAN, 0}, dtype),
           y = poisoned(device, {3, 3}, dtype);
    kernels::softmax(q, y.view(), x.view(), 3);
    auto p = download(q, y);
    EXPECT_EQ(std::vector<float>(p.begin(), p.begin() + 6), (std::vector<float>{1, 0, 0, .5f, 0, .5f}));
    for (std::size_t i = 6; i < 9; ++i) EXPECT_TRUE(std::isnan(p[i]));
    View nothing{nullptr, 0, dtype};
    kernels::softmax(q, nothing, nothing, 3);
    kernels::softmax_backward(q, nothing, nothing, nothing, 3, Write::accumulate);
  });
}

TEST(Softmax, ThreadsDoNotMatter) {
  Device device;
  const Queue& q = device.queue();
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Tensor x = make_tensor(device, {300, 77}, random_values(300 * 77, 1), dtype), y(device, {300, 77}, dtype);
    expect_same_for_any_threads(
        [&] {
          kernels::softmax(q, y.view(), x.view(), 77);
          return download(q, y);
        },
        "y");
  }
}

}  // namespace
}  // namespace lockstep
