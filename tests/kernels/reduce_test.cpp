#include "kernels/reduce.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;
using kernels::Reduction;

Reduction reduction_named(const std::string& name) {
  return name == "sum" ? Reduction::sum : name == "mean" ? Reduction::mean : Reduction::max;
}

TEST(Reduce, Golden) {
  for_each_golden("reduce", [](Device& device, DType dtype, const GoldenCase& c) {
    const Queue& q = device.queue();
    Tensor x = c.load(device, "x", dtype);
    std::int64_t columns = x.dim(-1);
    if (c.text("op") == "rows") {
      for (DType result : {dtype, DType::f32})
        expect_gradient(
            device, {columns}, result, dtype, c["y"].values,
            [&](View y, Write write) { kernels::sum_rows(q, y, x.view(), columns, write); }, "sum of rows");
      expect_gradient(
          device, {1}, DType::f32, dtype, c["all"].values, [&](View y, Write write) { kernels::sum_all(q, y, x.view(), write); },
          "sum of all");
      Tensor index(device, {x.rows()}, DType::i32);
      kernels::arg_max(q, index.view(), x.view(), columns);
      EXPECT_EQ(download(q, index), c["arg_max"].values);
      return;
    }
    Reduction kind = reduction_named(c.text("op"));
    for (DType result : {dtype, DType::f32}) {
      Tensor y = poisoned(device, {x.rows()}, result), dy = c.load(device, "dy", result);
      kernels::reduce_columns(q, kind, y.view(), x.view(), columns);
      expect_close(device, y, c["y"].values, dtype, "y");
      expect_gradient(
          device, x.shape(), dtype, c["dx"].values,
          [&](View dx, Write write) {
            kernels::reduce_columns_backward(q, kind, dx, dy.view(), x.view(), y.view(), columns, write);
          },
          "dx");
    }
  });
}

TEST(Reduce, Derivatives) {
  for (auto& device : devices())
    for (Reduction kind : {Reduction::sum, Reduction::mean, Reduction::max}) {
      const Queue& q = device->queue();
      auto forward = [&](const Values& in) {
        Tensor x = make_tensor(*device, {9, 13}, in[0]), y = poisoned(*device, {9});
        kernels::reduce_columns(q, kind, y.view(), x.view(), 13);
        return download(q, y);
      };
      auto backward = [&](const Values& in, const std::vector<float>& up) {
        Tensor x = make_tensor(*device, {9, 13}, in[0]), dy = make_tensor(*device, {9}, up);
        Tensor y = make_tensor(*device, {9}, forward(in)), dx = poisoned(*device, {9, 13});
        kernels::reduce_columns_backward(q, kind, dx.view(), dy.view(), x.view(), y.view(), 13, Write::overwrite);
        return Values{download(q, dx)};
      };
      // A small step, so that no other element becomes the largest; sums are linear, and a larger step leaves less to rounding.
      const float step = kind == Reduction::max ? 1e-3f : 1e-2f;
      EXPECT_LE(derivative_error({random_values(117, 3, 10)}, forward, backward, step), 1e-3) << int(kind);
    }
}

TEST(Reduce, TiesGoToTheFirstAndNanIsSeen) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    Tensor x = make_tensor(device, {4, 3}, {1, 2, 2, NAN, 5, 1, NAN, NAN, NAN, -INFINITY, -INFINITY, INFINITY}, dtype);
    Tensor index(device, {4}, DType::i32), y = poisoned(device, {4}), dx = poisoned(device, {4, 3}, dtype);
    kernels::arg_max(q, index.view(), x.view(), 3);
    EXPECT_EQ(download(q, index), (std::vector<float>{1, 1, -1, 2}));
    kernels::reduce_columns(q, Reduction::max, y.view(), x.view(), 3);
    auto most = download(q, y);
    EXPECT_EQ(most[0], 2);
    EXPECT_TRUE(std::isnan(most[1]) && std::isnan(most[2]));
    EXPECT_EQ(most[3], INFINITY);
    Tensor dy = make_tensor(device, {4}, {7, 7, 7, 7});
    kernels::reduce_columns_backward(q, Reduction::max, dx.view(), dy.view(), x.view(), y.view(), 3, Write::overwrite);
    EXPECT_EQ(download(q, dx), (std::vector<float>{0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7}));
  });
}

TEST(Reduce, NoRows) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    View nothing{nullptr, 0, dtype};
    Tensor y = poisoned(device, {3}), one = poisoned(device, {1});
    kernels::sum_rows(q, y.view(), nothing, 3, Write::overwrite);
    EXPECT_EQ(download(q, y), (std::vector<float>{0, 0, 0}));
    kernels::sum_all(q, one.view(), nothing, Write::overwrite);
    EXPECT_EQ(download(q, one), (std::vector<float>{0}));
    kernels::reduce_columns(q, Reduction::sum, {nullptr, 0, dtype}, nothing, 3);
  });
}

TEST(Reduce, LongSumsStayAccurate) {
  for (auto& device : devices()) {
    const Queue& q = device->queue();
    std::int64_t n = 1'000'003;
    std::vector<float> values = random_values(n, 8);
    double exact = 0;
    for (float& v : values) exact += double(v = v + 1);
    Tensor x = make_tensor(*device, {n}, values), y = poisoned(*device, {1});
    kernels::sum_all(q, y.view(), x.view(), Write::overwrite);
    EXPECT_NEAR(download(q, y)[0] / exact, 1, 1e-6);
    kernels::sum_rows(q, y.view(), x.view(), 1, Write::overwrite);
    EXPECT_NEAR(download(q, y)[0] / exact, 1, 1e-5);
  }
}

// Tiles of columns, shares of rows, their ends, and rows at addresses that vectors cannot be read from.
TEST(Reduce, SumsOverRowsOfEveryShape) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    for (auto [rows, columns] : {std::pair<std::int64_t, std::int64_t>{1, 1}, {7, 3}, {64, 768}, {129, 257}, {300, 64}, {1000, 24}})
      for (std::int64_t skipped : {0, 1}) {
        Tensor memory = make_tensor(device, {rows * columns + 1}, random_values(rows * columns + 1, 5), dtype);
        const View x = memory.view().slice(skipped, rows * columns);
        const auto values = download(q, x);
        std::vector<float> expected(std::size_t(columns), 0.f);
        for (std::int64_t c = 0; c < columns; ++c) {
          double sum = 0;
          for (std::int64_t r = 0; r < rows; ++r) sum += double(values[std::size_t(r * columns + c)]);
          expected[std::size_t(c)] = float(sum);
        }
        Tensor y = poisoned(device, {columns}), again = poisoned(device, {columns});
        kernels::sum_rows(q, y.view(), x, columns, Write::overwrite);
        kernels::sum_rows(q, again.view(), x, columns, Write::overwrite);
        expect_close(device, y, expected, DType::f32, "sum of rows");
        EXPECT_EQ(download(q, y), download(q, again));
      }
  });
}

TEST(Reduce, ThreadsDoNotMatter) {
  Device device;
  const Queue& q = device.queue();
  for (DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (auto [rows, columns] : {std::pair<std::int64_t, std::int64_t>{1501, 37}, {130, 700}, {60001, 3}}) {
      Tensor x = make_tensor(device, {rows, columns}, random_values(rows * columns, 1), dtype);
      Tensor down(device, {columns}), across(device, {rows}), all(device, {1});
      expect_same_for_any_threads(
          [&] {
            kernels::sum_rows(q, down.view(), x.view(), columns, Write::overwrite);
            return download(q, down);
          },
          "sum of rows");
      expect_same_for_any_threads(
          [&] {
            kernels::reduce_columns(q, Reduction::mean, across.view(), x.view(), columns);
            return download(q, across);
          },
          "mean of columns");
      expect_same_for_any_threads(
          [&] {
            kernels::sum_all(q, all.view(), x.view(), Write::overwrite);
            return download(q, all);
          },
          "sum of all");
    }
}

}  // namespace
}  // namespace lockstep
