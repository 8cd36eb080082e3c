#include "kernels/norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;
using kernels::Norm;

/// The result and what is kept for backward.
struct Forward {
  Tensor s, mean, rstd, y;
};

Forward run(Device& device, Norm kind, const Tensor& x, const Tensor& residual, const Tensor& w, const Tensor& b, float epsilon) {
  DType dtype = x.dtype();
  Forward f{residual ? poisoned(device, x.shape(), dtype) : Tensor{},
            kind == Norm::layer ? poisoned(device, {x.rows()}) : Tensor{}, poisoned(device, {x.rows()}),
            poisoned(device, x.shape(), dtype)};
  auto view = [](const Tensor& t) { return t ? t.view() : View{}; };
  kernels::norm(device.queue(), kind, f.y.view(), view(f.s), view(f.mean), f.rstd.view(), x.view(), view(residual), w.view(),
                view(b), x.dim(-1), epsilon);
  return f;
}

void run_backward(Device& device, Norm kind, View dx, View dw, View db, const Tensor& dy, const Tensor& x, const Tensor& w,
                  const Forward& f, Write write) {
  kernels::norm_backward(device.queue(), kind, dx, dw, db, dy.view(), x.view(), w.view(), f.mean ? f.mean.view() : View{},
                         f.rstd.view(), x.dim(-1), write, write, write);
}

TEST(Norm, Golden) {
  for_each_golden("norm", [](Device& device, DType dtype, const GoldenCase& c) {
    Norm kind = c.text("kind") == "layer" ? Norm::layer : Norm::rms;
    bool layer = kind == Norm::layer;
    Tensor x = c.load(device, "x", dtype), w = c.load(device, "w", dtype), dy = c.load(device, "dy", dtype);
    Tensor b = layer ? c.load(device, "b", dtype) : Tensor{};
    Tensor residual = c.has("residual") ? c.load(device, "residual", dtype) : Tensor{};
    Forward f = run(device, kind, x, residual, w, b, float(c.number("epsilon")));
    expect_close(device, f.y, c["y"].values, dtype, "y");
    if (residual) expect_close(device, f.s, c["s"].values, dtype, "sum");
    const Tensor& in = residual ? f.s : x;

    for (DType parameters : {dtype, DType::f32}) {
      Tensor dw = poisoned(device, w.shape(), parameters), db = layer ? poisoned(device, w.shape(), parameters) : Tensor{};
      // All at once, then each alone: absent outputs change nothing.
      expect_gradient(
          device, x.shape(), dtype, c["dx"].values,
          [&](View dx, Write write) {
            run_backward(device, kind, dx, dw.view(), db ? db.view() : View{}, dy, in, w, f, write);
            if (write == Write::overwrite) {
              expect_close(device, dw, c["dw"].values, dtype, "dw with dx");
              if (db) expect_close(device, db, c["db"].values, dtype, "db with dx");
            }
          },
          "dx");
      expect_gradient(
          device, w.shape(), parameters, dtype, c["dw"].values,
          [&](View out, Write write) { run_backward(device, kind, {}, out, {}, dy, in, w, f, write); }, "dw");
      if (layer)
        expect_gradient(
            device, w.shape(), parameters, dtype, c["db"].values,
            [&](View out, Write write) { run_backward(device, kind, {}, {}, out, dy, in, w, f, write); }, "db");
    }
    expect_gradient(
        device, x.shape(), dtype, c["dx"].values,
        [&](View dx, Write write) { run_backward(device, kind, dx, {}, {}, dy, in, w, f, write); }, "dx alone");
  });
}

TEST(Norm, Derivatives) {
  for (auto& device : devices())
    for (Norm kind : {Norm::layer, Norm::rms}) {
      Shape shape{11, 19};
      auto forward = [&](const Values& in) {
        Tensor x = make_tensor(*device, shape, in[0]), w = make_tensor(*device, {19}, in[1]),
               b = make_tensor(*device, {19}, in[2]);
        return download(device->queue(), run(*device, kind, x, {}, w, b, 1e-5f).y);
      };
      auto backward = [&](const Values& in, const std::vector<float>& up) {
        Tensor x = make_tensor(*device, shape, in[0]), w = make_tensor(*device, {19}, in[1]),
               b = make_tensor(*device, {19}, in[2]);
        Tensor dy = make_tensor(*device, shape, up), dx = poisoned(*device, shape), dw = poisoned(*device, {19}), db = dw;
        db = poisoned(*device, {19});
        Forward f = run(*device, kind, x, {}, w, b, 1e-5f);
        run_backward(*device, kind, dx.view(), dw.view(), db.view(), dy, x, w, f, Write::overwrite);
        const Queue& q = device->queue();
        return Values{download(q, dx), download(q, dw), download(q, db)};
      };
      EXPECT_LE(derivative_error({random_values(209, 1), random_values(19, 2), random_values(19, 3)}, forward, backward), 1e-3)
          << int(kind);
    }
}

TEST(Norm, WithoutShift) {
  for_each_device([](Device& device, DType dtype) {
    Tensor x = make_tensor(device, {5, 9}, random_values(45, 1), dtype), w = make_tensor(device, {9}, random_values(9, 2), dtype);
    Tensor zero = make_tensor(device, {9}, std::vector<float>(9, 0.f), dtype);
    for (Norm kind : {Norm::layer, Norm::rms})
      EXPECT_EQ(download(device.queue(), run(device, kind, x, {}, w, {}, 1e-5f).y),
                download(device.queue(), run(device, kind, x, {}, w, zero, 1e-5f).y));
  });
}

TEST(Norm, LargeMeansKeepTheirVariance) {
  for (auto& device : devices()) {
    std::vector<float> values(100);
    for (std::size_t i = 0; i < 100; ++i) values[i] = 10000 + float(i % 2);  // mean 10000.5, variance 1/4
    Tensor x = make_tensor(*device, {1, 100}, values), w = make_tensor(*device, {100}, std::vector<float>(100, 1.f));
    auto y = download(device->queue(), run(*device, Norm::layer, x, {}, w, {}, 0).y);
    for (std::size_t i = 0; i < 100; ++i) EXPECT_NEAR(y[i], i % 2 ? 1 : -1, 1e-5);
  }
}

TEST(Norm, OneColumnIsItsOwnMean) {
  for_each_device([](Device& device, DType dtype) {
    const Queue& q = device.queue();
    Tensor x = make_tensor(device, {3, 1}, {5, -2, 0.25f}, dtype), w = make_tensor(device, {1}, {3}, dtype);
    Tensor b = make_tensor(device, {1}, {7}, dtype), dy = make_tensor(device, {3, 1}, {1, 2, 3}, dtype);
    Forward f = run(device, Norm::layer, x, {}, w, b, 1e-5f);
    EXPECT_EQ(download(q, f.y), (std::vector<float>{7, 7, 7}));
    Tensor dx = poisoned(device, {3, 1}, dtype), dw = poisoned(device, {1}), db = poisoned(device, {1});
    run_backward(device, Norm::layer, dx.view(), dw.view(), db.view(), dy, x, w, f, Write::overwrite);
    EXPECT_EQ(download(q, dx), (std::vector<float>{0, 0, 0}));
    EXPECT_EQ(download(q, dw), (std::vector<float>{0}));
    EXPECT_EQ(download(q, db), (std::vector<float>{6}));
  });
}

TEST(Norm, NoRows) {
  for_each_device([](Device& device, DType dtype) {
    View nothing{nullptr, 0, dtype}, none{nullptr, 0, DType::f32};
    Tensor w = make_tensor(device, {3}, {1, 1, 1}, dtype), dw = poisoned(device, {3}), db = poisoned(device, {3});
    kernels::norm(device.queue(), Norm::layer, nothing, {}, none, none, nothing, {}, w.view(), {}, 3, 1e-5f);
    kernels::norm_backward(device.queue(), Norm::layer, nothing, dw.view(), db.view(), nothing, nothing, w.view(), none, none, 3,
                           Write::overwrite, Write::overwrite, Write::overwrite);
    EXPECT_EQ(download(device.queue(), dw), (std::vector<float>{0, 0, 0}));
    EXPECT_EQ(download(device.queue(), db), (std::vector<float>{0, 0, 0}));
  });
}

// Against sums in double: shapes at which a GPU's blocks have one row or many, keep their sums in shared memory or beyond it, and
// read rows by packs or, where they begin anywhere, element by element.
TEST(Norm, BackwardOfManyShapes) {
  for_each_device([](Device& device, DType dtype) {
    for (auto [rows, columns] : {std::pair<std::int64_t, std::int64_t>{9000, 24}, {3, 6144}, {37, 1001}, {20, 7001}, {100, 768}})
      for (Norm kind : {Norm::layer, Norm::rms}) {
        SCOPED_TRACE(device.name() + " " + name_of(dtype) + " " + std::to_string(rows) + " x " + std::to_string(columns));
        const Queue& q = device.queue();
        Tensor x = make_tensor(device, {rows, columns}, random_values(rows * columns, 1), dtype);
        Tensor dy = make_tensor(device, {rows, columns}, random_values(rows * columns, 2), dtype);
        Tensor w = make_tensor(device, {columns}, random_values(columns, 3), dtype);
        Forward f = run(device, kind, x, {}, w, {}, 1e-5f);
        auto xs = download(q, x), ds = download(q, dy), ws = download(q, w);
        std::vector<double> dx(xs.size()), dw(ws.size()), db(ws.size());
        for (std::size_t r = 0; r < std::size_t(rows); ++r) {
          const std::size_t n = std::size_t(columns), at = r * n;
          double mean = 0, square = 0, g_mean = 0, gn_mean = 0;
          for (std::size_t c = 0; c < n && kind == Norm::layer; ++c) mean += double(xs[at + c]) / double(n);
          for (std::size_t c = 0; c < n; ++c) square += (double(xs[at + c]) - mean) * (double(xs[at + c]) - mean) / double(n);
          const double rstd = 1 / std::sqrt(square + 1e-5);
          auto normed = [&](std::size_t c) { return (double(xs[at + c]) - mean) * rstd; };
          for (std::size_t c = 0; c < n; ++c) {
            const double g = double(ds[at + c]) * double(ws[c]);
            g_mean += kind == Norm::layer ? g / double(n) : 0;
            gn_mean += g * normed(c) / double(n);
            dw[c] += double(ds[at + c]) * normed(c);
            db[c] += double(ds[at + c]);
          }
          for (std::size_t c = 0; c < n; ++c)
            dx[at + c] = rstd * (double(ds[at + c]) * double(ws[c]) - g_mean - normed(c) * gn_mean);
        }
        Tensor dx_ = poisoned(device, {rows, columns}, dtype), dw_ = poisoned(device, {columns}),
               db_ = poisoned(device, {columns});
        run_backward(device, kind, dx_.view(), dw_.view(), db_.view(), dy, x, w, f, Write::overwrite);
        EXPECT_LT(relative_norm(download(q, dx_), dx), dtype == DType::f32 ? 1e-5 : 1e-2);
        EXPECT_LT(relative_norm(download(q, dw_), dw), 1e-5);
        EXPECT_LT(relative_norm(download(q, db_), db), 1e-5);
        // Added to what is there, and the same bits again.
        auto first = download(q, dw_);
        run_backward(device, kind, dx_.view(), dw_.view(), {}, dy, x, w, f, Write::accumulate);
        for (double& v : dx) v *= 2;
        EXPECT_LT(relative_norm(download(q, dx_), dx), dtype == DType::f32 ? 1e-5 : 1e-2);
        run_backward(device, kind, {}, dw_.view(), {}, dy, x, w, f, Write::overwrite);
        EXPECT_LT(relative_norm(download(q, dw_), dw), 1e-5) << "alone";
        run_backward(device, kind, dx_.view(), dw_.view(), db_.view(), dy, x, w, f, Write::overwrite);
        EXPECT_EQ(download(q, dw_), first);
      }
  });
}

TEST(Norm, AroundTheCaches) {  // 32 MiB and more are written around them: rows are the same as those of a small call, bit for bit
  Device device;
  const std::int64_t rows = 8200, columns = 1024, few = 300;
  auto values = random_values(rows * columns, 1), added = random_values(rows * columns, 2), up = random_values(rows * columns, 3);
  Tensor w = make_tensor(device, {columns}, random_values(columns, 4)),
         b = make_tensor(device, {columns}, random_values(columns, 5));
  auto results = [&](std::int64_t n) {
    auto part = [&](std::vector<float> v) {
      v.resize(std::size_t(n * columns));
      return make_tensor(device, {n, columns}, v);
    };
    Tensor x = part(values), residual = part(added), dy = part(up);
    Tensor dx = poisoned(device, {n, columns}), dw(device, {columns}), db(device, {columns});
    Forward f = run(device, Norm::layer, x, residual, w, b, 1e-5f);
    run_backward(device, Norm::layer, dx.view(), dw.view(), db.view(), dy, f.s, w, f, Write::overwrite);
    Values all;
    for (const Tensor& t : {f.s, f.y, dx}) all.push_back(download(device.queue(), t));
    for (auto& v : all) v.resize(std::size_t(few * columns));
    return all;
  };
  auto of_all = results(rows), of_few = results(few);
  for (std::size_t i = 0; i < of_all.size(); ++i) EXPECT_TRUE(of_all[i] == of_few[i]) << "result " << i;
}

TEST(Norm, ThreadsDoNotMatter) {
  Device device;
  for (DType dtype : {DType::f32, DType::bf16, DType::f16})
    for (Norm kind : {Norm::layer, Norm::rms}) {
      Shape shape{700, 77};
      Tensor x = make_tensor(device, shape, random_values(700 * 77, 1), dtype),
             w = make_tensor(device, {77}, random_values(77, 2), dtype);
      Tensor dy = make_tensor(device, shape, random_values(700 * 77, 3), dtype);
      Tensor dx(device, shape, dtype), dw(device, {77}), db(device, {77});
      expect_same_for_any_threads(
          [&] {
            Forward f = run(device, kind, x, {}, w, {}, 1e-5f);
            run_backward(device, kind, dx.view(), dw.view(), db.view(), dy, x, w, f, Write::overwrite);
            std::vector<float> all;
            for (const Tensor& t : {f.y, dx, dw, db}) {
              auto values = download(device.queue(), t);
              all.insert(all.end(), values.begin(), values.end());
            }
            return all;
          },
          "norm");
    }
}

}  // namespace
}  // namespace lockstep
