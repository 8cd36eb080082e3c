#include "kernels/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;
using kernels::AttentionShape;

constexpr RandomKey key{11, 5, 2, 99};

struct Forward {
  Tensor y, log_sum;
};

Forward run(Device& device, const AttentionShape& s, const Tensor& qkv, RandomKey k = key) {
  Forward f{poisoned(device, {s.batch, s.length, s.heads, s.size}, qkv.dtype()), poisoned(device, {s.batch, s.heads, s.length})};
  kernels::attention(device.queue(), s, f.y.view(), f.log_sum.view(), qkv.view(), k);
  return f;
}

Tensor run_backward(Device& device, const AttentionShape& s, const Tensor& qkv, const Forward& f, const Tensor& dy,
                    RandomKey k = key) {
  Tensor dqkv = poisoned(device, qkv.shape(), qkv.dtype());
  Tensor scratch(device, {std::int64_t(kernels::attention_scratch(s))}, DType::u8);
  kernels::attention_backward(device.queue(), s, dqkv.view(), dy.view(), f.y.view(), f.log_sum.view(), qkv.view(), k,
                              scratch.view());
  return dqkv;
}

Tensor random_qkv(Device& device, const AttentionShape& s, DType dtype = DType::f32, std::uint64_t seed = 1) {
  Shape shape{s.batch, s.length, 3, s.heads, s.size};
  return make_tensor(device, shape, random_values(count(shape), seed), dtype);
}

/// The definition in double, with dropout drawn element by element; gives y.
std::vector<double> direct(const AttentionShape& s, const std::vector<float>& qkv, RandomKey k) {
  auto at = [&](std::int64_t b, std::int64_t l, int part, std::int64_t h, std::int64_t d) {
    return double(qkv[std::size_t((((b * s.length + l) * 3 + part) * s.heads + h) * s.size + d)]);
  };
  double scale = s.scale != 0 ? double(s.scale) : 1 / std::sqrt(double(s.size));
  std::vector<double> y(qkv.size() / 3, 0.0);
  for (std::int64_t b = 0; b < s.batch; ++b)
    for (std::int64_t h = 0; h < s.heads; ++h)
      for (std::int64_t i = 0; i < s.length; ++i) {
        std::int64_t seen = s.causal ? i + 1 : s.length;
        std::vector<double> p(std::size_t(seen), 0.0);
        double total = 0;
        for (std::int64_t j = 0; j < seen; ++j) {
          double dot = 0;
          for (std::int64_t d = 0; d < s.size; ++d) dot += at(b, i, 0, h, d) * at(b, j, 1, h, d);
          total += p[std::size_t(j)] = std::exp(dot * scale);
        }
        for (std::int64_t j = 0; j < seen; ++j) {
          auto element = std::uint64_t(((b * s.heads + h) * s.length + i) * s.length + j);
          bool kept = to_uniform(random_word(k, element)) >= s.dropout;
          double weight = kept ? p[std::size_t(j)] / total / (1 - double(s.dropout)) : 0;
          for (std::int64_t d = 0; d < s.size; ++d)
            y[std::size_t(((b * s.length + i) * s.heads + h) * s.size + d)] += weight * at(b, j, 2, h, d);
        }
      }
  return y;
}

TEST(Attention, Golden) {
  for_each_golden("attention", [](Device& device, DType dtype, const GoldenCase& c) {
    auto n = [&](const char* name) { return std::int64_t(c.number(name)); };
    AttentionShape s{n("batch"), n("length"), n("heads"), n("size"), n("causal") != 0};
    Tensor qkv = c.load(device, "qkv", dtype);
    Forward f = run(device, s, qkv);
    expect_close(device, f.y, c["y"].values, dtype, "y");
    expect_close(device, f.log_sum, c["log_sum"].values, dtype, "log_sum");
    if (s.length == 1) {  // one key: nothing reaches q and k
      auto dqkv = download(device.queue(), run_backward(device, s, qkv, f, c.load(device, "dy", dtype)));
      EXPECT_NEAR(dqkv[0], 0, 1e-6);
      EXPECT_NEAR(dqkv[1], 0, 1e-6);
    }
    expect_close(device, run_backward(device, s, qkv, f, c.load(device, "dy", dtype)), c["dqkv"].values, dtype, "dqkv");
  });
}

TEST(Attention, AgreesWithItsDefinition) {
  for (auto& device : devices())
    for (bool causal : {true, false})
      for (float dropout : {0.f, 0.25f})
        for (float scale : {0.f, 0.3f})
          for (auto [length, size] : {std::pair{1, 3}, {2, 7}, {7, 1}, {31, 5}, {64, 16}, {97, 33}, {130, 40}, {515, 3}}) {
            AttentionShape s{2, length, 3, size, causal, scale, dropout};
            if (length > 200) s.batch = s.heads = 1;
            Tensor qkv = random_qkv(*device, s);
            EXPECT_LE(
                relative_norm(download(device->queue(), run(*device, s, qkv).y), direct(s, download(device->queue(), qkv), key)),
                1e-5)
                << length << " x " << size << " causal " << causal << " dropout " << dropout << " scale " << scale;
          }
}

TEST(Attention, Derivatives) {
  for (auto& device : devices())
    for (bool causal : {true, false})
      for (float dropout : {0.f, 0.3f})
        for (auto [length, size] : {std::pair{3, 5}, {33, 8}, {150, 4}}) {
          AttentionShape s{2, length, 2, size, causal, 0, dropout};
          Shape xs{2, length, 3, 2, size}, ys{2, length, 2, size};
          auto forward = [&](const Values& in) {
            return download(device->queue(), run(*device, s, make_tensor(*device, xs, in[0])).y);
          };
          auto backward = [&](const Values& in, const std::vector<float>& up) {
            Tensor qkv = make_tensor(*device, xs, in[0]);
            return Values{
                download(device->queue(), run_backward(*device, s, qkv, run(*device, s, qkv), make_tensor(*device, ys, up)))};
          };
          EXPECT_LE(derivative_error({random_values(count(xs), 2)}, forward, backward), 1e-3)
              << length << " x " << size << " causal " << causal << " dropout " << dropout;
        }
}

// With equal scores and values of 1, y is the share of weights kept, divided by 1 - p.
TEST(Attention, DropoutKeepsTheStatedShare) {
  for (auto& device : devices())
    for (float p : {0.1f, 0.5f}) {
      AttentionShape s{4, 64, 4, 1, false, 0, p};
      Shape shape{4, 64, 3, 4, 1};
      std::vector<float> values(std::size_t(count(shape)), 0.f);
      for (std::size_t i = 0; i < values.size(); ++i) values[i] = i / 4 % 3 == 2 ? 1.f : 0.f;
      auto y = download(device->queue(), run(*device, s, make_tensor(*device, shape, values)).y);
      double mean = 0;
      for (float v : y) mean += double(v) / double(y.size());
      double weights = 4 * 4 * 64 * 64;
      EXPECT_NEAR(mean * (1 - p), 1 - p, 5 * std::sqrt(p * (1 - p) / weights));
      auto other = download(device->queue(), run(*device, s, make_tensor(*device, shape, values), {11, 6, 2, 99}).y);
      EXPECT_NE(y, other) << "another step draws other numbers";
    }
}

TEST(Attention, LargeScores) {
  for_each_device([](Device& device, DType dtype) {
    AttentionShape s{1, 40, 1, 8, true, 100.f};
    Tensor qkv = random_qkv(device, s, dtype);
    Forward f = run(device, s, qkv);
    for (float v : download(device.queue(), f.y)) ASSERT_TRUE(std::isfinite(v));
    for (float v : download(device.queue(), run_backward(device, s, qkv, f, f.y))) ASSERT_TRUE(std::isfinite(v));
  });
}

TEST(Attention, EarlierRowsDoNotSeeLaterOnes) {
  for_each_device([](Device& device, DType dtype) {
    AttentionShape s{1, 70, 1, 4};
    Tensor qkv = random_qkv(device, s, dtype);
    auto before = download(device.queue(), run(device, s, qkv).y);
    auto values = download(device.queue(), qkv);
    for (std::size_t i = 65 * 12; i < values.size(); ++i) values[i] = 7;
    auto after = download(device.queue(), run(device, s, make_tensor(device, qkv.shape(), values, dtype)).y);
    EXPECT_TRUE(std::equal(before.begin(), before.begin() + 65 * 4, after.begin()));
    EXPECT_NE(before.back(), after.back());
  });
}

TEST(Attention, NothingAndWrongSizes) {
  Device device;
  View nothing{nullptr, 0, DType::f32};
  kernels::attention(device.queue(), {0, 8, 2, 4}, nothing, nothing, nothing, key);
  AttentionShape s{1, 4, 2, 4};
  Tensor qkv = random_qkv(device, s);
  Forward f = run(device, s, qkv);
  EXPECT_THROW(run(device, {1, 4, 2, 5}, qkv), Error);
  EXPECT_THROW(kernels::attention(device.queue(), {1, 4, 2, 4, true, 0, 1.f}, f.y.view(), f.log_sum.view(), qkv.view(), key),
               Error);
  EXPECT_THROW(kernels::attention_backward(device.queue(), s, qkv.view(), f.y.view(), f.y.view(), f.log_sum.view(), qkv.view(),
                                           key, nothing),
               Error);
}

TEST(Attention, ThreadsDoNotMatter) {
  Device device;
  for (DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (float dropout : {0.f, 0.1f}) {
      AttentionShape s{2, 131, 3, 20, true, 0, dropout};
      Tensor qkv = random_qkv(device, s, dtype);
      Forward f = run(device, s, qkv);
      expect_same_for_any_threads([&] { return download(device.queue(), run(device, s, qkv).y); }, "forward");
      expect_same_for_any_threads([&] { return download(device.queue(), run_backward(device, s, qkv, f, f.y)); }, "backward");
    }
}

// The step's number may lie in the device's memory, where a captured step finds the present one.
TEST(Attention, TheStepIsReadWhereItLies) {
  for_each_device([](Device& device, DType dtype) {
    AttentionShape s{.batch = 1, .length = 33, .heads = 2, .size = 16, .dropout = 0.3f};
    Tensor qkv = random_qkv(device, s, dtype), step = make_indices(device, {1}, {5});
    Tensor dy = make_tensor(device, {1, 33, 2, 16}, random_values(33 * 32, 2), dtype);
    RandomKey there = key;
    there.step = 99;
    there.step_at = step.view().as<std::int32_t>();
    Forward now = run(device, s, qkv, key), read = run(device, s, qkv, there);
    EXPECT_EQ(download(device.queue(), read.y), download(device.queue(), now.y));
    EXPECT_EQ(download(device.queue(), run_backward(device, s, qkv, read, dy, there)),
              download(device.queue(), run_backward(device, s, qkv, now, dy, key)));
    RandomKey other = key;
    other.step = 99;
    EXPECT_NE(download(device.queue(), run(device, s, qkv, other).y), download(device.queue(), now.y));
  });
}

}  // namespace
}  // namespace lockstep
