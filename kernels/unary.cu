#include "kernels/unary.h"

#include "kernels/base/launch.h"

namespace lockstep::kernels {
namespace {

template <class Op, class T>
struct Forward {
  HD void operator()(T& y, T x) const { y = T(Op::value(float(x))); }
};

template <class Op, class T, bool add>
struct Backward {
  HD void operator()(T& dx, T dy, T x, T y) const {
    float d = float(dy) * Op::slope(float(x), float(y));
    dx = T(add ? float(dx) + d : d);
  }
};

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

}  // namespace lockstep::kernels
