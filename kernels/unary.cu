#include "kernels/unary.h"

#include "kernels/base/launch.h"

namespace lockstep::kernels {
namespace {

template <class Op, class T>
struct Forward {
  T* y;
  const T* x;
  HD void operator()(std::int64_t i) const { y[i] = T(Op::value(float(x[i]))); }
};

template <class Op, class T, bool add>
struct Backward {
  T* dx;
  const T* dy;
  const T* x;
  const T* y;
  HD void operator()(std::int64_t i) const {
    float d = float(dy[i]) * Op::slope(float(x[i]), float(y[i]));
    dx[i] = T(add ? float(dx[i]) + d : d);
  }
};

}  // namespace

void unary(const Queue& q, Unary op, View y, View x) {
  require(y.size == x.size, "unary: y has {} elements, x {}", y.size, x.size);
  visit_float(x.dtype, [&]<class T>() {
    visit_unary(op, [&]<class Op>() { for_each(q, x.size, Forward<Op, T>{y.as<T>(), x.as<T>()}); });
  });
}

void unary_backward(const Queue& q, Unary op, View dx, View dy, View x, View y, Write write) {
  require(dx.size == x.size && dy.size == x.size && y.size == x.size, "unary_backward: sizes differ: {} {} {} {}", dx.size,
          dy.size, x.size, y.size);
  visit_float(x.dtype, [&]<class T>() {
    visit_unary(op, [&]<class Op>() {
      if (write == Write::accumulate)
        for_each(q, x.size, Backward<Op, T, true>{dx.as<T>(), dy.as<T>(), x.as<T>(), y.as<T>()});
      else
        for_each(q, x.size, Backward<Op, T, false>{dx.as<T>(), dy.as<T>(), x.as<T>(), y.as<T>()});
    });
  });
}

}  // namespace lockstep::kernels
