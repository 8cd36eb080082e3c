#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;
using kernels::MatmulOptions;

/// Matrices (rows, columns), one after another, stored as (columns, rows).
std::vector<float> transposed(const std::vector<float>& x, std::int64_t batch, std::int64_t rows, std::int64_t columns) {
  std::vector<float> t(x.size());
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t r = 0; r < rows; ++r)
      for (std::int64_t c = 0; c < columns; ++c)
        t[std::size_t((b * columns + c) * rows + r)] = x[std::size_t((b * rows + r) * columns + c)];
  return t;
}

struct Sizes {
  std::int64_t batch, m, n, k;
  explicit Sizes(const GoldenCase& c)
      : batch(std::int64_t(c.number("batch"))),
        m(std::int64_t(c.number("m"))),
        n(std::int64_t(c.number("n"))),
        k(std::int64_t(c.number("k"))) {}
};

TEST(Matmul, GoldenInEveryLayout) {
  for_each_golden("matmul", [](Device& device, DType dtype, const GoldenCase& c) {
    Sizes s(c);
    for (bool ta : {false, true})
      for (bool tb : {false, true})
        for (DType out : {dtype, DType::f32}) {
          SCOPED_TRACE(std::string(ta ? "aT " : "a ") + (tb ? "bT " : "b ") + name_of(out));
          auto stored = [&](const char* name, bool t, std::int64_t rows, std::int64_t columns) {
            const auto& values = c[name].values;
            return make_tensor(device, {s.batch, rows, columns}, t ? transposed(values, s.batch, rows, columns) : values, dtype);
          };
          Tensor a = stored("a", ta, s.m, s.k), b = stored("b", tb, s.k, s.n);
          expect_gradient(
              device, {s.batch, s.m, s.n}, out, dtype, c["y"].values,
              [&](View y, Write write) {
                kernels::matmul(device.queue(), y, a.view(), b.view(), s.m, s.n, s.k,
                                {.transpose_a = ta, .transpose_b = tb, .batch = s.batch, .write = write});
              },
              "product");
        }
  });
}

TEST(Matmul, GradientsAreProducts) {
  for_each_golden("matmul", [](Device& device, DType dtype, const GoldenCase& c) {
    Sizes s(c);
    Tensor a = c.load(device, "a", dtype), b = c.load(device, "b", dtype), dy = c.load(device, "dy", dtype);
    for (DType out : {dtype, DType::f32}) {
      expect_gradient(
          device, a.shape(), out, dtype, c["da"].values,
          [&](View da, Write write) {
            kernels::matmul(device.queue(), da, dy.view(), b.view(), s.m, s.k, s.n,
                            {.transpose_b = true, .batch = s.batch, .write = write});
          },
          "da");
      expect_gradient(
          device, b.shape(), out, dtype, c["db"].values,
          [&](View db, Write write) {
            kernels::matmul(device.queue(), db, a.view(), dy.view(), s.k, s.n, s.m,
                            {.transpose_a = true, .batch = s.batch, .write = write});
          },
          "db");
    }
  });
}

TEST(Matmul, BiasAndActivation) {
  for_each_golden("matmul", [](Device& device, DType dtype, const GoldenCase& c) {
    Sizes s(c);
    Tensor a = c.load(device, "a", dtype), b = c.load(device, "b", dtype), bias = c.load(device, "bias", dtype);
    Shape shape{s.batch, s.m, s.n};
    for (DType out : {dtype, DType::f32}) {
      expect_gradient(
          device, shape, out, dtype, c["biased"].values,
          [&](View y, Write write) {
            kernels::matmul(device.queue(), y, a.view(), b.view(), s.m, s.n, s.k,
                            {.batch = s.batch, .write = write, .bias = bias.view()});
          },
          "bias");
      for (Unary op : all_unary) {
        expect_gradient(
            device, shape, out, dtype, c[name_of(op)].values,
            [&](View y, Write write) {
              kernels::matmul(device.queue(), y, a.view(), b.view(), s.m, s.n, s.k,
                              {.batch = s.batch, .write = write, .bias = bias.view(), .activation = op});
            },
            name_of(op));
        Tensor before = poisoned(device, shape, out);
        expect_gradient(
            device, shape, out, dtype, c[name_of(op)].values,
            [&](View y, Write write) {
              kernels::matmul(
                  device.queue(), y, a.view(), b.view(), s.m, s.n, s.k,
                  {.batch = s.batch, .write = write, .bias = bias.view(), .activation = op, .pre_activation = before.view()});
            },
            std::string(name_of(op)) + " with the value before it");
        expect_close(device, before, c["biased"].values, dtype, "before the activation");
      }
    }
  });
}

TEST(Matmul, Derivatives) {
  for (auto& device : devices()) {
    const std::int64_t m = 5, n = 7, k = 9;
    const Queue& q = device->queue();
    auto forward = [&](const Values& in) {
      Tensor a = make_tensor(*device, {m, k}, in[0]), b = make_tensor(*device, {k, n}, in[1]), y = poisoned(*device, {m, n});
      kernels::matmul(q, y.view(), a.view(), b.view(), m, n, k);
      return download(q, y);
    };
    auto backward = [&](const Values& in, const std::vector<float>& up) {
      Tensor a = make_tensor(*device, {m, k}, in[0]), b = make_tensor(*device, {k, n}, in[1]);
      Tensor dy = make_tensor(*device, {m, n}, up), da = poisoned(*device, {m, k}), db = poisoned(*device, {k, n});
      kernels::matmul(q, da.view(), dy.view(), b.view(), m, k, n, {.transpose_b = true});
      kernels::matmul(q, db.view(), a.view(), dy.view(), k, n, m, {.transpose_a = true});
      return Values{download(q, da), download(q, db)};
    };
    EXPECT_LE(derivative_error({random_values(m * k, 1), random_values(k * n, 2)}, forward, backward), 1e-3);
  }
}

TEST(Matmul, EmptySizes) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    View nothing{nullptr, 0, dtype};
    Tensor y = poisoned(device, {2, 3}, dtype), bias = make_tensor(device, {3}, {1, -2, 3}, dtype);
    kernels::matmul(q, nothing, nothing, y.view(), 0, 3, 2);
    kernels::matmul(q, nothing, y.view(), nothing, 2, 0, 3);
    kernels::matmul(q, nothing, nothing, nothing, 2, 3, 4, {.batch = 0});
    // No terms: zero, or what was there.
    kernels::matmul(q, y.view(), nothing, nothing, 2, 3, 0);
    EXPECT_EQ(download(q, y), std::vector<float>(6, 0.f));
    kernels::matmul(q, y.view(), nothing, nothing, 2, 3, 0, {.bias = bias.view(), .activation = Unary::relu});
    EXPECT_EQ(download(q, y), (std::vector<float>{1, 0, 3, 1, 0, 3}));
    kernels::matmul(q, y.view(), nothing, nothing, 2, 3, 0, {.write = Write::accumulate});
    EXPECT_EQ(download(q, y), (std::vector<float>{1, 0, 3, 1, 0, 3}));
    kernels::matmul(q, y.view(), nothing, nothing, 2, 3, 0, {.write = Write::accumulate, .bias = bias.view()});
    EXPECT_EQ(download(q, y), (std::vector<float>{2, -2, 6, 2, -2, 6}));
  });
}

TEST(Matmul, WrongSizesAreNamed) {
  Device device;
  Tensor a = poisoned(device, {2, 3}), b = poisoned(device, {3, 4}), y = poisoned(device, {2, 4});
  auto fails = [&](std::int64_t m, std::int64_t n, std::int64_t k, MatmulOptions o, const char* text) {
    try {
      kernels::matmul(device.queue(), y.view(), a.view(), b.view(), m, n, k, o);
      ADD_FAILURE() << text;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(text), std::string::npos) << e.what();
    }
  };
  fails(2, 4, 4, {}, "a has 6 elements, not 1 x 2 x 4");
  fails(2, 5, 3, {}, "b has 12 elements");
  fails(2, 4, 3, {.bias = a.view()}, "the bias has 6 elements, not 4");
  fails(2, 4, 3, {.pre_activation = y.view()}, "without an activation");
}

// The same thread count gives the same bits, run by run, at shapes of training.
TEST(Matmul, Repeats) {
  for_each_device([](Device& device, DType dtype) {
    struct {
      std::int64_t m, n, k;
      bool ta;
    } shapes[] = {{257, 160, 480, false}, {480, 160, 1023, true}, {33, 65, 4096, true}};
    for (auto [m, n, k, ta] : shapes) {
      Tensor a = make_tensor(device, {m * k}, random_values(m * k, 1), dtype),
             b = make_tensor(device, {k * n}, random_values(k * n, 2), dtype);
      std::vector<float> first;
      for (int run = 0; run < 3; ++run) {
        Device fresh(device.kind());  // primitives made anew
        Tensor y = poisoned(device, {m, n});
        kernels::matmul(fresh.queue(), y.view(), a.view(), b.view(), m, n, k, {.transpose_a = ta});
        auto values = download(fresh.queue(), y);
        if (run == 0) first = values;
        ASSERT_EQ(values, first);
      }
    }
  });
}

// Processors without AVX-512 have no bf16 products in oneDNN, which decides once a process: the golden tests run again in
// another.
TEST(Matmul, WithoutBf16Products) {
  std::string self = std::filesystem::read_symlink("/proc/self/exe").string();
  std::string command = "DNNL_MAX_CPU_ISA=AVX2 ONEDNN_MAX_CPU_ISA=AVX2 '" + self + "' --gtest_filter='*Golden*' > /dev/null";
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
}

}  // namespace
}  // namespace lockstep
