#include "kernels/batch_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;

struct Forward {
  Tensor y, mean, variance;
};

Forward run(Device& device, const Tensor& x, const Tensor& w, const Tensor& b, float epsilon, bool relu) {
  std::int64_t channels = x.dim(-1);
  Forward f{poisoned(device, x.shape(), x.dtype()), poisoned(device, {channels}), poisoned(device, {channels})};
  kernels::batch_norm(device.queue(), f.y.view(), f.mean.view(), f.variance.view(), x.view(), w.view(), b.view(), channels,
                      epsilon, relu);
  return f;
}

void run_backward(Device& device, View dx, View dw, View db, const Tensor& dy, const Tensor& x, const Tensor& w, const Tensor& b,
                  const Forward& f, float epsilon, bool relu, Write write) {
  kernels::batch_norm_backward(device.queue(), dx, dw, db, dy.view(), x.view(), w.view(), relu ? b.view() : View{}, f.mean.view(),
                               f.variance.view(), x.dim(-1), epsilon, relu, write, write, write);
}

/// The same bits on a CPU; a GPU's compiler may contract two ways of writing a formula differently.
void expect_same(Device& device, const std::vector<float>& one, const std::vector<float>& two, DType dtype) {
  if (device.queue().on_gpu)
    EXPECT_LT(relative_norm(one, two), dtype == DType::f32 ? 1e-6 : 1e-2);
  else
    EXPECT_EQ(one, two);
}

TEST(BatchNorm, Golden) {
  for_each_golden("batch_norm", [](Device& device, DType dtype, const GoldenCase& c) {
    bool relu = c.number("relu") != 0;
    float epsilon = float(c.number("epsilon"));
    Tensor x = c.load(device, "x", dtype), w = c.load(device, "w", dtype), b = c.load(device, "b", dtype),
           dy = c.load(device, "dy", dtype);
    Forward f = run(device, x, w, b, epsilon, relu);
    expect_close(device, f.y, c["y"].values, dtype, "y");
    expect_close(device, f.mean, c["mean"].values, DType::f32, "mean");
    expect_close(device, f.variance, c["variance"].values, DType::f32, "variance");

    Tensor given_mean = make_tensor(device, w.shape(), std::vector<float>(std::size_t(w.size()), 0.25f)),
           given_variance = make_tensor(device, w.shape(), std::vector<float>(std::size_t(w.size()), 2.f)),
           y = poisoned(device, x.shape(), dtype);
    kernels::batch_norm_inference(device.queue(), y.view(), x.view(), w.view(), b.view(), given_mean.view(),
                                  given_variance.view(), {}, x.dim(-1), epsilon, relu);
    expect_close(device, y, c["inference"].values, dtype, "inference");

    for (DType parameters : {dtype, DType::f32}) {
      Tensor dw = poisoned(device, w.shape(), parameters), db = poisoned(device, w.shape(), parameters);
      expect_gradient(
          device, x.shape(), dtype, c["dx"].values,
          [&](View dx, Write write) {
            run_backward(device, dx, dw.view(), db.view(), dy, x, w, b, f, epsilon, relu, write);
            if (write == Write::accumulate) return;
            expect_close(device, dw, c["dw"].values, dtype, "dw with dx");
            expect_close(device, db, c["db"].values, dtype, "db with dx");
          },
          "dx");
      expect_gradient(
          device, w.shape(), parameters, dtype, c["dw"].values,
          [&](View out, Write write) { run_backward(device, {}, out, {}, dy, x, w, b, f, epsilon, relu, write); }, "dw");
      expect_gradient(
          device, w.shape(), parameters, dtype, c["db"].values,
          [&](View out, Write write) { run_backward(device, {}, {}, out, dy, x, w, b, f, epsilon, relu, write); }, "db");
    }
    expect_gradient(
        device, x.shape(), dtype, c["dx"].values,
        [&](View dx, Write write) { run_backward(device, dx, {}, {}, dy, x, w, b, f, epsilon, relu, write); }, "dx alone");
  });
}

TEST(BatchNorm, Derivatives) {
  for (auto& device : devices()) {
    Shape shape{23, 5};
    const Queue& q = device->queue();
    auto forward = [&](const Values& in) {
      Tensor x = make_tensor(*device, shape, in[0]), w = make_tensor(*device, {5}, in[1]), b = make_tensor(*device, {5}, in[2]);
      return download(q, run(*device, x, w, b, 1e-3f, false).y);
    };
    auto backward = [&](const Values& in, const std::vector<float>& up) {
      Tensor x = make_tensor(*device, shape, in[0]), w = make_tensor(*device, {5}, in[1]), b = make_tensor(*device, {5}, in[2]);
      Tensor dy = make_tensor(*device, shape, up), dx = poisoned(*device, shape), dw = poisoned(*device, {5}),
             db = poisoned(*device, {5});
      run_backward(*device, dx.view(), dw.view(), db.view(), dy, x, w, b, run(*device, x, w, b, 1e-3f, false), 1e-3f, false,
                   Write::overwrite);
      return Values{download(q, dx), download(q, dw), download(q, db)};
    };
    EXPECT_LE(derivative_error({random_values(115, 1), random_values(5, 2), random_values(5, 3)}, forward, backward), 1e-3);
  }
}

TEST(BatchNorm, LargeMeansKeepTheirVariance) {
  for (auto& device : devices()) {
    std::vector<float> values(1000);
    for (std::size_t i = 0; i < 1000; ++i) values[i] = 10000 + float(i % 2);  // mean 10000.5, variance 1/4
    Tensor x = make_tensor(*device, {1000, 1}, values), w = make_tensor(*device, {1}, {1}), b = make_tensor(*device, {1}, {0});
    Forward f = run(*device, x, w, b, 0, false);
    EXPECT_NEAR(download(device->queue(), f.variance)[0], 0.25, 1e-5);
    auto y = download(device->queue(), f.y);
    for (std::size_t i = 0; i < 1000; ++i) ASSERT_NEAR(y[i], i % 2 ? 1 : -1, 2e-3);
  }
}

TEST(BatchNorm, StatisticsOfSums) {
  for (auto& device : devices()) {
    const std::int64_t rows = 5003, channels = 37;
    auto values = random_values(rows * channels, 4);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] += float(i % 3);  // means beside 0
    Tensor x = make_tensor(*device, {rows, channels}, values), mean = poisoned(*device, {channels}),
           variance = poisoned(*device, {channels});
    std::vector<double> sum(std::size_t(channels), 0.0), squares(std::size_t(channels), 0.0);
    for (std::size_t i = 0; i < values.size(); ++i) {
      sum[i % std::size_t(channels)] += double(values[i]);
      squares[i % std::size_t(channels)] += double(values[i]) * double(values[i]);
    }
    Tensor s = make_tensor(*device, {channels}, {sum.begin(), sum.end()}),
           q = make_tensor(*device, {channels}, {squares.begin(), squares.end()});
    kernels::batch_norm_statistics_of_sums(device->queue(), mean.view(), variance.view(), s.view(), q.view(), rows);
    auto m = download(device->queue(), mean), v = download(device->queue(), variance);
    kernels::batch_norm_statistics(device->queue(), mean.view(), variance.view(), x.view(), channels);
    auto wanted_mean = download(device->queue(), mean), wanted = download(device->queue(), variance);
    for (std::size_t c = 0; c < m.size(); ++c) {
      EXPECT_NEAR(m[c], wanted_mean[c], 2e-6);
      EXPECT_NEAR(v[c], wanted[c], 1e-5);
    }
  }
}

TEST(BatchNorm, ResidualIsAddedBeforeRelu) {
  for_each_device([](Device& device, DType dtype) {
    const Shape shape{1003, 37};
    const Queue& q = device.queue();
    auto load = [&](const Shape& s, std::uint64_t seed, DType type) {
      return make_tensor(device, s, random_values(count(s), seed), type);
    };
    Tensor x = load(shape, 1, dtype), residual = load(shape, 2, dtype), w = load({37}, 3, dtype), b = load({37}, 4, dtype),
           mean = load({37}, 5, DType::f32), variance = make_tensor(device, {37}, std::vector<float>(37, 0.7f));
    Tensor y = poisoned(device, shape, dtype), plain = poisoned(device, shape, dtype);
    auto apply = [&](const Tensor& to, View added, bool relu) {
      kernels::batch_norm_inference(q, to.view(), x.view(), w.view(), b.view(), mean.view(), variance.view(), added, 37, 1e-5f,
                                    relu);
      return download(q, to);
    };
    auto without = apply(plain, {}, false), added = download(q, residual);
    for (std::size_t i = 0; i < without.size(); ++i) without[i] += added[i];
    auto wanted = download(q, make_tensor(device, shape, without, dtype));  // rounded
    expect_same(device, apply(y, residual.view(), false), wanted, dtype);
    for (float& v : wanted) v = v < 0 ? 0 : v;
    expect_same(device, apply(y, residual.view(), true), wanted, dtype);
  });
}

TEST(BatchNorm, ManyRows) {  // enough of them to share one channel's sums among threads and, on a GPU, among blocks
  for (auto& device : devices())
    for (std::int64_t channels : {1, 3, 64}) {
      std::int64_t rows = 20011;
      auto values = random_values(rows * channels, 4);
      std::vector<double> mean(std::size_t(channels), 0.0), variance(std::size_t(channels), 0.0);
      for (std::size_t i = 0; i < values.size(); ++i) mean[i % std::size_t(channels)] += double(values[i]) / double(rows);
      for (std::size_t i = 0; i < values.size(); ++i) {
        double d = double(values[i]) - mean[i % std::size_t(channels)];
        variance[i % std::size_t(channels)] += d * d / double(rows);
      }
      Tensor x = make_tensor(*device, {rows, channels}, values),
             w = make_tensor(*device, {channels}, std::vector<float>(std::size_t(channels), 1.f)),
             b = make_tensor(*device, {channels}, std::vector<float>(std::size_t(channels), 0.f));
      Forward f = run(*device, x, w, b, 0, false);
      auto m = download(device->queue(), f.mean), v = download(device->queue(), f.variance);
      for (std::size_t c = 0; c < m.size(); ++c) {
        EXPECT_NEAR(m[c], mean[c], 1e-6);
        EXPECT_NEAR(v[c], variance[c], 1e-5);
      }
    }
}

TEST(BatchNorm, ReluIsActiveWhereTheOutputIs) {  // backward computes again what forward cut, and must cut the same elements
  for (auto& device : devices())
    for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      Shape shape{4003, 37};
      auto values = random_values(count(shape), 5), up = random_values(count(shape), 6);
      Tensor x = make_tensor(*device, shape, values, dtype), w = make_tensor(*device, {37}, random_values(37, 7), dtype),
             b = make_tensor(*device, {37}, random_values(37, 8), dtype);
      Forward f = run(*device, x, w, b, 1e-5f, true);
      auto y = download(device->queue(), f.y);
      auto cut = up;
      for (std::size_t i = 0; i < y.size(); ++i) cut[i] = y[i] > 0 ? up[i] : 0;
      auto backward = [&](const std::vector<float>& dy, bool relu) {
        Values results;
        Tensor dx = poisoned(*device, shape, dtype), dw = poisoned(*device, {37}, dtype), db = poisoned(*device, {37}, dtype);
        run_backward(*device, dx.view(), dw.view(), db.view(), make_tensor(*device, shape, dy, dtype), x, w, b, f, 1e-5f, relu,
                     Write::overwrite);
        for (const Tensor& t : {dx, dw, db}) results.push_back(download(device->queue(), t));
        return results;
      };
      EXPECT_EQ(backward(up, true), backward(cut, false)) << name_of(dtype);
    }
}

TEST(BatchNorm, OneFarValueKeepsTheVariance) {  // the first rows of a block, whose mean its distances are taken from, are far off
  for (auto& device : devices()) {
    const std::int64_t rows = 70000;
    auto values = random_values(rows, 9);
    for (std::int64_t r = 0; r < 3; ++r) values[std::size_t(r)] = 3000;
    double mean = 0, variance = 0;
    for (float v : values) mean += double(v) / double(rows);
    for (float v : values) variance += (double(v) - mean) * (double(v) - mean) / double(rows);
    Tensor x = make_tensor(*device, {rows, 1}, values), w = make_tensor(*device, {1}, {1}), b = make_tensor(*device, {1}, {0});
    Forward f = run(*device, x, w, b, 0, false);
    EXPECT_NEAR(download(device->queue(), f.mean)[0], mean, 1e-6 * std::sqrt(variance));
    EXPECT_NEAR(download(device->queue(), f.variance)[0] / variance, 1, 1e-5);
  }
}

TEST(BatchNorm, WrongSizesAreNamed) {
  Device device;
  Tensor x = poisoned(device, {4, 3}), c = poisoned(device, {3}), wrong = poisoned(device, {2});
  View nothing{nullptr, 0, DType::f32};
  const Queue& q = device.queue();
  auto go = [&](View in, View w, std::int64_t channels) {
    kernels::batch_norm(q, in, c.view(), c.view(), in, w, c.view(), channels, 0, false);
  };
  EXPECT_THROW(go(x.view(), c.view(), 5), Error);
  EXPECT_THROW(go(x.view(), wrong.view(), 3), Error);
  EXPECT_THROW(go(nothing, c.view(), 3), Error);
}

TEST(BatchNorm, ThreadsDoNotMatter) {
  Device device;
  Shape shape{3001, 33};
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Tensor x = make_tensor(device, shape, random_values(count(shape), 1), dtype),
           dy = make_tensor(device, shape, random_values(count(shape), 2), dtype),
           w = make_tensor(device, {33}, random_values(33, 3), dtype), b = make_tensor(device, {33}, random_values(33, 4), dtype);
    Forward f;
    expect_same_for_any_threads(
        [&] {
          f = run(device, x, w, b, 1e-5f, true);
          return download(device.queue(), f.y);
        },
        "forward");
    for (int part : {0, 1, 2})
      expect_same_for_any_threads(
          [&] {
            Tensor outputs[] = {poisoned(device, shape, dtype), poisoned(device, {33}), poisoned(device, {33})};
            run_backward(device, outputs[0].view(), outputs[1].view(), outputs[2].view(), dy, x, w, b, f, 1e-5f, true,
                         Write::overwrite);
            return download(device.queue(), outputs[part]);
          },
          "backward");
  }
}

}  // namespace
}  // namespace lockstep
