#include "kernels/batch_norm.h"

#include <cmath>

#include "kernels/base/launch.h"
#include "kernels/batch_norm_cpu.h"
#include "kernels/vendor.h"

// Sums over rows are made in a fixed order. A GPU sums distances from a value near the mean, and their squares, in one pass,
// which keeps the variance exact where the mean is large beside it; the CPU's passes are in batch_norm_cpu.h.

namespace lockstep::kernels {
namespace {

using std::int64_t;

/// Memory beside the tensors: three values a channel, and sums of shares or of blocks.
struct Scratch {
  float *scale, *mean_gradient, *slope, *sums;
  Scratch(const Queue& q, int64_t rows, int64_t channels) {
    const int64_t room = (channels + 7) / 8 * 8;  // the sums begin at an address for vectors
    scale = workspace(q, 3 * room + (q.on_gpu ? SumShares(rows, channels).floats(2) : rows_cpu::sums_size(rows, channels)));
    mean_gradient = scale + room;
    slope = mean_gradient + room;
    sums = slope + room;
  }
};

/// Where a GPU's distances begin: the mean of 32 rows, spread evenly. One of them may be far off: what is lost then is little
/// beside the variance that it makes.
template <class T>
struct Shift {
  float* shift;
  const T* x;
  int64_t rows, channels;
  HD void operator()(int64_t c) const {
    float sum = 0;
    for (int64_t i = 0; i < 32; ++i) sum += float(x[i * rows / 32 * channels + c]);
    shift[c] = sum / 32;
  }
};
template <class T>
struct DistanceTerm {
  HD Sums<2> operator()(T x, float shift) const {
    float d = float(x) - shift;
    return Sums<2>{{d, d * d}};
  }
};
struct StatisticsFinish {
  float* mean;
  float* variance;
  const float* shift;
  float rows;
  HD void operator()(int64_t c, Sums<2> total) const {
    float d = total[0] / rows, v = (total[1] - total[0] * d) / rows;
    mean[c] = shift[c] + d;
    variance[c] = v > 0 ? v : 0.f;
  }
};

struct OfSums {
  float rows;
  HD void operator()(float& mean, float& variance, float sum, float squares) const {
    mean = sum / rows;
    float v = squares / rows - mean * mean;
    variance = v > 0 ? v : 0.f;
  }
};

template <class T>
struct Scale {
  float* scale;
  const float* variance;
  const T* w;
  float epsilon;
  HD void operator()(int64_t c) const { scale[c] = float(w[c]) / std::sqrt(variance[c] + epsilon); }
};

/// What is put out, before relu. Backward computes it again to know where relu was active.
HD float normalised(float x, float mean, float scale, float shift) {
  return (x - mean) * scale + shift;
}

template <class T, bool relu>
struct Apply {
  HD void operator()(T& y, T x, float mean, float scale, T b) const {
    float v = normalised(float(x), mean, scale, float(b));
    y = T(relu && v < 0 ? 0.f : v);
  }
  HD void operator()(T& y, T x, float mean, float scale, T b, T residual) const {
    float v = float(T(normalised(float(x), mean, scale, float(b)))) + float(residual);
    y = T(relu && v < 0 ? 0.f : v);
  }
};
/// body(elements…) of columns of memory, as for_each_in_rows.
template <class Body, class... P>
void for_each_element(const Queue& q, int64_t rows, int64_t channels, Body body, P... p) {
  q.on_gpu ? for_each_in_rows(q, rows, channels, body, p...) : rows_cpu::each_backwards(rows, channels, body, p...);
}

template <class T>
struct GradientTerm {
  HD Sums<2> operator()(T dy, T x, float mean) const { return terms(float(dy), float(x) - mean); }
  HD Sums<2> operator()(T dy, T x, float mean, float scale, T b) const {  // behind relu
    float d = float(dy);
    d = normalised(float(x), mean, scale, float(b)) > 0 ? d : 0.f;
    return terms(d, float(x) - mean);
  }

 private:
  HD static Sums<2> terms(float d, float x) { return Sums<2>{{d, d * x}}; }
};
template <class W>
struct GradientFinish {
  W* dw;
  W* db;
  float* mean_gradient;
  float* slope;
  const float* variance;
  float rows, epsilon;
  bool add_w, add_b;
  HD void operator()(int64_t c, Sums<2> total) const {
    float rstd = 1 / std::sqrt(variance[c] + epsilon), to_w = total[1] * rstd;
    if (dw) dw[c] = W(add_w ? float(dw[c]) + to_w : to_w);
    if (db) db[c] = W(add_b ? float(db[c]) + total[0] : total[0]);
    mean_gradient[c] = total[0] / rows;
    slope[c] = to_w * rstd / rows;
  }
};

/// dx = w * rstd * (dy - mean(dy) - (x - mean) * rstd² * mean(dy * (x - mean))).
template <class T, bool add>
struct Gradient {
  HD void operator()(T& dx, T dy, T x, float mean, float scale, float mean_gradient, float slope) const {
    put(dx, float(dy), float(x) - mean, scale, mean_gradient, slope);
  }
  HD void operator()(T& dx, T dy, T x, float mean, float scale, float mean_gradient, float slope, T b) const {  // behind relu
    float d = float(dy);
    d = normalised(float(x), mean, scale, float(b)) > 0 ? d : 0.f;
    put(dx, d, float(x) - mean, scale, mean_gradient, slope);
  }

 private:
  HD static void put(T& dx, float d, float x, float scale, float mean_gradient, float slope) {
    d = scale * (d - mean_gradient - x * slope);
    dx = T(add ? float(dx) + d : d);
  }
};

int64_t checked_rows(const char* op, View y, View x, View w, View mean, View variance, int64_t channels) {
  require(channels > 0 && x.size % channels == 0, "{}: {} elements are not rows of {} channels", op, x.size, channels);
  require(y.size == x.size && y.dtype == x.dtype, "{}: {} {} in, {} {} out", op, x.size, name_of(x.dtype), y.size,
          name_of(y.dtype));
  require(w.size == channels && mean.size == channels && variance.size == channels,
          "{}: the scale and the statistics need {} elements", op, channels);
  return x.size / channels;
}

template <class F>
void visit_flag(bool flag, F&& f) {
  flag ? f.template operator()<true>() : f.template operator()<false>();
}

}  // namespace

void batch_norm(const Queue& q, View y, View mean, View variance, View x, View w, View b, int64_t channels, float epsilon,
                bool relu) {
  batch_norm_statistics(q, mean, variance, x, channels);
  batch_norm_inference(q, y, x, w, b, mean, variance, {}, channels, epsilon, relu);
}

void batch_norm_statistics(const Queue& q, View mean, View variance, View x, int64_t channels) {
  if (q.recording) return q.recording->add([=](const Queue& then) { batch_norm_statistics(then, mean, variance, x, channels); });
  const int64_t rows = checked_rows("batch_norm_statistics", x, x, mean, mean, variance, channels);
  require(rows > 0, "batch_norm_statistics: no rows to take statistics of");
  visit_float(x.dtype, [&]<class T>() {
    Scratch scratch(q, rows, channels);
    float *m = mean.as<float>(), *v = variance.as<float>();
    if (!q.on_gpu)
      return rows_cpu::statistics(rows, channels, x.as<T>(), scratch.sums, [=](int64_t c, float mean, float squares) {
        m[c] = mean;
        v[c] = squares / float(rows);
      });
    float* shift = scratch.scale;
    for_each(q, channels, Shift<T>{shift, x.as<T>(), rows, channels});
    reduce_rows<2>(q, rows, channels, scratch.sums, DistanceTerm<T>{}, StatisticsFinish{m, v, shift, float(rows)},
                   x.as<const T>(), per_column(shift));
  });
}

void batch_norm_statistics_of_sums(const Queue& q, View mean, View variance, View sum, View squares, int64_t rows) {
  require(mean.size == sum.size && variance.size == sum.size && squares.size == sum.size && rows > 0,
          "batch_norm_statistics_of_sums: sizes {}, {}, {}, {} of {} rows", mean.size, variance.size, sum.size, squares.size,
          rows);
  for_each(q, sum.size, OfSums{float(rows)}, out(mean.as<float>()), out(variance.as<float>()), sum.as<const float>(),
           squares.as<const float>());
}

void batch_norm_inference(const Queue& q, View y, View x, View w, View b, View mean, View variance, View residual,
                          int64_t channels, float epsilon, bool relu) {
  if (q.recording)
    return q.recording->add(
        [=](const Queue& then) { batch_norm_inference(then, y, x, w, b, mean, variance, residual, channels, epsilon, relu); });
  const int64_t rows = checked_rows("batch_norm_inference", y, x, w, mean, variance, channels);
  require(b.size == channels, "batch_norm_inference: the shift needs {} elements", channels);
  require(!residual || (residual.size == x.size && residual.dtype == x.dtype),
          "batch_norm_inference: the residual must look like x");
  visit_float(x.dtype, [&]<class T>() {
    Scratch scratch(q, rows, channels);
    for_each(q, channels, Scale<T>{scratch.scale, variance.as<float>(), w.as<T>(), epsilon});
    visit_flag(relu, [&]<bool cut>() {
      auto apply = [&](auto... residual) {
        for_each_element(q, rows, channels, Apply<T, cut>{}, out(y.as<T>()), x.as<const T>(), per_column(mean.as<const float>()),
                         per_column(scratch.scale), per_column(b.as<const T>()), residual...);
      };
      residual ? apply(residual.as<const T>()) : apply();
    });
  });
}

void batch_norm_backward(const Queue& q, View dx, View dw, View db, View dy, View x, View w, View b, View mean, View variance,
                         int64_t channels, float epsilon, bool relu, Write write_x, Write write_w, Write write_b) {
  if (q.recording)
    return q.recording->add([=](const Queue& then) {
      batch_norm_backward(then, dx, dw, db, dy, x, w, b, mean, variance, channels, epsilon, relu, write_x, write_w, write_b);
    });
  const int64_t rows = checked_rows("batch_norm_backward", dy, x, w, mean, variance, channels);
  require(!dx || (dx.size == x.size && dx.dtype == x.dtype), "batch_norm_backward: dx must look like x");
  require((!dw || dw.size == channels) && (!db || db.size == channels), "batch_norm_backward: dw and db need {} elements",
          channels);
  require(!dw || !db || dw.dtype == db.dtype, "batch_norm_backward: dw is {}, db is {}", name_of(dw.dtype), name_of(db.dtype));
  require(!relu || b.size == channels, "batch_norm_backward: with relu the shift needs {} elements", channels);
  visit_float(x.dtype, [&]<class T>() {
    Scratch scratch(q, rows, channels);
    const float *m = mean.as<float>(), *v = variance.as<float>();
    for_each(q, channels, Scale<T>{scratch.scale, v, w.as<T>(), epsilon});
    visit_flag(relu, [&]<bool cut>() {
      auto sums = [&]<class W>() {
        const GradientFinish<W> finish{dw.as<W>(),
                                       db.as<W>(),
                                       scratch.mean_gradient,
                                       scratch.slope,
                                       v,
                                       float(rows),
                                       epsilon,
                                       write_w == Write::accumulate,
                                       write_b == Write::accumulate};
        auto of = [&](auto... columns) {
          q.on_gpu ? reduce_rows<2>(q, rows, channels, scratch.sums, GradientTerm<T>{}, finish, columns...)
                   : rows_cpu::two_sums(rows, channels, scratch.sums, GradientTerm<T>{}, finish, columns...);
        };
        if constexpr (cut)
          of(dy.as<const T>(), x.as<const T>(), per_column(m), per_column(scratch.scale), per_column(b.as<const T>()));
        else
          of(dy.as<const T>(), x.as<const T>(), per_column(m));
      };
      (dw ? dw : db).dtype == dtype_of<T> ? sums.template operator()<T>() : sums.template operator()<float>();
      if (!dx) return;
      auto run = [&]<bool add>(auto to) {
        auto each = [&](auto... shift) {
          for_each_element(q, rows, channels, Gradient<T, add>{}, to, dy.as<const T>(), x.as<const T>(), per_column(m),
                           per_column(scratch.scale), per_column(scratch.mean_gradient), per_column(scratch.slope), shift...);
        };
        if constexpr (cut)
          each(per_column(b.as<const T>()));
        else
          each();
      };
      write_x == Write::accumulate ? run.template operator()<true>(dx.as<T>()) : run.template operator()<false>(out(dx.as<T>()));
    });
  });
}

}  // namespace lockstep::kernels
