#include "kernels/cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>
#include <utility>

#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;
using kernels::CrossEntropyOptions;

struct Forward {
  Tensor loss, log_sum;
};

Forward run(Device& device, const Tensor& logits, const Tensor& targets, CrossEntropyOptions options) {
  Forward f{poisoned(device, {logits.rows()}), poisoned(device, {logits.rows()})};
  kernels::cross_entropy(device.queue(), f.loss.view(), f.log_sum.view(), logits.view(), targets.view(), logits.dim(-1), options);
  return f;
}

void run_backward(Device& device, View dlogits, float seed, const Tensor& logits, const Forward& f, const Tensor& targets,
                  CrossEntropyOptions options, Write write) {
  Tensor seeds = make_tensor(device, {1}, {seed});
  kernels::cross_entropy_backward(device.queue(), dlogits, seeds.view(), logits.view(), f.log_sum.view(), targets.view(),
                                  logits.dim(-1), options, write);
}

TEST(CrossEntropy, Golden) {
  for_each_golden("cross_entropy", [](Device& device, DType dtype, const GoldenCase& c) {
    Tensor logits = c.load(device, "logits", dtype), targets = c.load_integers(device, "targets");
    CrossEntropyOptions options{.label_smoothing = float(c.number("smoothing"))};
    Forward f = run(device, logits, targets, options);
    expect_close(device, f.loss, c["y"].values, DType::f32, "loss");  // f32 whatever the logits
    expect_close(device, f.log_sum, c["log_sum"].values, DType::f32, "log sum");
    expect_gradient(
        device, logits.shape(), dtype, c["dlogits"].values,
        [&](View dx, Write write) { run_backward(device, dx, 1, logits, f, targets, options, write); }, "dlogits");
    // The seed multiplies; the gradient may replace the logits.
    std::vector<float> tripled = c["dlogits"].values;
    for (float& v : tripled) v *= -3;
    run_backward(device, logits.view(), -3, logits, f, targets, options, Write::overwrite);
    expect_close(device, logits, tripled, dtype, "in place");
  });
}

// One pass in place gives what two give: on the CPU to the last bit, labels that are smoothed, ignored or out of range included.
TEST(CrossEntropy, InPlaceIsForwardAndBackward) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    for (std::int64_t columns : {1, 5, 77, 1000, 33333})
      for (float smoothing : {0.f, 0.1f}) {
        SCOPED_TRACE(device.name() + " " + name_of(dtype) + " " + std::to_string(columns));
        CrossEntropyOptions options{.ignore_index = -7, .label_smoothing = smoothing};
        auto last = std::int32_t(columns - 1);
        Tensor targets = make_indices(device, {6}, {0, last, -7, last / 2, last + 1, -1});
        auto values = random_values(6 * columns, 5, 3);
        if (columns > 4) values[std::size_t(columns) + std::size_t(columns) / 3] = -INFINITY;  // a mask
        Tensor logits = make_tensor(device, {6, columns}, values, dtype), dx = poisoned(device, {6, columns}, dtype);
        Forward f = run(device, logits, targets, options);
        run_backward(device, dx.view(), 0.37f, logits, f, targets, options, Write::overwrite);
        Tensor loss = poisoned(device, {6}), seed = make_tensor(device, {1}, {0.37f});
        kernels::cross_entropy_in_place(q, loss.view(), logits.view(), seed.view(), targets.view(), columns, options);
        auto finite = [&](const Tensor& x, std::int64_t each) {  // of the rows with a target in range
          auto all = download(q, x);
          for (std::size_t i = 4 * std::size_t(each); i < all.size(); ++i) EXPECT_TRUE(std::isnan(all[i])) << i;
          return std::vector<float>(all.begin(), all.begin() + 4 * each);
        };
        auto one = finite(logits, columns), two = finite(dx, columns), l = finite(loss, 1), m = finite(f.loss, 1);
        if (device.kind() == DeviceKind::cpu) {
          EXPECT_EQ(one, two);
          EXPECT_EQ(l, m);
        } else {
          EXPECT_LT(relative_norm(one, two), dtype == DType::f32 ? 1e-5 : 1e-2);
          for (std::size_t i = 0; i < l.size(); ++i)  // a masked class makes a smoothed loss infinite
            if (std::isinf(m[i])) {
              EXPECT_EQ(std::exchange(l[i], 0.f), std::exchange(m[i], 0.f)) << i;
            }
          EXPECT_LT(relative_norm(l, m), 1e-5);
        }
        // Another seed afterwards.
        Tensor other = make_tensor(device, {1}, {-0.74f}), zero = make_tensor(device, {1}, {0.f});
        Tensor rows = Tensor({4, columns}, logits.view().slice(0, 4 * columns));
        for (float& v : two) v *= -2;
        kernels::cross_entropy_reseed(q, rows.view(), other.view(), seed.view());
        expect_close(device, rows, two, dtype, "reseeded");
        kernels::cross_entropy_reseed(q, rows.view(), other.view(), zero.view());
        EXPECT_EQ(download(q, rows), std::vector<float>(std::size_t(4 * columns), 0.f));
      }
  });
}

// Rows as wide as a vocabulary, at any width and beginning anywhere, against sums in double.
TEST(CrossEntropy, WideRows) {
  for_each_device([](Device& device, DType dtype) {
    for (std::int64_t columns : {8192, 8193, 50257, 50304, 300001}) {
      SCOPED_TRACE(device.name() + " " + name_of(dtype) + " " + std::to_string(columns));
      const Queue& q = device.queue();
      const std::size_t n = std::size_t(columns);
      const std::vector<std::int32_t> at = {0, std::int32_t(columns - 1), 8191};
      Tensor logits = make_tensor(device, {3, columns}, random_values(3 * columns, 5, 3), dtype),
             targets = make_indices(device, {3}, at);
      const auto x = download(q, logits);
      std::vector<double> gradient(3 * n), losses;
      for (std::size_t r = 0; r < 3; ++r) {
        double total = 0;
        for (std::size_t c = 0; c < n; ++c) total += std::exp(double(x[r * n + c]));
        for (std::size_t c = 0; c < n; ++c) gradient[r * n + c] = 0.5 * std::exp(double(x[r * n + c])) / total;
        gradient[r * n + std::size_t(at[r])] -= 0.5;
        losses.push_back(std::log(total) - double(x[r * n + std::size_t(at[r])]));
      }
      Tensor loss = poisoned(device, {3}), seed = make_tensor(device, {1}, {0.5f}), dx = poisoned(device, {3, columns}, dtype);
      Forward f = run(device, logits, targets, {});
      run_backward(device, dx.view(), 0.5f, logits, f, targets, {}, Write::overwrite);
      kernels::cross_entropy_in_place(q, loss.view(), logits.view(), seed.view(), targets.view(), columns, {});
      const double tolerance = dtype == DType::f32 ? 1e-5 : 1e-2;
      EXPECT_LT(relative_norm(download(q, f.loss), losses), 1e-5);
      EXPECT_LT(relative_norm(download(q, loss), losses), 1e-5);
      EXPECT_LT(relative_norm(download(q, dx), gradient), tolerance);
      EXPECT_LT(relative_norm(download(q, logits), gradient), tolerance) << "in place";
    }
  });
}

TEST(CrossEntropy, Derivatives) {
  for (auto& device : devices())
    for (float smoothing : {0.f, 0.2f}) {
      CrossEntropyOptions options{.label_smoothing = smoothing};
      Tensor targets = make_indices(*device, {6}, {0, 20, 7, -100, 3, 3});
      auto forward = [&](const Values& in) {
        return download(device->queue(), run(*device, make_tensor(*device, {6, 21}, in[0]), targets, options).loss);
      };
      // The upstream of every row is one number, the seed: rows are weighted one at a time.
      auto backward = [&](const Values& in, const std::vector<float>& up) {
        Tensor logits = make_tensor(*device, {6, 21}, in[0]), dx = poisoned(*device, {6, 21});
        run_backward(*device, dx.view(), 1, logits, run(*device, logits, targets, options), targets, options, Write::overwrite);
        auto gradient = download(device->queue(), dx);
        for (std::size_t i = 0; i < gradient.size(); ++i) gradient[i] *= up[i / 21];
        return Values{gradient};
      };
      EXPECT_LE(derivative_error({random_values(126, 3)}, forward, backward), 1e-3);
    }
}

TEST(CrossEntropy, IgnoredRowsGiveNothing) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    for (std::int32_t ignored : {-100, 2}) {
      CrossEntropyOptions options{.ignore_index = ignored, .label_smoothing = 0.1f};
      Tensor logits = make_tensor(device, {3, 5}, random_values(15, 1), dtype);
      Tensor targets = make_indices(device, {3}, {ignored, ignored, ignored});
      Forward f = run(device, logits, targets, options);
      EXPECT_EQ(download(q, f.loss), (std::vector<float>{0, 0, 0}));
      expect_gradient(
          device, logits.shape(), dtype, std::vector<float>(15, 0.f),
          [&](View dx, Write write) { run_backward(device, dx, 1, logits, f, targets, options, write); }, "dlogits");
    }
  });
}

TEST(CrossEntropy, TargetsOutOfRangeAreSeen) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    Tensor logits = make_tensor(device, {4, 3}, random_values(12, 1), dtype);
    Tensor targets = make_indices(device, {4}, {3, -1, 2, 2147483647}), dx = poisoned(device, {4, 3}, dtype);
    Forward f = run(device, logits, targets, {});
    auto loss = download(q, f.loss);
    EXPECT_TRUE(std::isnan(loss[0]) && std::isnan(loss[1]) && std::isfinite(loss[2]) && std::isnan(loss[3]));
    run_backward(device, dx.view(), 1, logits, f, targets, {}, Write::overwrite);
    auto gradient = download(q, dx);
    for (std::size_t i = 0; i < 12; ++i) EXPECT_EQ(std::isnan(gradient[i]), i / 3 != 2) << i;
  });
}

TEST(CrossEntropy, LargeLogitsAndMasks) {
  for (auto& device : devices()) {
    Tensor logits = make_tensor(*device, {2, 3}, {1e4f, 0, -1e4f, 2, -INFINITY, 2}), targets = make_indices(*device, {2}, {1, 0});
    auto loss = download(device->queue(), run(*device, logits, targets, {}).loss);
    EXPECT_FLOAT_EQ(loss[0], 1e4f);
    EXPECT_FLOAT_EQ(loss[1], std::log(2.f));
  }
}

TEST(CrossEntropy, NoRowsAndWrongSizes) {
  for_each_device([](Device& device, DType dtype) {
    View nothing{nullptr, 0, dtype}, none{nullptr, 0, DType::f32}, no_targets{nullptr, 0, DType::i32};
    kernels::cross_entropy(device.queue(), none, none, nothing, no_targets, 7, {});
    Tensor seed = make_tensor(device, {1}, {1});
    kernels::cross_entropy_in_place(device.queue(), none, nothing, seed.view(), no_targets, 7, {});
    Tensor logits(device, {2, 3}, dtype), targets = make_indices(device, {3}, {0, 0, 0}), loss(device, {2});
    EXPECT_THROW(kernels::cross_entropy(device.queue(), loss.view(), loss.view(), logits.view(), targets.view(), 3, {}), Error);
  });
}

TEST(CrossEntropy, ThreadsDoNotMatter) {
  Device device;
  std::vector<std::int32_t> classes(300);
  for (std::size_t i = 0; i < 300; ++i) classes[i] = std::int32_t(i * 7 % 77);
  Tensor targets = make_indices(device, {300}, classes);
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Tensor logits = make_tensor(device, {300, 77}, random_values(300 * 77, 1), dtype), dx(device, {300, 77}, dtype);
    expect_same_for_any_threads(
        [&] {
          Forward f = run(device, logits, targets, {});
          run_backward(device, dx.view(), 0.5f, logits, f, targets, {}, Write::overwrite);
          auto all = download(device.queue(), f.loss), gradient = download(device.queue(), dx);
          Tensor again = make_tensor(device, {300, 77}, random_values(300 * 77, 1), dtype),
                 seed = make_tensor(device, {1}, {0.5f});
          kernels::cross_entropy_in_place(device.queue(), f.loss.view(), again.view(), seed.view(), targets.view(), 77, {});
          EXPECT_EQ(download(device.queue(), again), gradient);
          all.insert(all.end(), gradient.begin(), gradient.end());
          return all;
        },
        "cross-entropy");
  }
}

}  // namespace
}  // namespace lockstep
