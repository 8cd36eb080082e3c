#include "kernels/softmax.h"

#include <type_traits>

#include "kernels/base/launch.h"
#include "kernels/base/math.h"

namespace lockstep::kernels {
namespace {

template <class T>
struct Forward {
  T* y;
  const T* x;
  std::int64_t columns;
  template <class Team>
  HD void operator()(Team team, std::int64_t row) const {
    const T* in = x + row * columns;
    T* to = y + row * columns;
    float most = team.max(
        columns, [](T v) { return float(v); }, in);
    auto power = [most](T v) { return math::exp_nonpositive(float(v) - most); };
    if constexpr (std::is_same_v<T, float>) {
      float inverse = 1 / team.sum(
                              columns, [=](float& y, float v) { return y = power(v); }, out(to), in);
      team.each(
          columns, [inverse](float& y) { y *= inverse; }, to);
    } else {  // powers would be rounded twice: they are computed again
      float inverse = 1 / team.sum(columns, power, in);
      team.each(
          columns, [=](T& y, T v) { y = T(power(v) * inverse); }, out(to), in);
    }
  }
};

template <class T, bool accumulate>
struct Backward {
  T* dx;
  const T* dy;
  const T* y;
  std::int64_t columns;
  template <class Team>
  HD void operator()(Team team, std::int64_t row) const {
    const T* up = dy + row * columns;
    const T* p = y + row * columns;
    float dot = team.sum(
        columns, [](T d, T v) { return float(d) * float(v); }, up, p);
    auto gradient = [dot](T& to, T d, T v) {
      float g = float(v) * (float(d) - dot);
      to = T(accumulate ? float(to) + g : g);
    };
    if constexpr (accumulate)
      team.each(columns, gradient, dx + row * columns, up, p);
    else
      team.each(columns, gradient, out(dx + row * columns), up, p);
  }
};

}  // namespace

void softmax(const Queue& q, View y, View x, std::int64_t columns) {
  require(columns > 0 && x.size % columns == 0 && y.size == x.size, "softmax: {} elements in, {} out, {} columns", x.size, y.size,
          columns);
  visit_float(x.dtype, [&]<class T>() { for_each_row(q, x.size / columns, columns, Forward<T>{y.as<T>(), x.as<T>(), columns}); });
}

void softmax_backward(const Queue& q, View dx, View dy, View y, std::int64_t columns, Write write) {
  require(columns > 0 && y.size % columns == 0 && dx.size == y.size && dy.size == y.size,
          "softmax_backward: sizes differ: {} {} {}, {} columns", dx.size, dy.size, y.size, columns);
  visit_float(y.dtype, [&]<class T>() {
    if (write == Write::accumulate)
      for_each_row(q, y.size / columns, columns, Backward<T, true>{dx.as<T>(), dy.as<T>(), y.as<T>(), columns});
    else
      for_each_row(q, y.size / columns, columns, Backward<T, false>{dx.as<T>(), dy.as<T>(), y.as<T>(), columns});
  });
}

}  // namespace lockstep::kernels
