#include "kernels/norm.h"

#include <algorithm>
#include <vector>

#include "kernels/base/launch.h"
#include "kernels/base/stream.h"
#include "kernels/vendor.h"

namespace lockstep::kernels {
namespace {

template <class T, bool layer>
struct Forward {
  T* y;
  T* s;
  float* mean;
  float* rstd;
  const T* x;
  const T* residual;
  const T* w;
  const T* b;
  std::int64_t columns;
  float epsilon;

  template <class Team>
  HD void operator()(Team team, std::int64_t row) const {
    make(team, row, y + row * columns, residual ? s + row * columns : nullptr);
  }
  /// One row, written to `to` and, with a residual, to `sum`.
  template <class Team>
  HD void make(Team team, std::int64_t row, T* to, T* sum) const {
    const T* in = x + row * columns;
    if (residual) {
      team.each(
          columns, [](T& both, T a, T b) { both = T(float(a) + float(b)); }, out(sum), in, residual + row * columns);
      in = sum;
    }
    const float m = layer ? team.sum(
                                columns, [](T v) { return float(v); }, in) /
                                float(columns)
                          : 0.f;
    auto square = [m](T v) {
      float d = float(v) - m;
      return d * d;
    };
    const float r = 1 / std::sqrt(team.sum(columns, square, in) / float(columns) + epsilon);
    if (b)
      team.each(
          columns, [m, r](T& y, T v, T w, T b) { y = T((float(v) - m) * r * float(w) + float(b)); }, out(to), in, w, b);
    else
      team.each(
          columns, [m, r](T& y, T v, T w) { y = T((float(v) - m) * r * float(w)); }, out(to), in, w);
    if (!team.first()) return;
    if (layer) mean[row] = m;
    rstd[row] = r;
  }
};

/// The CPU's forward with a residual where rows go around the caches.
template <class T, bool layer>
void stream_rows(std::int64_t rows, Forward<T, layer> forward) {
  const std::int64_t columns = forward.columns;
  for_each_block(rows, columns, row_block, Direction::forwards, [=](std::int64_t, std::int64_t begin, std::int64_t end) {
    std::vector<T> row_of_y(static_cast<std::size_t>(columns)), row_of_s(row_of_y.size());
    for (std::int64_t row = begin; row < end; ++row) {
      forward.make(SerialTeam{}, row, row_of_y.data(), row_of_s.data());
      stream(forward.y + row * columns, row_of_y.data(), columns);
      stream(forward.s + row * columns, row_of_s.data(), columns);
    }
    finish_streams();
  });
}

/// With n = (x - mean) * rstd and g = dy * w: dx = rstd * (g - mean(g) - n * mean(g * n)), without mean(g) for rms;
/// dw = sum of dy * n and db = sum of dy over rows.
template <class T, bool layer, bool accumulate>
struct Backward {
  T* dx;
  const T* dy;
  const T* x;
  const T* w;
  const float* mean;
  const float* rstd;
  std::int64_t columns;

  /// dx of one row alone.
  template <class Team>
  HD void operator()(Team team, std::int64_t row) const {
    const Gradient gradient = of(team, row);
    team.each(
        columns, [gradient](T& to, T d, T v, T scale) { gradient.put(to, float(d), gradient.normed(v), scale); }, target(row),
        dy + row * columns, x + row * columns, w);
  }
  /// And its terms of dw and db; or these alone.
  template <class Team>
  HD void operator()(Team team, std::int64_t row, ColumnSums sums) const {
    const T* up = dy + row * columns;
    const T* in = x + row * columns;
    if (!dx) {
      const Gradient gradient = start(row);
      auto add = [gradient](T d, T v, float& to_w, float& to_b) {
        to_w += float(d) * gradient.normed(v);
        to_b += float(d);
      };
      return team.each(columns, add, up, in, sums[0], sums[1]);
    }
    const Gradient gradient = of(team, row);
    auto all = [gradient](T& to, T d, T v, T scale, float& to_w, float& to_b) {
      float n = gradient.normed(v);
      to_w += float(d) * n;
      to_b += float(d);
      gradient.put(to, float(d), n, scale);
    };
    team.each(columns, all, target(row), up, in, w, sums[0], sums[1]);
  }

  struct Gradient {
    float mean, rstd, g_mean, gn_mean;
    HD float normed(T x) const { return (float(x) - mean) * rstd; }
    HD void put(T& dx, float d, float n, T w) const {
      float value = rstd * (d * float(w) - g_mean - n * gn_mean);
      dx = T(accumulate ? float(dx) + value : value);
    }
  };
  HD Gradient start(std::int64_t row) const { return {layer ? mean[row] : 0.f, rstd[row], 0, 0}; }
  template <class Team>
  HD Gradient of(Team team, std::int64_t row) const {
    Gradient gradient = start(row);
    auto terms = [gradient](T d, T v, T scale) {
      float g = float(d) * float(scale);
      return Sums<2>{{g, g * gradient.normed(v)}};
    };
    auto means = team.template sums<2>(columns, terms, dy + row * columns, x + row * columns, w);
    gradient.g_mean = layer ? means[0] / float(columns) : 0.f;
    gradient.gn_mean = means[1] / float(columns);
    return gradient;
  }
  HD auto target(std::int64_t row) const {
    if constexpr (accumulate)
      return dx + row * columns;
    else
      return out(dx + row * columns);
  }
};

template <class W>
struct Finish {
  W* dw;
  W* db;
  bool add_w, add_b;
  HD void operator()(std::int64_t c, Sums<2> total) const {
    if (dw) dw[c] = W(add_w ? float(dw[c]) + total[0] : total[0]);
    if (db) db[c] = W(add_b ? float(db[c]) + total[1] : total[1]);
  }
};

/// The CPU's backward: dx and the sums for dw and db of a block of rows while they are in the cache, four rows at a time.
template <class T, bool layer, bool accumulate, class End>
void sweep(std::int64_t rows, Backward<T, layer, accumulate> backward, End finish) {
  const std::int64_t columns = backward.columns;
  const bool streams = backward.dx && !accumulate && goes_around_caches(backward.dx, rows, columns);
  auto block = [=](std::int64_t b, float* sums) {
    float *dw = sums, *db = sums + columns;
    std::vector<T> rows_of_dx(static_cast<std::size_t>(streams ? 4 * columns : 0));
    T* made = streams ? rows_of_dx.data() : nullptr;
    by_fours(b * row_block, std::min((b + 1) * row_block, rows), [=]<int n>(std::int64_t row) {
      const T *up = backward.dy + row * columns, *in = backward.x + row * columns, *scale = backward.w;
      T* to = made ? made : backward.dx ? backward.dx + row * columns : nullptr;
      typename Backward<T, layer, accumulate>::Gradient gradient[n];
      for (int i = 0; i < n; ++i) gradient[i] = to ? backward.of(SerialTeam{}, row + i) : backward.start(row + i);
      auto column = [=](std::int64_t c, auto put) {
        float to_w = 0, to_b = 0;
        for (int i = 0; i < n; ++i) {
          float d = float(up[i * columns + c]), x = gradient[i].normed(in[i * columns + c]);
          to_w += d * x;
          to_b += d;
          put(i, d, x);
        }
        dw[c] += to_w;
        db[c] += to_b;
      };
      if (to)
#pragma omp simd
        for (std::int64_t c = 0; c < columns; ++c)
          column(c, [&](int i, float d, float x) { gradient[i].put(to[i * columns + c], d, x, scale[c]); });
      else
#pragma omp simd
        for (std::int64_t c = 0; c < columns; ++c) column(c, [](int, float, float) {});
      if (made) stream(backward.dx + row * columns, made, n * columns);
    });
    if (made) finish_streams();
  };
  reduce_blocks<2>((rows + row_block - 1) / row_block, columns, rows, block, finish);
}

template <class F>
void visit_norm(Norm kind, F&& f) {
  if (kind == Norm::layer) return f.template operator()<true>();
  return f.template operator()<false>();
}

}  // namespace

void norm(const Queue& q, Norm kind, View y, View s, View mean, View rstd, View x, View residual, View w, View b,
          std::int64_t columns, float epsilon) {
  require(columns > 0 && x.size % columns == 0 && y.size == x.size, "norm: {} elements in, {} out, {} columns", x.size, y.size,
          columns);
  std::int64_t rows = x.size / columns;
  require(w.size == columns && (!b || b.size == columns), "norm: w and b need {} elements", columns);
  require(rstd.size == rows && (kind == Norm::rms || mean.size == rows), "norm: mean and rstd need {} elements", rows);
  require(!residual || (residual.size == x.size && s.size == x.size), "norm: residual and sum need {} elements", x.size);
  if (q.recording)
    return q.recording->add([=](const Queue& then) { norm(then, kind, y, s, mean, rstd, x, residual, w, b, columns, epsilon); });
  visit_float(x.dtype, [&]<class T>() {
    visit_norm(kind, [&]<bool layer>() {
      const Forward<T, layer> forward{y.as<T>(),        s.as<T>(), mean.as<float>(), rstd.as<float>(), x.as<T>(),
                                      residual.as<T>(), w.as<T>(), b.as<T>(),        columns,          epsilon};
      // Two outputs: one alone is written as fast through the caches.
      if (!q.on_gpu && residual && goes_around_caches(y.as<T>(), rows, columns) && goes_around_caches(s.as<T>(), rows, columns))
        return stream_rows(rows, forward);
      for_each_row(q, rows, columns, forward);
    });
  });
}

void norm_backward(const Queue& q, Norm kind, View dx, View dw, View db, View dy, View x, View w, View mean, View rstd,
                   std::int64_t columns, Write write_x, Write write_w, Write write_b) {
  if (q.recording)
    return q.recording->add([=](const Queue& then) {
      norm_backward(then, kind, dx, dw, db, dy, x, w, mean, rstd, columns, write_x, write_w, write_b);
    });
  require(columns > 0 && x.size % columns == 0 && dy.size == x.size, "norm_backward: {} elements of x, {} of dy, {} columns",
          x.size, dy.size, columns);
  std::int64_t rows = x.size / columns;
  require(!dx || dx.size == x.size, "norm_backward: dx has {} elements instead of {}", dx.size, x.size);
  require((!dw || dw.size == columns) && (!db || db.size == columns), "norm_backward: dw and db need {} elements", columns);
  require(rstd.size == rows && (kind == Norm::rms || mean.size == rows), "norm_backward: mean and rstd need {} elements", rows);
  float* partials = q.on_gpu && (dw || db) ? workspace(q, SweepShares(rows, columns).floats(2)) : nullptr;
  visit_float(x.dtype, [&]<class T>() {
    visit_norm(kind, [&]<bool layer>() {
      auto run = [&]<bool accumulate>() {
        const Backward<T, layer, accumulate> backward{dx.as<T>(),       dy.as<T>(),       x.as<T>(), w.as<T>(),
                                                      mean.as<float>(), rstd.as<float>(), columns};
        auto sums = [&]<class W>() {
          const Finish<W> finish{dw.as<W>(), db.as<W>(), write_w == Write::accumulate, write_b == Write::accumulate};
          q.on_gpu ? sweep_rows<2>(q, rows, columns, partials, backward, finish) : sweep(rows, backward, finish);
        };
        if (!dw && !db) return dx ? for_each_row(q, rows, columns, backward) : void();
        (dw ? dw : db).dtype == dtype_of<T> ? sums.template operator()<T>() : sums.template operator()<float>();
      };
      write_x == Write::accumulate ? run.template operator()<true>() : run.template operator()<false>();
    });
  });
}

}  // namespace lockstep::kernels
