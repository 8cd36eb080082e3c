#include "kernels/reduce.h"

#include "kernels/base/launch.h"
#include "kernels/vendor.h"

namespace lockstep::kernels {
namespace {

template <class T, class Y>
struct Columns {
  Y* y;
  const T* x;
  std::int64_t columns;
  Reduction kind;
  template <class Team>
  HD void operator()(Team team, std::int64_t row) const {
    const T* in = x + row * columns;
    auto value = [](T v) { return float(v); };
    float total = team.sum(columns, value, in);
    if (kind == Reduction::max) {
      // The sum is NaN where an element is, or where infinities cancel: only then look closer.
      float most = team.max(columns, value, in);
      bool nan =
          total != total && team.first_where(columns, [&](std::int64_t c) { return float(in[c]) != float(in[c]); }) < columns;
      total = nan ? total : most;
    }
    if (kind == Reduction::mean) total /= float(columns);
    if (team.first()) y[row] = Y(total);
  }
};

template <class T, class Y>
struct ColumnsBackward {
  T* dx;
  const Y* dy;
  const T* x;
  const Y* y;
  std::int64_t columns;
  Reduction kind;
  bool accumulate;
  template <class Team>
  HD void operator()(Team team, std::int64_t row) const {
    T* out = dx + row * columns;
    float d = float(dy[row]);
    if (kind != Reduction::max) {
      float each = kind == Reduction::mean ? d / float(columns) : d;
      team.each(columns, [&](std::int64_t c) { out[c] = T(accumulate ? float(out[c]) + each : each); });
      return;
    }
    const T* in = x + row * columns;
    float most = float(y[row]);
    std::int64_t at = team.first_where(columns, [&](std::int64_t c) { return float(in[c]) == most; });
    team.each(columns, [&](std::int64_t c) {
      float v = c == at ? d : 0.f;
      out[c] = T(accumulate ? float(out[c]) + v : v);
    });
  }
};

template <class Y>
struct Rows {
  Y* y;
  bool accumulate;
  template <class T>
  HD Sums<1> operator()(T x) const {
    return Sums<1>{{float(x)}};
  }
  HD void operator()(std::int64_t c, Sums<1> total) const { y[c] = Y(accumulate ? float(y[c]) + total[0] : total[0]); }
};

/// The sum of one block of x, in every member of the team.
template <class T>
struct BlockSum {
  static constexpr std::int64_t block = 4096;
  const T* x;
  std::int64_t size;
  template <class Team>
  HD float operator()(Team team, std::int64_t b) const {
    const T* in = x + b * block;
    std::int64_t n = size - b * block < block ? size - b * block : block;
    return team.sum(
        n, [](T v) { return float(v); }, in);
  }
};
template <class T>
struct PartialSums {
  float* partials;
  BlockSum<T> sum;
  template <class Team>
  HD void operator()(Team team, std::int64_t b) const {
    float total = sum(team, b);
    if (team.first()) partials[b] = total;
  }
};
/// One team meets all blocks.
template <class T>
struct TotalSum {
  float* y;
  BlockSum<T> sum;
  std::int64_t blocks;
  bool accumulate;
  template <class Team>
  HD void operator()(Team team, std::int64_t) const {
    double total = 0;
    for (std::int64_t b = 0; b < blocks; ++b) total += double(sum(team, b));
    if (team.first()) y[0] = accumulate ? y[0] + float(total) : float(total);
  }
};

template <class T>
struct ArgMax {
  std::int32_t* index;
  const T* x;
  std::int64_t columns;
  template <class Team>
  HD void operator()(Team team, std::int64_t row) const {
    const T* in = x + row * columns;
    float most = team.max(
        columns, [](T v) { return float(v); }, in);
    std::int64_t at = team.first_where(columns, [&](std::int64_t c) { return float(in[c]) == most; });
    if (team.first()) index[row] = at < columns ? std::int32_t(at) : -1;
  }
};

/// Calls f.operator()<T, Y>() for a result that is f32 or of x's dtype.
template <class F>
void visit_result(DType x, DType y, F&& f) {
  visit_float(x, [&]<class T>() {
    if (y == x)
      f.template operator()<T, T>();
    else
      f.template operator()<T, float>();
  });
}

std::int64_t rows_of(const char* op, View x, std::int64_t columns) {
  require(columns > 0 && x.size % columns == 0, "{}: {} elements in rows of {}", op, x.size, columns);
  return x.size / columns;
}

}  // namespace

void reduce_columns(const Queue& q, Reduction kind, View y, View x, std::int64_t columns) {
  std::int64_t rows = rows_of("reduce_columns", x, columns);
  require(y.size == rows, "reduce_columns: {} results for {} rows", y.size, rows);
  visit_result(x.dtype, y.dtype, [&]<class T, class Y>() {
    for_each_row(q, rows, columns, Columns<T, Y>{y.as<Y>(), x.as<T>(), columns, kind});
  });
}

void reduce_columns_backward(const Queue& q, Reduction kind, View dx, View dy, View x, View y, std::int64_t columns,
                             Write write) {
  std::int64_t rows = rows_of("reduce_columns_backward", dx, columns);
  require(dy.size == rows, "reduce_columns_backward: {} gradients for {} rows", dy.size, rows);
  require(kind != Reduction::max || (x.size == dx.size && y.size == rows && y.dtype == dy.dtype),
          "reduce_columns_backward: max needs x ({} elements, not {}) and y ({}, not {})", dx.size, x.size, rows, y.size);
  visit_result(dx.dtype, dy.dtype, [&]<class T, class Y>() {
    bool reads = kind == Reduction::max;
    for_each_row(q, rows, columns,
                 ColumnsBackward<T, Y>{dx.as<T>(), dy.as<Y>(), reads ? x.as<T>() : nullptr, reads ? y.as<Y>() : nullptr, columns,
                                       kind, write == Write::accumulate});
  });
}

void sum_rows(const Queue& q, View y, View x, std::int64_t columns, Write write) {
  std::int64_t rows = rows_of("sum_rows", x, columns);
  require(y.size == columns, "sum_rows: {} results for {} columns", y.size, columns);
  visit_result(x.dtype, y.dtype, [&]<class T, class Y>() {
    const Rows<Y> body{y.as<Y>(), write == Write::accumulate};
    float* partials = q.on_gpu ? workspace(q, SumShares(rows, columns).floats(1)) : nullptr;
    reduce_rows<1>(q, rows, columns, partials, body, body, x.as<const T>());
  });
}

void sum_all(const Queue& q, View y, View x, Write write) {
  if (q.recording) return q.recording->add([=](const Queue& then) { sum_all(then, y, x, write); });
  require(y.size == 1, "sum_all: {} results", y.size);
  float* out = y.as<float>();
  visit_float(x.dtype, [&]<class T>() {
    BlockSum<T> sum{x.as<T>(), x.size};
    std::int64_t blocks = (x.size + BlockSum<T>::block - 1) / BlockSum<T>::block;
    bool accumulate = write == Write::accumulate;
    if (q.on_gpu) return for_each_row(q, 1, BlockSum<T>::block, TotalSum<T>{out, sum, blocks, accumulate});
    std::vector<float> partials(std::size_t(blocks), 0.f);
    for_each_row(q, blocks, BlockSum<T>::block, PartialSums<T>{partials.data(), sum});
    double total = 0;
    for (float p : partials) total += double(p);
    *out = accumulate ? *out + float(total) : float(total);
  });
}

void arg_max(const Queue& q, View index, View x, std::int64_t columns) {
  std::int64_t rows = rows_of("arg_max", x, columns);
  require(index.size == rows, "arg_max: {} positions for {} rows", index.size, rows);
  visit_float(x.dtype, [&]<class T>() {
    for_each_row(q, rows, columns, ArgMax<T>{index.as<std::int32_t>(), x.as<T>(), columns});
  });
}

}  // namespace lockstep::kernels
