#include "kernels/unary.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "kernels/reduce.h"
#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;

Unary op_named(const std::string& name) {
  for (Unary op : all_unary)
    if (name == name_of(op)) return op;
  throw Error("no unary op named " + name);
}

TEST(Unary, Golden) {
  std::set<Unary> seen;
  for_each_golden("unary", [&](Device& device, DType dtype, const GoldenCase& c) {
    Unary op = op_named(c.text("op"));
    seen.insert(op);
    const Queue& q = device.queue();
    Tensor x = c.load(device, "x", dtype), dy = c.load(device, "dy", dtype), y = poisoned(device, x.shape(), dtype);
    kernels::unary(q, op, y.view(), x.view());
    expect_close(device, y, c["y"].values, dtype, "y");
    expect_gradient(
        device, x.shape(), dtype, c["dx"].values,
        [&](View dx, Write write) { kernels::unary_backward(q, op, dx, dy.view(), x.view(), y.view(), write); }, "dx");
  });
  EXPECT_EQ(seen.size(), std::size(all_unary)) << "an op has no golden values: add it to tests/golden/rows.py";
}

TEST(Unary, Derivatives) {
  for (auto& device : devices())
    for (Unary op : all_unary) {
      if (op == Unary::relu) continue;  // the difference may step over its corner
      const Queue& q = device->queue();
      auto forward = [&](const Values& in) {
        Tensor x = make_tensor(*device, {51}, in[0]), y = poisoned(*device, {51});
        kernels::unary(q, op, y.view(), x.view());
        return download(q, y);
      };
      auto backward = [&](const Values& in, const std::vector<float>& up) {
        Tensor x = make_tensor(*device, {51}, in[0]), dy = make_tensor(*device, {51}, up);
        Tensor y = make_tensor(*device, {51}, forward(in)), dx = poisoned(*device, {51});
        kernels::unary_backward(q, op, dx.view(), dy.view(), x.view(), y.view(), Write::overwrite);
        return Values{download(q, dx)};
      };
      EXPECT_LE(derivative_error({random_values(51, 3)}, forward, backward), 1e-3) << name_of(op);
    }
}

TEST(Unary, InPlace) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    for (Unary op : all_unary) {
      Tensor x = make_tensor(device, {77}, random_values(77, 1), dtype),
             dy = make_tensor(device, {77}, random_values(77, 2), dtype);
      Tensor y = poisoned(device, {77}, dtype), dx = poisoned(device, {77}, dtype);
      kernels::unary(q, op, y.view(), x.view());
      kernels::unary_backward(q, op, dx.view(), dy.view(), x.view(), y.view(), Write::overwrite);
      kernels::unary_backward(q, op, dy.view(), dy.view(), x.view(), y.view(), Write::overwrite);
      EXPECT_EQ(download(q, dy), download(q, dx)) << name_of(op);
      kernels::unary(q, op, x.view(), x.view());
      EXPECT_EQ(download(q, x), download(q, y)) << name_of(op);
    }
  });
}

// What `activate` keeps leads back to the gradient of unary_backward, and the sums are those of its rows.
TEST(Unary, ActivationsAndTheirGradients) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    constexpr std::int64_t rows = 131, columns = 77, n = rows * columns;
    for (Unary op : all_unary) {
      SCOPED_TRACE(name_of(op));
      Tensor x = make_tensor(device, {rows, columns}, random_values(n, 1), dtype);
      Tensor dy = make_tensor(device, {rows, columns}, random_values(n, 2), dtype);
      Tensor y = poisoned(device, {rows, columns}, dtype), kept = poisoned(device, {rows, columns}, dtype);
      Tensor expected_y = poisoned(device, {rows, columns}, dtype), expected = poisoned(device, {rows, columns}, dtype);
      kernels::unary(q, op, expected_y.view(), x.view());
      kernels::unary_backward(q, op, expected.view(), dy.view(), x.view(), expected_y.view(), Write::overwrite);
      kernels::activate(q, op, y.view(), kept.view(), x.view());
      EXPECT_EQ(download(q, y), download(q, expected_y));
      const kernels::Slope slope{op, kept.view(), y.view()};
      Tensor dx = poisoned(device, {rows, columns}, dtype);
      kernels::activation_backward(q, slope, dx.view(), dy.view());
      expect_close(device, dx, download(q, expected), dtype, "dx");
      for (DType sum_dtype : {dtype, DType::f32})
        for (Write write : {Write::overwrite, Write::accumulate}) {
          Tensor sums = make_tensor(device, {columns}, random_values(columns, 3), sum_dtype), again = poisoned(device, {rows, columns}, dtype);
          Tensor expected_sums = make_tensor(device, {columns}, random_values(columns, 3), sum_dtype);
          kernels::sum_rows(q, expected_sums.view(), dx.view(), columns, write);
          kernels::activation_backward(q, slope, again.view(), dy.view(), sums.view(), write);
          EXPECT_EQ(download(q, again), download(q, dx));
          EXPECT_EQ(download(q, sums), download(q, expected_sums));
        }
      kernels::activation_backward(q, slope, dy.view(), dy.view());
      EXPECT_EQ(download(q, dy), download(q, dx)) << "in place";
      // Added to y, and kept where x was.
      Tensor sum = make_tensor(device, {rows, columns}, std::vector<float>(std::size_t(n), 0.f), dtype);
      kernels::activate(q, op, sum.view(), x.view(), x.view(), Write::accumulate);
      EXPECT_EQ(download(q, sum), download(q, y));
      EXPECT_EQ(download(q, x), download(q, kept));
    }
    Tensor small = make_tensor(device, {3}, {1, 2, 3}, dtype);
    const kernels::Slope slope{Unary::relu, small.view(), small.view()};
    EXPECT_THROW(kernels::activation_backward(q, slope, small.view(), small.view(), small.view().slice(0, 2)), Error);
    EXPECT_THROW(kernels::activate(q, Unary::relu, small.view(), small.view().slice(0, 2), small.view()), Error);
  });
}

TEST(Unary, NanStaysAndNothingElseBreaks) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    for (Unary op : all_unary) {
      Tensor x = make_tensor(device, {3}, {NAN, 60, -60}, dtype), y = poisoned(device, {3}, dtype);
      kernels::unary(q, op, y.view(), x.view());
      auto values = download(q, y);
      EXPECT_TRUE(std::isnan(values[0])) << name_of(op);
      EXPECT_TRUE(std::isfinite(values[1]) && std::isfinite(values[2])) << name_of(op);
    }
  });
}

TEST(Unary, Empty) {
  for_each_device([](Device& device, DType dtype) {
    View nothing{nullptr, 0, dtype};
    for (Unary op : all_unary) {
      kernels::unary(device.queue(), op, nothing, nothing);
      kernels::unary_backward(device.queue(), op, nothing, nothing, nothing, nothing, Write::overwrite);
      kernels::activate(device.queue(), op, nothing, nothing, nothing);
      kernels::activation_backward(device.queue(), {op, nothing, nothing}, nothing, nothing);
    }
  });
}

TEST(Unary, WrongSizesAreRefused) {
  Device device;
  Tensor a(device, {3}), b(device, {4});
  EXPECT_THROW(kernels::unary(device.queue(), Unary::relu, a.view(), b.view()), Error);
  Tensor i(device, {3}, DType::i32);
  EXPECT_THROW(kernels::unary(device.queue(), Unary::relu, i.view(), i.view()), Error);
}

TEST(Unary, ThreadsAndPlaceDoNotMatter) {
  Device device;
  const Queue& q = device.queue();
  constexpr std::int64_t n = 70001;
  for (DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (Unary op : all_unary) {
      Tensor x = make_tensor(device, {n}, random_values(n, 5), dtype), dy = make_tensor(device, {n}, random_values(n, 6), dtype);
      Tensor y(device, {n}, dtype), dx(device, {n}, dtype);
      auto all = [&] {
        kernels::unary(q, op, y.view(), x.view());
        kernels::unary_backward(q, op, dx.view(), dy.view(), x.view(), y.view(), Write::overwrite);
        auto values = download(q, y), gradients = download(q, dx);
        values.insert(values.end(), gradients.begin(), gradients.end());
        return values;
      };
      expect_same_for_any_threads(all, name_of(op));
      // An element has the same value wherever it stands: in whole vectors or at an end.
      auto whole = all();
      for (std::int64_t begin : {1, 5, 31}) {
        Tensor part = poisoned(device, {37}, dtype), gradient = poisoned(device, {37}, dtype);
        kernels::unary(q, op, part.view(), x.view().slice(begin, 37));
        kernels::unary_backward(q, op, gradient.view(), dy.view().slice(begin, 37), x.view().slice(begin, 37), part.view(),
                                Write::overwrite);
        auto values = download(q, part), gradients = download(q, gradient);
        for (std::size_t i = 0; i < 37; ++i) {
          ASSERT_EQ(values[i], whole[std::size_t(begin) + i]) << name_of(op);
          ASSERT_EQ(gradients[i], whole[std::size_t(n + begin) + i]) << name_of(op);
        }
      }
    }
}

}  // namespace
}  // namespace lockstep
