#include "kernels/batch_norm.h"

#include <cmath>

#include "kernels/base/launch.h"
#include "kernels/batch_norm_cpu.h"
#include "kernels/vendor.h"

// Sums over rows are made in a fixed order. A GPU sums for the mean first, then squared distances from it, which keeps the
// variance exact where the mean is large beside it; the CPU's passes are in batch_norm_cpu.h.

namespace lockstep::kernels {
namespace {

using std::int64_t;

/// A GPU with few channels would be idle: `parts` neighbouring rows then count as one row of parts * channels columns, whose sums
/// are added in a second pass.
int64_t parts_of(const Queue& q, int64_t rows, int64_t channels) {
  if (!q.on_gpu || channels >= 8192) return 1;
  int64_t wanted = 8192 / channels, useful = rows / 64;
  return useful < 1 ? 1 : wanted < useful ? wanted : useful;
}

template <int K, class Term>
struct Wide {
  Term term;
  int64_t rows, channels, parts;
  HD Sums<K> operator()(int64_t r, int64_t column) const {
    int64_t row = r * parts + column / channels;
    return row < rows ? term(row, column % channels) : Sums<K>{};
  }
};
template <int K>
struct Store {
  float* sums;
  HD void operator()(int64_t column, Sums<K> total) const {
    for (int k = 0; k < K; ++k) sums[column * K + k] = total[k];
  }
};
template <int K>
struct Load {
  const float* sums;
  int64_t channels;
  HD Sums<K> operator()(int64_t part, int64_t c) const {
    Sums<K> s;
    for (int k = 0; k < K; ++k) s.v[k] = sums[(part * channels + c) * K + k];
    return s;
  }
};

/// Memory beside the tensors: three values a channel, and the sums of parts or of blocks.
struct Scratch {
  int64_t parts;
  float *scale, *mean_gradient, *slope, *sums;
  Scratch(const Queue& q, int64_t rows, int64_t channels) : parts(parts_of(q, rows, channels)) {
    scale = workspace(q, 3 * channels + (q.on_gpu ? 2 * parts * channels : rows_cpu::sums_size(rows, channels)));
    mean_gradient = scale + channels;
    slope = mean_gradient + channels;
    sums = slope + channels;
  }
};

/// finish(c, sums of term(r, c) over all rows) for every channel.
template <int K, class Term, class Finish>
void channel_sums(const Queue& q, int64_t rows, int64_t channels, const Scratch& scratch, Term term, Finish finish) {
  if (scratch.parts == 1) return reduce_rows<K>(q, rows, channels, term, finish);
  const int64_t parts = scratch.parts;
  reduce_rows<K>(q, (rows + parts - 1) / parts, parts * channels, Wide<K, Term>{term, rows, channels, parts},
                 Store<K>{scratch.sums});
  reduce_rows<K>(q, parts, channels, Load<K>{scratch.sums, channels}, finish);
}

template <class T>
struct MeanTerm {
  const T* x;
  int64_t channels;
  HD Sums<1> operator()(int64_t r, int64_t c) const { return {float(x[r * channels + c])}; }
};
struct MeanFinish {
  float* mean;
  float rows;
  HD void operator()(int64_t c, Sums<1> total) const { mean[c] = total[0] / rows; }
};

template <class T>
struct VarianceTerm {
  const T* x;
  const float* mean;
  int64_t channels;
  HD Sums<1> operator()(int64_t r, int64_t c) const {
    float d = float(x[r * channels + c]) - mean[c];
    return {d * d};
  }
};
template <class T>
struct VarianceFinish {
  float* variance;
  float* scale;
  const T* w;
  float rows, epsilon;
  HD void operator()(int64_t c, Sums<1> total) const {
    variance[c] = total[0] / rows;
    scale[c] = float(w[c]) / std::sqrt(variance[c] + epsilon);
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
};
/// body(elements…) of columns of memory, as for_each_in_rows.
template <class Body, class... P>
void for_each_element(const Queue& q, int64_t rows, int64_t channels, Body body, P... p) {
  q.on_gpu ? for_each_in_rows(q, rows, channels, body, p...) : rows_cpu::each_backwards(rows, channels, body, p...);
}

template <class T, bool relu>
struct GradientTerm {
  const T* dy;
  const T* x;
  const float* mean;
  const float* scale;
  const T* b;
  int64_t channels;
  /// The gradient behind relu. dy is read in any case: a read that depends on a condition keeps compilers from vectorising.
  HD float upstream(int64_t i, int64_t c) const {
    float d = float(dy[i]);
    if constexpr (relu) d = normalised(float(x[i]), mean[c], scale[c], float(b[c])) > 0 ? d : 0.f;
    return d;
  }
  HD Sums<2> operator()(int64_t r, int64_t c) const { return at(r * channels + c, c); }
  HD Sums<2> at(int64_t i, int64_t c) const {
    float d = upstream(i, c);
    return {{d, d * (float(x[i]) - mean[c])}};
  }
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
  if (q.recording)
    return q.recording->add([=](const Queue& then) { batch_norm(then, y, mean, variance, x, w, b, channels, epsilon, relu); });
  const int64_t rows = checked_rows("batch_norm", y, x, w, mean, variance, channels);
  require(rows > 0, "batch_norm: no rows to take statistics of");
  require(b.size == channels, "batch_norm: the shift needs {} elements", channels);
  visit_float(x.dtype, [&]<class T>() {
    Scratch scratch(q, rows, channels);
    float *m = mean.as<float>(), *v = variance.as<float>();
    const VarianceFinish<T> finish{v, scratch.scale, w.as<T>(), float(rows), epsilon};
    if (q.on_gpu) {
      channel_sums<1>(q, rows, channels, scratch, MeanTerm<T>{x.as<T>(), channels}, MeanFinish{m, float(rows)});
      channel_sums<1>(q, rows, channels, scratch, VarianceTerm<T>{x.as<T>(), m, channels}, finish);
    } else {
      rows_cpu::statistics(rows, channels, x.as<T>(), scratch.sums, [=](int64_t c, float mean, float squares) {
        m[c] = mean;
        finish(c, {{squares}});
      });
    }
    visit_flag(relu, [&]<bool cut>() {
      for_each_element(q, rows, channels, Apply<T, cut>{}, out(y.as<T>()), x.as<const T>(), per_column(m),
                       per_column(scratch.scale), per_column(b.as<const T>()));
    });
  });
}

void batch_norm_inference(const Queue& q, View y, View x, View w, View b, View mean, View variance, int64_t channels,
                          float epsilon, bool relu) {
  if (q.recording)
    return q.recording->add(
        [=](const Queue& then) { batch_norm_inference(then, y, x, w, b, mean, variance, channels, epsilon, relu); });
  const int64_t rows = checked_rows("batch_norm_inference", y, x, w, mean, variance, channels);
  require(b.size == channels, "batch_norm_inference: the shift needs {} elements", channels);
  visit_float(x.dtype, [&]<class T>() {
    Scratch scratch(q, rows, channels);
    for_each(q, channels, Scale<T>{scratch.scale, variance.as<float>(), w.as<T>(), epsilon});
    visit_flag(relu, [&]<bool cut>() {
      for_each_element(q, rows, channels, Apply<T, cut>{}, out(y.as<T>()), x.as<const T>(), per_column(mean.as<const float>()),
                       per_column(scratch.scale), per_column(b.as<const T>()));
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
      const GradientTerm<T, cut> term{dy.as<T>(), x.as<T>(), m, scratch.scale, cut ? b.as<T>() : nullptr, channels};
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
        if (q.on_gpu) return channel_sums<2>(q, rows, channels, scratch, term, finish);
        rows_cpu::two_sums(
            rows, channels, scratch.sums, [=](int64_t i, int64_t c) { return term.at(i, c); }, finish);
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
