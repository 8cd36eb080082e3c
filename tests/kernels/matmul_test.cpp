#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <numbers>

#include "kernels/unary.h"
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
  Sizes(std::int64_t batch, std::int64_t m, std::int64_t n, std::int64_t k) : batch(batch), m(m), n(n), k(k) {}
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
        Tensor kept = poisoned(device, shape, out);
        expect_gradient(
            device, shape, out, dtype, c[name_of(op)].values,
            [&](View y, Write write) {
              kernels::matmul(
                  device.queue(), y, a.view(), b.view(), s.m, s.n, s.k,
                  {.batch = s.batch, .write = write, .bias = bias.view(), .activation = op, .kept = kept.view()});
            },
            std::string(name_of(op)) + " with what is kept");
        // A gradient of ones that comes back is the slope.
        Tensor x = make_tensor(device, shape, c["biased"].values, out), y = poisoned(device, shape, out), dx = poisoned(device, shape, out);
        Tensor ones = make_tensor(device, shape, std::vector<float>(std::size_t(x.size()), 1.f), out);
        kernels::unary(device.queue(), op, y.view(), x.view());
        kernels::unary_backward(device.queue(), op, dx.view(), ones.view(), x.view(), y.view(), Write::overwrite);
        kernels::activation_backward(device.queue(), {op, kept.view(), y.view()}, ones.view(), ones.view());
        expect_close(device, ones, download(device.queue(), dx), dtype, "the slope by what is kept");
      }
    }
  });
}

/// In double precision, from the formulas' definitions.
double activated(Unary op, double x) {
  switch (op) {
    case Unary::relu: return x > 0 ? x : 0;
    case Unary::gelu: return x / 2 * (1 + std::erf(x / std::numbers::sqrt2));
    case Unary::gelu_tanh: return x / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x)));
    case Unary::sigmoid: return 1 / (1 + std::exp(-x));
    case Unary::tanh: return std::tanh(x);
    case Unary::silu: return x / (1 + std::exp(-x));
  }
  throw Error("no formula for this activation");
}

std::vector<float> sums_of_rows(const std::vector<float>& x, std::int64_t columns) {
  std::vector<double> sums(std::size_t(columns), 0.0);
  for (std::size_t i = 0; i < x.size(); ++i) sums[i % std::size_t(columns)] += x[i];
  return {sums.begin(), sums.end()};
}

// Sizes that a GPU's library fuses (multiples of 8), and sizes that it does not.
const Sizes backward_sizes[] = {Sizes(1, 96, 64, 40), Sizes(1, 5, 7, 9), Sizes(1, 33, 24, 130)};

TEST(Matmul, SlopeAndBiasGradient) {
  for_each_device([](Device& device, DType dtype) {
    for (auto [batch, m, n, k] : backward_sizes)
      for (Unary op : all_unary)
        for (DType bias_dtype : {dtype, DType::f32}) {
          SCOPED_TRACE(format_text("{} {} {} {} {}", {m, n, k, name_of(op), name_of(bias_dtype)}));
          Tensor a = make_tensor(device, {m, k}, random_values(m * k, 1), dtype);
          Tensor b = make_tensor(device, {k, n}, random_values(k * n, 2), dtype);
          auto before = random_values(m * n, 3);
          for (float& v : before)
            if (std::abs(v) < 1e-3f) v = 0.5f;  // a difference must not step over the corner of relu
          Tensor x = make_tensor(device, {m, n}, before, dtype), y = poisoned(device, {m, n}, dtype);
          Tensor kept = poisoned(device, {m, n}, dtype);
          kernels::activate(device.queue(), op, y.view(), kept.view(), x.view());
          auto av = download(device.queue(), a), bv = download(device.queue(), b), xv = download(device.queue(), x);
          std::vector<float> expected(xv.size());
          for (std::int64_t r = 0; r < m; ++r)
            for (std::int64_t c = 0; c < n; ++c) {
              double sum = 0, h = 1e-5, at = xv[std::size_t(r * n + c)];
              for (std::int64_t i = 0; i < k; ++i) sum += double(av[std::size_t(r * k + i)]) * bv[std::size_t(i * n + c)];
              expected[std::size_t(r * n + c)] = float(sum * (activated(op, at + h) - activated(op, at - h)) / (2 * h));
            }
          Tensor d = poisoned(device, {m, n}, dtype);
          expect_gradient(
              device, {n}, bias_dtype, dtype, sums_of_rows(expected, n),
              [&](View db, Write write) {
                kernels::matmul(
                    device.queue(), d.view(), a.view(), b.view(), m, n, k,
                    {.slope = kernels::Slope{op, kept.view(), y.view()}, .bias_gradient = db, .write_bias_gradient = write});
              },
              "sums");
          expect_close(device, d, expected, dtype, "product");
          Tensor alone = poisoned(device, {m, n}, dtype);
          kernels::matmul(device.queue(), alone.view(), a.view(), b.view(), m, n, k,
                          {.slope = kernels::Slope{op, kept.view(), y.view()}});
          expect_close(device, alone, expected, dtype, "product without sums");
        }
  });
}

TEST(Matmul, WeightAndBiasGradient) {
  for_each_device([](Device& device, DType dtype) {
    for (auto [batch, m, n, k] : backward_sizes)
      for (DType out : {dtype, DType::f32})
        for (DType bias_dtype : {dtype, DType::f32}) {
          SCOPED_TRACE(format_text("{} {} {} {} {}", {m, n, k, name_of(out), name_of(bias_dtype)}));
          const Queue& q = device.queue();
          Tensor dy = make_tensor(device, {k, m}, random_values(k * m, 1), dtype);
          Tensor x = make_tensor(device, {k, n}, random_values(k * n, 2), dtype);
          auto dyv = download(q, dy), xv = download(q, x);
          std::vector<float> product(std::size_t(m * n));
          for (std::int64_t r = 0; r < m; ++r)
            for (std::int64_t c = 0; c < n; ++c) {
              double sum = 0;
              for (std::int64_t i = 0; i < k; ++i) sum += double(dyv[std::size_t(i * m + r)]) * xv[std::size_t(i * n + c)];
              product[std::size_t(r * n + c)] = float(sum);
            }
          // Each of the two written and added to, in all four combinations.
          for (Write first : {Write::overwrite, Write::accumulate})
            expect_gradient(
                device, {m}, bias_dtype, dtype, sums_of_rows(dyv, m),
                [&](View db, Write second) {
                  expect_gradient(
                      device, {m, n}, out, dtype, product,
                      [&](View dw, Write write) {
                        View none;
                        kernels::matmul(q, dw, dy.view(), x.view(), m, n, k,
                                        {.transpose_a = true,
                                         .write = write,
                                         .bias_gradient = write == first ? db : none,
                                         .write_bias_gradient = second});
                      },
                      "product");
                },
                "sums");
        }
  });
}

// Widths whose rows lie a multiple of 2 KiB apart are computed in pieces of columns.
TEST(Matmul, WideRows) {
  for (auto [dtype, tolerance] : {std::pair{DType::f32, 1e-5}, std::pair{DType::bf16, 1e-2}, std::pair{DType::f16, 2e-3}}) {
    for (std::int64_t n : {1024, 1536, 3072})
      for (bool transpose_a : {false, true})
        for (Write write : {Write::overwrite, Write::accumulate}) {
          const std::int64_t m = 7, k = 261;
          const auto va = random_values(m * k, 1), vb = random_values(k * n, 2), vy = random_values(m * n, 3);
          for (auto& place : devices()) {
            SCOPED_TRACE(format_text("{} {} {}", {n, transpose_a ? "transposed" : "plain", name_of(dtype)}));
            Tensor a = make_tensor(*place, transpose_a ? Shape{k, m} : Shape{m, k}, va, dtype),
                   b = make_tensor(*place, {k, n}, vb, dtype), y = make_tensor(*place, {m, n}, vy, dtype);
            const auto ra = download(place->queue(), a), rb = download(place->queue(), b), ry = download(place->queue(), y);
            kernels::matmul(place->queue(), y.view(), a.view(), b.view(), m, n, k, {.transpose_a = transpose_a, .write = write});
            std::vector<float> expected(std::size_t(m * n));
            for (std::int64_t i = 0; i < m; ++i)
              for (std::int64_t j = 0; j < n; ++j) {
                double sum = write == Write::accumulate ? ry[std::size_t(i * n + j)] : 0;
                for (std::int64_t l = 0; l < k; ++l)
                  sum += double(ra[std::size_t(transpose_a ? l * m + i : i * k + l)]) * rb[std::size_t(l * n + j)];
                expected[std::size_t(i * n + j)] = float(sum);
              }
            EXPECT_LT(relative_norm(download(place->queue(), y), expected), tolerance);
          }
        }
  }
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

// Addresses of any alignment, also where the same product has run with better ones before: an algorithm is kept for those it fits.
TEST(Matmul, AnyAddress) {
  for_each_device([](Device& device, DType dtype) {
    const std::int64_t m = 16, n = 24, k = 8;
    const Queue& q = device.queue();
    const auto va = random_values(m * k, 1), vb = random_values(k * n, 2), vbias = random_values(n, 3);
    auto at = [&](const std::vector<float>& values, std::int64_t offset) {
      std::vector<float> moved(values.size() + std::size_t(offset), NAN);
      std::ranges::copy(values, moved.begin() + offset);
      return make_tensor(device, {std::int64_t(moved.size())}, moved, dtype);
    };
    std::vector<float> expected, before;
    for (int odd = 0; odd < 6; ++odd) {  // none, then each operand in turn
      SCOPED_TRACE(odd);
      auto offset = [odd](int operand) { return std::int64_t(odd == operand); };
      Tensor a = at(va, offset(1)), b = at(vb, offset(2)), bias = at(vbias, offset(3));
      const std::vector<float> nothing(std::size_t(m * n), NAN);
      Tensor y = at(nothing, offset(4)), x = at(nothing, offset(5));
      auto of = [&](const Tensor& t, std::int64_t size, int operand) { return t.view().slice(offset(operand), size); };
      kernels::matmul(q, of(y, m * n, 4), of(a, m * k, 1), of(b, k * n, 2), m, n, k,
                      {.bias = of(bias, n, 3), .activation = Unary::gelu_tanh, .kept = of(x, m * n, 5)});
      auto from = [&](const Tensor& t, int operand) {
        const auto all = download(q, t);
        return std::vector<float>(all.begin() + offset(operand), all.end());
      };
      const auto result = from(y, 4), inside = from(x, 5);
      if (odd == 0) expected = result, before = inside;
      EXPECT_LE(relative_norm(result, expected), golden_tolerance(dtype));
      EXPECT_LE(relative_norm(inside, before), golden_tolerance(dtype));
    }
  });
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
    kernels::matmul(q, y.view(), nothing, nothing, 2, 3, 0,
                    {.slope = kernels::Slope{Unary::relu, y.view(), y.view()}, .bias_gradient = bias.view()});
    EXPECT_EQ(download(q, y), std::vector<float>(6, 0.f));
    EXPECT_EQ(download(q, bias), std::vector<float>(3, 0.f));
    Tensor dy = make_tensor(device, {2, 3}, {1, 2, 3, 4, 5, 6}, dtype);
    kernels::matmul(q, nothing, dy.view(), nothing, 3, 0, 2, {.transpose_a = true, .bias_gradient = bias.view()});
    EXPECT_EQ(download(q, bias), (std::vector<float>{5, 7, 9}));
    kernels::matmul(q, make_tensor(device, {3, 2}, std::vector<float>(6), dtype).view(), nothing, nothing, 3, 2, 0,
                    {.transpose_a = true, .bias_gradient = bias.view(), .write_bias_gradient = Write::accumulate});
    EXPECT_EQ(download(q, bias), (std::vector<float>{5, 7, 9}));
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
  fails(2, 4, 3, {.kept = y.view()}, "without an activation");
  kernels::Slope slope{Unary::tanh, y.view(), y.view()};
  fails(2, 4, 3, {.write = Write::accumulate, .slope = slope}, "a slope goes without");
  fails(2, 4, 3, {.slope = kernels::Slope{Unary::tanh, a.view(), y.view()}}, "must look like the product");
  fails(2, 4, 3, {.slope = slope, .bias_gradient = a.view()}, "the bias gradient has 6 elements, not 4");
  fails(2, 4, 3, {.bias_gradient = y.view().slice(0, 2)}, "with a transposed a alone");
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
        Tensor y = poisoned(device, {m, n}), sums = poisoned(device, {m});
        kernels::matmul(fresh.queue(), y.view(), a.view(), b.view(), m, n, k,
                        {.transpose_a = ta, .bias_gradient = ta ? sums.view() : View{}});
        auto values = download(fresh.queue(), y);
        if (ta)
          for (float sum : download(fresh.queue(), sums)) values.push_back(sum);
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
