#include "kernels/embedding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;

void run_backward(Device& device, View dtable, const Tensor& dy, const Tensor& tokens, Write write) {
  std::int64_t columns = dy.dim(-1);
  Tensor scratch(device, {std::int64_t(kernels::embedding_scratch(tokens.size(), dtable.size / columns))}, DType::u8);
  kernels::embedding_backward(device.queue(), dtable, dy.view(), tokens.view(), columns, write, scratch.view());
}

TEST(Embedding, Golden) {
  for_each_golden("embedding", [](Device& device, DType dtype, const GoldenCase& c) {
    const Queue& q = device.queue();
    Tensor table = c.load(device, "table", dtype), positions = c.load(device, "positions", dtype);
    Tensor tokens = c.load_integers(device, "tokens"), dy = c.load(device, "dy", dtype), y = poisoned(device, dy.shape(), dtype);
    std::int64_t columns = table.dim(-1);
    kernels::embedding(q, y.view(), tokens.view(), table.view(), positions.view(), columns);
    expect_close(device, y, c["y"].values, dtype, "y");
    for (DType gradient : {dtype, DType::f32}) {
      expect_gradient(
          device, table.shape(), gradient, dtype, c["dtable"].values,
          [&](View out, Write write) { run_backward(device, out, dy, tokens, write); }, "dtable");
      expect_gradient(
          device, positions.shape(), gradient, dtype, c["dpositions"].values,
          [&](View out, Write write) { kernels::positions_backward(q, out, dy.view(), columns, write); }, "dpositions");
    }
  });
}

TEST(Embedding, WithoutPositionsItCopies) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    Tensor table = make_tensor(device, {3, 2}, {1, 2, 3, 4, 5, 6}, dtype), tokens = make_indices(device, {4}, {2, 0, -1, 3});
    Tensor y = poisoned(device, {4, 2}, dtype);
    kernels::embedding(q, y.view(), tokens.view(), table.view(), {}, 2);
    auto values = download(q, y);
    EXPECT_EQ(std::vector<float>(values.begin(), values.begin() + 4), (std::vector<float>{5, 6, 1, 2}));
    for (std::size_t i = 4; i < 8; ++i) EXPECT_TRUE(std::isnan(values[i])) << "a token out of range";
    // Its gradient goes nowhere.
    Tensor dy = make_tensor(device, {4, 2}, {1, 1, 2, 2, 4, 4, 8, 8}, dtype), dtable = poisoned(device, {3, 2}, dtype);
    run_backward(device, dtable.view(), dy, tokens, Write::overwrite);
    EXPECT_EQ(download(q, dtable), (std::vector<float>{2, 2, 0, 0, 1, 1}));
  });
}

// Large vocabularies need several passes of the sort, many tokens several of its blocks. Sums of whole numbers are exact in f32,
// so every order gives one answer; the order itself is tested by the rounding of the last element.
TEST(Embedding, ManyTokensLargeVocabularies) {
  for (auto& device : devices())
    for (std::int64_t rows : {1, 255, 256, 257, 65535, 70000}) {
      std::int64_t n = 3001;
      std::vector<std::int32_t> ids(std::size_t(n), 0);
      std::vector<float> up(std::size_t(2 * n), 0.f);
      std::map<std::int32_t, double> sums;
      std::map<std::int32_t, float> in_order;
      for (std::int64_t i = 0; i < n; ++i) {
        auto k = std::size_t(i);
        ids[k] = std::int32_t(random_word({5}, std::uint64_t(i)) % std::uint64_t(rows));
        if (i % 3 == 0) ids[k] = std::int32_t(rows - 1);
        up[2 * k] = float(i % 17 - 8);
        up[2 * k + 1] = i % 2 ? 1e-3f * float(i) : 1e4f / float(i + 1);
        sums[ids[k]] += up[2 * k];
        in_order[ids[k]] += up[2 * k + 1];
      }
      Tensor dy = make_tensor(*device, {n, 2}, up), tokens = make_indices(*device, {n}, ids),
             dtable = poisoned(*device, {rows, 2});
      run_backward(*device, dtable.view(), dy, tokens, Write::overwrite);
      auto values = download(device->queue(), dtable);
      for (std::int64_t r = 0; r < rows; ++r) {
        bool named = sums.contains(std::int32_t(r));
        ASSERT_EQ(values[std::size_t(2 * r)], named ? float(sums[std::int32_t(r)]) : 0.f) << rows << " rows, token " << r;
        ASSERT_EQ(values[std::size_t(2 * r + 1)], named ? in_order[std::int32_t(r)] : 0.f) << rows << " rows, token " << r;
      }
    }
}

TEST(Embedding, NoTokensAndWrongSizes) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    Tensor table = make_tensor(device, {3, 2}, {1, 2, 3, 4, 5, 6}, dtype), dtable = poisoned(device, {3, 2});
    View nothing{nullptr, 0, dtype}, no_tokens{nullptr, 0, DType::i32};
    kernels::embedding(q, nothing, no_tokens, table.view(), {}, 2);
    Tensor scratch(device, {std::int64_t(kernels::embedding_scratch(0, 3))}, DType::u8);
    kernels::embedding_backward(q, dtable.view(), nothing, no_tokens, 2, Write::overwrite, scratch.view());
    EXPECT_EQ(download(q, dtable), std::vector<float>(6, 0.f));
    Tensor tokens = make_indices(device, {4}, {0, 1, 2, 0}), y(device, {3, 2}, dtype);
    EXPECT_THROW(kernels::embedding(q, y.view(), tokens.view(), table.view(), {}, 2), Error);
    EXPECT_THROW(kernels::embedding_backward(q, dtable.view(), y.view(), tokens.view(), 2, Write::overwrite, {}), Error);
  });
}

TEST(Embedding, ThreadsDoNotMatter) {
  Device device;
  std::int64_t n = 2000, columns = 65, rows = 300;
  std::vector<std::int32_t> ids(std::size_t(n), 0);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = std::int32_t(random_word({5}, i) % 300);
  Tensor tokens = make_indices(device, {n}, ids);
  for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    Tensor dy = make_tensor(device, {n, columns}, random_values(n * columns, 1), dtype), dtable(device, {rows, columns});
    Tensor dpositions(device, {100, columns});
    expect_same_for_any_threads(
        [&] {
          run_backward(device, dtable.view(), dy, tokens, Write::overwrite);
          return download(device.queue(), dtable);
        },
        "dtable");
    expect_same_for_any_threads(
        [&] {
          kernels::positions_backward(device.queue(), dpositions.view(), dy.view(), columns, Write::overwrite);
          return download(device.queue(), dpositions);
        },
        "dpositions");
  }
}

}  // namespace
}  // namespace lockstep
