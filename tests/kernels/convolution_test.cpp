#include "kernels/convolution.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;
using kernels::ConvolutionShape;

ConvolutionShape shape_of(const GoldenCase& c) {
  auto n = [&](const char* name) { return std::int64_t(c.number(name)); };
  return {.batch = n("batch"),
          .height = n("height"),
          .width = n("width"),
          .in = n("in"),
          .out = n("out"),
          .kernel_height = n("kernel_height"),
          .kernel_width = n("kernel_width"),
          .stride = n("stride"),
          .padding = n("padding"),
          .dilation = n("dilation"),
          .groups = n("groups")};
}

TEST(Convolution, Golden) {
  for_each_golden("convolution", [](Device& device, DType dtype, const GoldenCase& c) {
    ConvolutionShape s = shape_of(c);
    const Queue& q = device.queue();
    Tensor x = c.load(device, "x", dtype), w = c.load(device, "w", dtype), bias = c.load(device, "bias", dtype),
           dy = c.load(device, "dy", dtype);
    Tensor y = poisoned(device, c["y"].shape, dtype);
    kernels::convolution(q, s, y.view(), x.view(), w.view(), bias.view());
    expect_close(device, y, c["y"].values, dtype, "y");

    // Without a bias, the difference is the bias.
    Tensor plain = poisoned(device, c["y"].shape, dtype);
    kernels::convolution(q, s, plain.view(), x.view(), w.view(), {});
    auto expected = c["y"].values;
    for (std::size_t i = 0; i < expected.size(); ++i) expected[i] -= c["bias"].values[i % std::size_t(s.out)];
    expect_close(device, plain, expected, dtype, "y without bias");

    expect_gradient(
        device, x.shape(), dtype, c["dx"].values,
        [&](View dx, Write write) { kernels::convolution_backward_data(q, s, dx, dy.view(), w.view(), write); }, "dx");
    for (DType parameters : {dtype, DType::f32})
      expect_gradient(
          device, w.shape(), parameters, dtype, c["dw"].values,
          [&](View dw, Write write) { kernels::convolution_backward_weights(q, s, dw, dy.view(), x.view(), write); }, "dw");
  });
}

/// The sums of the definition, for a square kernel of odd side that keeps the size of the images; gradients also added to what is there.
void expect_definition(const ConvolutionShape& s) {
  const std::int64_t images = s.batch * s.height * s.width, side = s.kernel_width, taps = side * side;
  auto x_values = random_values(images * s.in, 1), w_values = random_values(s.out * taps * s.in, 2),
       dy_values = random_values(images * s.out, 3);
  std::vector<double> y(std::size_t(images * s.out)), dx(std::size_t(images * s.in)), dw(std::size_t(s.out * taps * s.in));
  for (std::int64_t n = 0; n < s.batch; ++n)
    for (std::int64_t h = 0; h < s.height; ++h)
      for (std::int64_t w = 0; w < s.width; ++w)
        for (std::int64_t tap = 0; tap < taps; ++tap) {
          std::int64_t from_h = h + (tap / side - side / 2) * s.dilation, from_w = w + (tap % side - side / 2) * s.dilation;
          if (from_h < 0 || from_h >= s.height || from_w < 0 || from_w >= s.width) continue;
          for (std::int64_t o = 0; o < s.out; ++o) {
            auto at_y = std::size_t(((n * s.height + h) * s.width + w) * s.out + o);
            auto at_x = std::size_t(((n * s.height + from_h) * s.width + from_w) * s.in),
                 at_w = std::size_t((o * taps + tap) * s.in);
            for (std::size_t i = 0; i < std::size_t(s.in); ++i) {
              y[at_y] += double(x_values[at_x + i]) * w_values[at_w + i];
              dx[at_x + i] += double(dy_values[at_y]) * w_values[at_w + i];
              dw[at_w + i] += double(dy_values[at_y]) * x_values[at_x + i];
            }
          }
        }
  auto largest_error = [](const std::vector<float>& found, const std::vector<double>& wanted) {
    double error = 0, most = 0;
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      error = std::max(error, std::abs(double(found[i]) - wanted[i]));
      most = std::max(most, std::abs(wanted[i]));
    }
    return error / most;
  };
  for (auto& owner : devices()) {
    Device& device = *owner;
    const Queue& q = device.queue();
    Tensor x(device, {images * s.in}), w(device, {s.out * taps * s.in}), up(device, {images * s.out});
    upload(q, x, x_values);
    upload(q, w, w_values);
    upload(q, up, dy_values);
    Tensor out(device, {images * s.out}), to_x(device, {images * s.in}), to_w(device, {s.out * taps * s.in});
    kernels::convolution(q, s, out.view(), x.view(), w.view(), {});
    kernels::convolution_backward_data(q, s, to_x.view(), up.view(), w.view(), Write::overwrite);
    kernels::convolution_backward_weights(q, s, to_w.view(), up.view(), x.view(), Write::overwrite);
    EXPECT_LT(largest_error(download(q, out), y), 1e-5);
    EXPECT_LT(largest_error(download(q, to_x), dx), 1e-5);
    EXPECT_LT(largest_error(download(q, to_w), dw), 1e-5);
    kernels::convolution_backward_data(q, s, to_x.view(), up.view(), w.view(), Write::accumulate);
    kernels::convolution_backward_weights(q, s, to_w.view(), up.view(), x.view(), Write::accumulate);
    for (auto* sums : {&dx, &dw})
      for (double& v : *sums) v *= 2;
    EXPECT_LT(largest_error(download(q, to_x), dx), 1e-5);
    EXPECT_LT(largest_error(download(q, to_w), dw), 1e-5);
    for (auto* sums : {&dx, &dw})
      for (double& v : *sums) v /= 2;
    const std::int64_t half = s.out / 2;  // a bias of ones for the first half of the channels
    std::vector<float> bias_values(std::size_t(s.out), 0.f);
    std::fill_n(bias_values.begin(), half, 1.f);
    Tensor bias(device, {s.out});
    upload(q, bias, bias_values);
    kernels::convolution(q, s, out.view(), x.view(), w.view(), bias.view());
    auto with_bias = y;
    for (std::size_t i = 0; i < with_bias.size(); ++i) with_bias[i] += bias_values[i % std::size_t(s.out)];
    EXPECT_LT(largest_error(download(q, out), with_bias), 1e-5);
  }
}

TEST(Convolution, StatisticsAreThoseOfTheResult) {
  const ConvolutionShape shapes[] = {
      {.batch = 5, .height = 13, .width = 11, .in = 64, .out = 64, .kernel_height = 3, .kernel_width = 3, .padding = 1},
      {.batch = 16, .height = 28, .width = 28, .in = 64, .out = 64, .kernel_height = 1, .kernel_width = 1},
      {.batch = 3, .height = 9, .width = 9, .in = 64, .out = 128, .kernel_height = 1, .kernel_width = 1, .stride = 2},
      {.batch = 2,
       .height = 10,
       .width = 12,
       .in = 3,
       .out = 7,
       .kernel_height = 5,
       .kernel_width = 5,
       .stride = 2,
       .padding = 2}};
  for_each_device([&](Device& device, DType dtype) {
    for (const ConvolutionShape& s : shapes) {
      const Queue& q = device.queue();
      const Shape ys{s.batch, s.out_height(), s.out_width(), s.out}, ws{s.out, s.kernel_height, s.kernel_width, s.in};
      Tensor x = make_tensor(device, {s.batch * s.height * s.width * s.in}, random_values(s.batch * s.height * s.width * s.in, 1),
                             dtype),
             w = make_tensor(device, ws, random_values(count(ws), 2, 0.1f), dtype), y = poisoned(device, ys, dtype),
             plain = poisoned(device, ys, dtype), mean = poisoned(device, {s.out}), variance = poisoned(device, {s.out});
      kernels::convolution_statistics(q, s, y.view(), mean.view(), variance.view(), x.view(), w.view());
      auto first = download(q, mean), spread = download(q, variance);
      for (int run = 0; run < 3; ++run) {  // the same bits each run
        kernels::convolution_statistics(q, s, y.view(), mean.view(), variance.view(), x.view(), w.view());
        EXPECT_EQ(download(q, mean), first);
        EXPECT_EQ(download(q, variance), spread);
      }
      kernels::convolution(q, s, plain.view(), x.view(), w.view(), {});
      expect_close(device, y, download(q, plain), dtype, "y");
      auto values = download(q, y);
      const auto channels = std::size_t(s.out);
      const double rows = double(values.size() / channels);
      std::vector<double> m(channels, 0.0), v(channels, 0.0);
      for (std::size_t i = 0; i < values.size(); ++i) m[i % channels] += double(values[i]) / rows;
      for (std::size_t i = 0; i < values.size(); ++i) v[i % channels] += std::pow(double(values[i]) - m[i % channels], 2) / rows;
      // On a GPU the sums may be those of y before it was rounded.
      expect_close(device, mean, {m.begin(), m.end()}, dtype, "mean");
      expect_close(device, variance, {v.begin(), v.end()}, dtype, "variance");
    }
  });
}

/// Wide 3 x 3 kernels take Winograd's algorithm where the library has it.
TEST(Convolution, Wide) {
  expect_definition(
      {.batch = 2, .height = 20, .width = 19, .in = 128, .out = 144, .kernel_height = 3, .kernel_width = 3, .padding = 1});
}

/// Kernels of one pixel go by matrix products where the CPU has AMX.
TEST(Convolution, OnePixelIsAMatrixProduct) {
  expect_definition({.batch = 3, .height = 9, .width = 7, .in = 128, .out = 144, .kernel_height = 1, .kernel_width = 1});
}

/// Large kernels go by AMX where the CPU has it.
TEST(Convolution, LargeKernel) {
  expect_definition(
      {.batch = 3, .height = 14, .width = 14, .in = 32, .out = 64, .kernel_height = 5, .kernel_width = 5, .padding = 2});
}

/// Small images with many channels go by the taps of the kernel on the CPU.
TEST(Convolution, SmallImages) {
  ConvolutionShape s{
      .batch = 3, .height = 4, .width = 5, .in = 128, .out = 144, .kernel_height = 3, .kernel_width = 3, .padding = 1};
  expect_definition(s);
  s.height = 2;
  expect_definition(s);
  s.height = s.width = 6, s.padding = s.dilation = 2;
  expect_definition(s);
}

TEST(Convolution, Derivatives) {
  for (auto& device : devices()) {
    ConvolutionShape s{.batch = 2,
                       .height = 6,
                       .width = 5,
                       .in = 4,
                       .out = 6,
                       .kernel_height = 3,
                       .kernel_width = 2,
                       .stride = 2,
                       .padding = 1,
                       .dilation = 1,
                       .groups = 2};
    const Queue& q = device->queue();
    Shape xs{2, 6, 5, 4}, ws{6, 3, 2, 2}, ys{2, s.out_height(), s.out_width(), 6};
    auto forward = [&](const Values& in) {
      Tensor x = make_tensor(*device, xs, in[0]), w = make_tensor(*device, ws, in[1]), y = poisoned(*device, ys);
      kernels::convolution(q, s, y.view(), x.view(), w.view(), {});
      return download(q, y);
    };
    auto backward = [&](const Values& in, const std::vector<float>& up) {
      Tensor x = make_tensor(*device, xs, in[0]), w = make_tensor(*device, ws, in[1]), dy = make_tensor(*device, ys, up);
      Tensor dx = poisoned(*device, xs), dw = poisoned(*device, ws);
      kernels::convolution_backward_data(q, s, dx.view(), dy.view(), w.view(), Write::overwrite);
      kernels::convolution_backward_weights(q, s, dw.view(), dy.view(), x.view(), Write::overwrite);
      return Values{download(q, dx), download(q, dw)};
    };
    EXPECT_LE(derivative_error({random_values(count(xs), 1), random_values(count(ws), 2)}, forward, backward), 1e-3);
  }
}

TEST(Convolution, NoImages) {
  for_each_device([](Device& device, DType dtype) {
    ConvolutionShape s{.batch = 0, .height = 4, .width = 4, .in = 2, .out = 3, .kernel_height = 3, .kernel_width = 3};
    View nothing{nullptr, 0, dtype};
    Tensor w = make_tensor(device, {3, 3, 3, 2}, random_values(54, 1), dtype), dw = poisoned(device, {3, 3, 3, 2}, dtype);
    kernels::convolution(device.queue(), s, nothing, nothing, w.view(), {});
    kernels::convolution_backward_data(device.queue(), s, nothing, nothing, w.view(), Write::overwrite);
    kernels::convolution_backward_weights(device.queue(), s, dw.view(), nothing, nothing, Write::overwrite);
    EXPECT_EQ(download(device.queue(), dw), std::vector<float>(54, 0.f));
  });
}

TEST(Convolution, WrongShapesAreNamed) {
  Device device;
  Tensor x = poisoned(device, {1, 4, 4, 2}), w = poisoned(device, {3, 3, 3, 2}), y = poisoned(device, {1, 2, 2, 3});
  auto fails = [&](ConvolutionShape s, const char* text) {
    try {
      kernels::convolution(device.queue(), s, y.view(), x.view(), w.view(), {});
      ADD_FAILURE() << text;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
    }
  };
  ConvolutionShape good{.batch = 1, .height = 4, .width = 4, .in = 2, .out = 3, .kernel_height = 3, .kernel_width = 3};
  kernels::convolution(device.queue(), good, y.view(), x.view(), w.view(), {});
  ConvolutionShape s = good;
  s.groups = 2;
  fails(s, "2 groups do not divide 2 and 3 channels");
  s = good;
  s.kernel_height = 5;
  fails(s, "the filter is larger than the padded image of 4 x 4");
  s = good;
  s.stride = 0;
  fails(s, "stride 0");
  Tensor mean = poisoned(device, {3}), variance = poisoned(device, {3});
  EXPECT_THROW(
      kernels::convolution_statistics(device.queue(), s, y.view(), mean.view(), variance.view(), x.view(), w.view()), Error);
  s = good;
  s.batch = 2;
  fails(s, "x has 32 elements, its shape 64");
}

TEST(Convolution, Repeats) {
  for_each_device([](Device& device, DType dtype) {
    ConvolutionShape s{
        .batch = 16, .height = 14, .width = 14, .in = 32, .out = 33, .kernel_height = 3, .kernel_width = 3, .padding = 1};
    Shape xs{16, 14, 14, 32}, ws{33, 3, 3, 32}, ys{16, 14, 14, 33};
    Tensor x = make_tensor(device, xs, random_values(count(xs), 1), dtype),
           w = make_tensor(device, ws, random_values(count(ws), 2), dtype),
           dy = make_tensor(device, ys, random_values(count(ys), 3), dtype);
    Values first;
    for (int run = 0; run < 3; ++run) {
      Device fresh(device.kind());  // primitives made anew
      const Queue& q = fresh.queue();
      Tensor y = poisoned(device, ys, dtype), dx = poisoned(device, xs, dtype), dw = poisoned(device, ws);
      kernels::convolution(q, s, y.view(), x.view(), w.view(), {});
      kernels::convolution_backward_data(q, s, dx.view(), dy.view(), w.view(), Write::overwrite);
      kernels::convolution_backward_weights(q, s, dw.view(), dy.view(), x.view(), Write::overwrite);
      Values now{download(q, y), download(q, dx), download(q, dw)};
      if (run == 0) first = now;
      ASSERT_EQ(now, first);
    }
  });
}

// By taps, of small whole numbers, whose sums are exact in any order: oneDNN may divide sums among threads, what we gather and add
// around its products is the same for any number of them.
TEST(Convolution, ThreadsDoNotMatter) {
  Device device(DeviceKind::cpu);
  const Queue& q = device.queue();
  ConvolutionShape s{
      .batch = 32, .height = 4, .width = 4, .in = 256, .out = 320, .kernel_height = 3, .kernel_width = 3, .padding = 1};
  Shape xs{32, 4, 4, 256}, ws{320, 3, 3, 256}, ys{32, 4, 4, 320};
  auto whole = [&](const Shape& shape, std::uint64_t seed) {
    auto values = random_values(count(shape), seed);
    for (float& v : values) v = std::round(4 * v);
    return make_tensor(device, shape, values);
  };
  Tensor x = whole(xs, 1), w = whole(ws, 2), dy = whole(ys, 3);
  const int before = omp_get_max_threads();
  Values first;
  for (int threads : {1, 2, 3, 8}) {
    omp_set_num_threads(threads);
    Tensor y = poisoned(device, ys, DType::f32), dx = poisoned(device, xs, DType::f32), dw = poisoned(device, ws, DType::f32);
    kernels::convolution(q, s, y.view(), x.view(), w.view(), {});
    kernels::convolution_backward_data(q, s, dx.view(), dy.view(), w.view(), Write::overwrite);
    kernels::convolution_backward_weights(q, s, dw.view(), dy.view(), x.view(), Write::overwrite);
    Values now{download(q, y), download(q, dx), download(q, dw)};
    if (threads == 1) first = now;
    EXPECT_EQ(now, first) << threads << " threads";
  }
  omp_set_num_threads(before);
}

// Processors without AVX-512 have no bf16 products in oneDNN, which decides once a process: the golden tests run again in
// another.
TEST(Convolution, WithoutBf16Products) {
  std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  std::string command = "DNNL_MAX_CPU_ISA=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 '" + self + "' --gtest_filter='*Golden*' > /dev/null";
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

}  // namespace
}  // namespace lockstep
