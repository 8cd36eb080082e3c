#include "kernels/pooling.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;
using kernels::Pooling;
using kernels::PoolingShape;

PoolingShape shape_of(const GoldenCase& c) {
  auto n = [&](const char* name) { return std::int64_t(c.number(name)); };
  return {n("batch"), n("height"), n("width"), n("channels"), n("window"), n("stride"), n("padding")};
}

/// 255 everywhere: no place in a window of these tests.
Tensor fresh_index(Device& device, const Shape& shape) {
  Tensor index(device, shape, DType::u8);
  upload(device.queue(), index, std::vector<float>(std::size_t(count(shape)), 255.f));
  return index;
}

TEST(Pooling, Golden) {
  for_each_golden("pooling", [](Device& device, DType dtype, const GoldenCase& c) {
    PoolingShape s = shape_of(c);
    Pooling kind = c.text("kind") == "max" ? Pooling::max : Pooling::average;
    const Queue& q = device.queue();
    Tensor x = c.load(device, "x", dtype), dy = c.load(device, "dy", dtype), y = poisoned(device, c["y"].shape, dtype);
    Tensor index = fresh_index(device, y.shape());
    View where = kind == Pooling::max ? index.view() : View{};
    kernels::pooling(q, kind, s, y.view(), where, x.view());
    expect_close(device, y, c["y"].values, dtype, "y");
    Tensor without = poisoned(device, c["y"].shape, dtype);
    kernels::pooling(q, kind, s, without.view(), {}, x.view());
    EXPECT_EQ(download(q, without), download(q, y)) << "without an index";
    if (kind == Pooling::max) {
      EXPECT_EQ(download(q, y), c["y"].values) << "the largest is one of the inputs, which bf16 holds exactly";
    }
    expect_gradient(
        device, x.shape(), dtype, c["dx"].values,
        [&](View dx, Write write) { kernels::pooling_backward(q, kind, s, dx, dy.view(), where, write); }, "dx");
  });
}

TEST(Pooling, Derivatives) {
  for (auto& device : devices())
    for (Pooling kind : {Pooling::max, Pooling::average}) {
      PoolingShape s{2, 7, 6, 3, 3, 2, 1};
      const Queue& q = device->queue();
      Shape xs{2, 7, 6, 3}, ys{2, s.out_height(), s.out_width(), 3};
      Tensor index = fresh_index(*device, ys);
      // Values far apart, so that a step does not change which is largest.
      std::vector<float> start(std::size_t(count(xs)));
      for (std::size_t i = 0; i < start.size(); ++i) start[i] = float(i * 97 % 252);
      auto forward = [&](const Values& in) {
        Tensor x = make_tensor(*device, xs, in[0]), y = poisoned(*device, ys);
        kernels::pooling(q, kind, s, y.view(), kind == Pooling::max ? index.view() : View{}, x.view());
        return download(q, y);
      };
      auto backward = [&](const Values& in, const std::vector<float>& up) {
        forward(in);
        Tensor dy = make_tensor(*device, ys, up), dx = poisoned(*device, xs);
        kernels::pooling_backward(q, kind, s, dx.view(), dy.view(), kind == Pooling::max ? index.view() : View{},
                                  Write::overwrite);
        return Values{download(q, dx)};
      };
      EXPECT_LE(derivative_error({start}, forward, backward), 1e-3);
    }
}

TEST(Pooling, TheFirstOfEqualsGetsTheGradient) {
  for_each_device([](Device& device, DType dtype) {
    PoolingShape s{1, 3, 3, 1, 3, 1, 0};
    const Queue& q = device.queue();
    Tensor x = make_tensor(device, {1, 3, 3, 1}, {-5, 1, 7, 7, 2, 7, 0, 0, 7}, dtype), y = poisoned(device, {1}, dtype);
    Tensor index = fresh_index(device, {1}), dy = make_tensor(device, {1}, {3}, dtype), dx = poisoned(device, {9}, dtype);
    kernels::pooling(q, Pooling::max, s, y.view(), index.view(), x.view());
    kernels::pooling_backward(q, Pooling::max, s, dx.view(), dy.view(), index.view(), Write::overwrite);
    EXPECT_EQ(download(q, y), (std::vector<float>{7}));
    EXPECT_EQ(download(q, index), (std::vector<float>{2}));
    EXPECT_EQ(download(q, dx), (std::vector<float>{0, 0, 3, 0, 0, 0, 0, 0, 0}));
    Tensor hurt = make_tensor(device, {1, 3, 3, 1}, {1, NAN, 9, 1, 1, 1, 1, 1, 1}, dtype);
    kernels::pooling(q, Pooling::max, s, y.view(), index.view(), hurt.view());
    EXPECT_TRUE(std::isnan(download(q, y)[0])) << "NaN is not hidden";
  });
}

TEST(Pooling, WrongShapesAreNamed) {
  Device device;
  Tensor x = poisoned(device, {1, 4, 4, 2}), y = poisoned(device, {1, 2, 2, 2});
  EXPECT_THROW(kernels::pooling(device.queue(), Pooling::max, {1, 4, 4, 2, 5, 1, 0}, y.view(), {}, x.view()), Error);
  EXPECT_THROW(kernels::pooling(device.queue(), Pooling::max, {1, 4, 4, 2, 2, 2, 2}, y.view(), {}, x.view()), Error);
  EXPECT_THROW(kernels::pooling(device.queue(), Pooling::max, {1, 5, 4, 2, 2, 2, 0}, y.view(), {}, x.view()), Error);
  EXPECT_THROW(
      kernels::pooling_backward(device.queue(), Pooling::max, {1, 4, 4, 2, 2, 2, 0}, x.view(), y.view(), {}, Write::overwrite),
      Error);
}

TEST(Pooling, ThreadsDoNotMatter) {
  Device device;
  const Queue& q = device.queue();
  PoolingShape s{3, 33, 31, 17, 3, 2, 1};
  Shape xs{3, 33, 31, 17}, ys{3, s.out_height(), s.out_width(), 17};
  Tensor x = make_tensor(device, xs, random_values(count(xs), 1)), dy = make_tensor(device, ys, random_values(count(ys), 2));
  for (Pooling kind : {Pooling::max, Pooling::average}) {
    Tensor index = fresh_index(device, ys);
    View where = kind == Pooling::max ? index.view() : View{};
    expect_same_for_any_threads(
        [&] {
          Tensor y = poisoned(device, ys);
          kernels::pooling(q, kind, s, y.view(), where, x.view());
          return download(q, y);
        },
        "forward");
    expect_same_for_any_threads(
        [&] {
          Tensor dx = poisoned(device, xs);
          kernels::pooling_backward(q, kind, s, dx.view(), dy.view(), where, Write::overwrite);
          return download(q, dx);
        },
        "backward");
  }
}

}  // namespace
}  // namespace lockstep
