#include "kernels/unary.h"

#include "kernels/base/launch.h"
#include "kernels/memory.h"
#include "kernels/reduce.h"

namespace lockstep::kernels {
namespace {

template <class Op, class T>
struct Forward {
  HD void operator()(T& y, T x) const { y = T(Op::value(float(x))); }
};

template <class Op, class T>
struct AddForward {
  HD void operator()(T& y, T x) const { y = T(float(y) + Op::value(float(x))); }
};

template <class Op, class T, bool add>
struct Backward {
  HD void operator()(T& dx, T dy, T x, T y) const {
    float d = float(dy) * Op::slope(float(x), float(y));
    dx = T(add ? float(dx) + d : d);
  }
};

/// y (+)= op(x), kept = op'(x).
template <class Op, class T, bool add>
struct Activate {
  HD void operator()(T& y, T& kept, T before) const {
    const float x = float(before), value = Op::value(x);
    y = T(add ? float(y) + value : value);
    kept = T(Op::slope(x, value));
  }
};

template <class T>
struct TimesSlope {
  HD void operator()(T& dx, T dy, T slope) const { dx = T(float(dy) * float(slope)); }
};

/// The CPU's: dx = dy * slope and the sums of what dx then holds, in the order of sum_rows().
template <class T, class Y>
void times_slope_and_sums(T* dx, const T* dy, const T* slope, std::int64_t rows, std::int64_t columns, Y* sums, bool accumulate) {
  auto block = [=](std::int64_t b, float* totals) {
    const std::int64_t end = (b + 1) * row_block < rows ? (b + 1) * row_block : rows;
    for (std::int64_t at = b * row_block * columns; at < end * columns; at += columns)
#pragma omp simd
      for (std::int64_t c = 0; c < columns; ++c) {
        dx[at + c] = T(float(dy[at + c]) * float(slope[at + c]));
        totals[c] += float(dx[at + c]);
      }
  };
  reduce_blocks<1>((rows + row_block - 1) / row_block, columns, rows, block, [=](std::int64_t c, Sums<1> total) {
    sums[c] = Y(accumulate ? float(sums[c]) + total[0] : total[0]);
  });
}

void check_alike(const char* op, View a, View b, View c) {
  require(a.size == b.size && a.size == c.size, "{}: sizes differ: {} {} {}", op, a.size, b.size, c.size);
  require(a.dtype == b.dtype && a.dtype == c.dtype, "{}: types differ: {} {} {}", op, name_of(a.dtype), name_of(b.dtype),
          name_of(c.dtype));
}

}  // namespace

void unary(const Queue& q, Unary op, View y, View x) {
  require(y.size == x.size, "unary: y has {} elements, x {}", y.size, x.size);
  visit_float(x.dtype, [&]<class T>() {
    visit_unary(op, [&]<class Op>() { for_each(q, x.size, Forward<Op, T>{}, out(y.as<T>()), x.as<const T>()); });
  });
}

void unary_backward(const Queue& q, Unary op, View dx, View dy, View x, View y, Write write) {
  require(dx.size == x.size && dy.size == x.size && y.size == x.size, "unary_backward: sizes differ: {} {} {} {}", dx.size,
          dy.size, x.size, y.size);
  visit_float(x.dtype, [&]<class T>() {
    visit_unary(op, [&]<class Op>() {
      if (write == Write::accumulate)
        for_each(q, x.size, Backward<Op, T, true>{}, dx.as<T>(), dy.as<const T>(), x.as<const T>(), y.as<const T>());
      else
        for_each(q, x.size, Backward<Op, T, false>{}, out(dx.as<T>()), dy.as<const T>(), x.as<const T>(), y.as<const T>());
    });
  });
}

void activate(const Queue& q, Unary op, View y, View kept, View x, Write write) {
  check_alike("activate", y, kept, x);
  if (q.on_gpu) {
    if (kept.data != x.data) copy(q, kept, x);
    if (write == Write::overwrite) return unary(q, op, y, x);
  }
  visit_float(x.dtype, [&]<class T>() {
    visit_unary(op, [&]<class Op>() {
      if (q.on_gpu)
        for_each(q, x.size, AddForward<Op, T>{}, y.as<T>(), x.as<const T>());
      else if (write == Write::accumulate)
        for_each(q, x.size, Activate<Op, T, true>{}, y.as<T>(), out(kept.as<T>()), x.as<const T>());
      else
        for_each(q, x.size, Activate<Op, T, false>{}, out(y.as<T>()), out(kept.as<T>()), x.as<const T>());
    });
  });
}

void activation_backward(const Queue& q, const Slope& slope, View dx, View dy, View sums, Write write_sums) {
  check_alike("activation_backward", dx, dy, slope.kept);
  require(!sums || (sums.size > 0 && dx.size % sums.size == 0), "activation_backward: {} elements in rows of {}", dx.size,
          sums.size);
  if (q.on_gpu) {
    unary_backward(q, slope.activation, dx, dy, slope.kept, slope.y, Write::overwrite);
    if (sums) sum_rows(q, sums, dx, sums.size, write_sums);
    return;
  }
  if (q.recording)
    return q.recording->add([=](const Queue& then) { activation_backward(then, slope, dx, dy, sums, write_sums); });
  visit_float(dx.dtype, [&]<class T>() {
    auto with_sums = [&](auto* to) {
      times_slope_and_sums(dx.as<T>(), dy.as<const T>(), slope.kept.as<const T>(), dx.size / sums.size, sums.size, to,
                           write_sums == Write::accumulate);
    };
    if (!sums)
      for_each(q, dx.size, TimesSlope<T>{}, out(dx.as<T>()), dy.as<const T>(), slope.kept.as<const T>());
    else if (sums.dtype == DType::f32)
      with_sums(sums.as<float>());
    else
      with_sums(sums.as<T>());
  });
}

}  // namespace lockstep::kernels
