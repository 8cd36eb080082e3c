#include "kernels/cross_entropy.h"

#include <gtest/gtest.h>

#include <cmath>

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
    Tensor logits(device, {2, 3}, dtype), targets = make_indices(device, {3}, {0, 0, 0}), loss(device, {2});
    EXPECT_THROW(kernels::cross_entropy(device.queue(), loss.view(), loss.view(), logits.view(), targets.view(), 3, {}), Error);
  });
}

TEST(CrossEntropy, ThreadsDoNotMatter) {
  Device device;
  std::vector<std::int32_t> classes(300);
  for (std::size_t i = 0; i < 300; ++i) classes[i] = std::int32_t(i * 7 % 77);
  Tensor targets = make_indices(device, {300}, classes);
  for (DType dtype : {DType::f32, DType::bf16}) {
    Tensor logits = make_tensor(device, {300, 77}, random_values(300 * 77, 1), dtype), dx(device, {300, 77}, dtype);
    expect_same_for_any_threads(
        [&] {
          Forward f = run(device, logits, targets, {});
          run_backward(device, dx.view(), 0.5f, logits, f, targets, {}, Write::overwrite);
          auto all = download(device.queue(), f.loss), gradient = download(device.queue(), dx);
          all.insert(all.end(), gradient.begin(), gradient.end());
          return all;
        },
        "cross-entropy");
  }
}

}  // namespace
}  // namespace lockstep
