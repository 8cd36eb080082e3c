#include "kernels/norm.h"

#include "kernels/base/launch.h"

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
    const T* in = x + row * columns;
    T* out = y + row * columns;
    if (residual) {
      const T* added = residual + row * columns;
      T* sum = s + row * columns;
      team.each(columns, [&](std::int64_t c) { sum[c] = T(float(in[c]) + float(added[c])); });
      in = sum;
    }
    float m = layer ? team.sum(columns, [&](std::int64_t c) { return float(in[c]); }) / float(columns) : 0.f;
    float squares = team.sum(columns, [&](std::int64_t c) {
      float d = float(in[c]) - m;
      return d * d;
    });
    float r = 1 / std::sqrt(squares / float(columns) + epsilon);
    if (b)
      team.each(columns, [&](std::int64_t c) { out[c] = T((float(in[c]) - m) * r * float(w[c]) + float(b[c])); });
    else
      team.each(columns, [&](std::int64_t c) { out[c] = T((float(in[c]) - m) * r * float(w[c])); });
    if (!team.first()) return;
    if (layer) mean[row] = m;
    rstd[row] = r;
  }
};

/// With n = (x - mean) * rstd and g = dy * w: dx = rstd * (g - mean(g) - n * mean(g * n)), without mean(g) for rms;
/// dw = sum of dy * n and db = sum of dy over rows.
template <class T, bool layer>
struct Backward {
  T* dx;
  const T* dy;
  const T* x;
  const T* w;
  const float* mean;
  const float* rstd;
  std::int64_t columns;
  bool accumulate;

  HD float mean_of(std::int64_t row) const { return layer ? mean[row] : 0.f; }

  /// dx of one row; visit(c, dy, n) meets every element on the way.
  template <class Team, class Visit>
  HD void row(Team team, std::int64_t row, Visit visit) const {
    const T* up = dy + row * columns;
    const T* in = x + row * columns;
    const T* scale = w;
    float m = mean_of(row), r = rstd[row];
    if (!dx) return team.each(columns, [&](std::int64_t c) { visit(c, float(up[c]), (float(in[c]) - m) * r); });
    auto means = team.template sums<2>(columns, [&](std::int64_t c) {
      float g = float(up[c]) * float(scale[c]), n = (float(in[c]) - m) * r;
      return Sums<2>{{g, g * n}};
    });
    float g_mean = layer ? means[0] / float(columns) : 0.f, gn_mean = means[1] / float(columns);
    T* out = dx + row * columns;
    auto gradient = [&](std::int64_t c) {
      float d = float(up[c]), n = (float(in[c]) - m) * r;
      visit(c, d, n);
      return r * (d * float(scale[c]) - g_mean - n * gn_mean);
    };
    if (accumulate)
      team.each(columns, [&](std::int64_t c) { out[c] = T(float(out[c]) + gradient(c)); });
    else
      team.each(columns, [&](std::int64_t c) { out[c] = T(gradient(c)); });
  }

  template <class Team>
  HD void operator()(Team team, std::int64_t r) const {
    row(team, r, [](std::int64_t, float, float) {});
  }
  /// The terms of dw and db.
  HD Sums<2> operator()(std::int64_t row, std::int64_t c) const {
    float d = float(dy[row * columns + c]);
    return {{d * (float(x[row * columns + c]) - mean_of(row)) * rstd[row], d}};
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

/// The CPU's backward: dx and the sums for dw and db of a block of rows while they are in the cache.
template <class T, bool layer, class End>
void sweep(std::int64_t rows, Backward<T, layer> backward, End finish) {
  std::int64_t columns = backward.columns;
  auto block = [=](std::int64_t b, float* sums) {
    std::int64_t end = (b + 1) * row_block < rows ? (b + 1) * row_block : rows;
    float* dw = sums;
    float* db = sums + columns;
    for (std::int64_t r = b * row_block; r < end; ++r)
      backward.row(SerialTeam{}, r, [=](std::int64_t c, float d, float n) {
        dw[c] += d * n;
        db[c] += d;
      });
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
  visit_float(x.dtype, [&]<class T>() {
    visit_norm(kind, [&]<bool layer>() {
      for_each_row(q, rows, columns,
                   Forward<T, layer>{y.as<T>(), s.as<T>(), mean.as<float>(), rstd.as<float>(), x.as<T>(), residual.as<T>(),
                                     w.as<T>(), b.as<T>(), columns, epsilon});
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
  visit_float(x.dtype, [&]<class T>() {
    visit_norm(kind, [&]<bool layer>() {
      Backward<T, layer> backward{dx.as<T>(),       dy.as<T>(),       x.as<T>(), w.as<T>(),
                                  mean.as<float>(), rstd.as<float>(), columns,   write_x == Write::accumulate};
      if (!dw && !db) {
        if (dx) for_each_row(q, rows, columns, backward);
        return;
      }
      auto sums = [&]<class W>() {
        Finish<W> finish{dw.as<W>(), db.as<W>(), write_w == Write::accumulate, write_b == Write::accumulate};
        if (!q.on_gpu) return sweep(rows, backward, finish);
        if (dx) for_each_row(q, rows, columns, backward);
        reduce_rows<2>(q, rows, columns, backward, finish);
      };
      if ((dw ? dw : db).dtype == dtype_of<T>)
        sums.template operator()<T>();
      else
        sums.template operator()<float>();
    });
  });
}

}  // namespace lockstep::kernels
