#include "kernels/binary.h"

#include "kernels/base/launch.h"
#include "kernels/vendor.h"

namespace lockstep::kernels {
namespace {

// value, and slopes with respect to a and b. `linear`: the slopes read neither a nor b, which may then be absent.
struct Plus {
  static constexpr bool linear = true;
  HD static float value(float a, float b) { return a + b; }
  HD static float slope_a(float, float) { return 1; }
  HD static float slope_b(float, float) { return 1; }
};
struct Minus {
  static constexpr bool linear = true;
  HD static float value(float a, float b) { return a - b; }
  HD static float slope_a(float, float) { return 1; }
  HD static float slope_b(float, float) { return -1; }
};
struct Times {
  static constexpr bool linear = false;
  HD static float value(float a, float b) { return a * b; }
  HD static float slope_a(float, float b) { return b; }
  HD static float slope_b(float a, float) { return a; }
};
struct Over {
  static constexpr bool linear = false;
  HD static float value(float a, float b) { return a / b; }
  HD static float slope_a(float, float b) { return 1 / b; }
  HD static float slope_b(float a, float b) { return -a / (b * b); }
};

template <class F>
void visit_binary(Binary op, F&& f) {
  switch (op) {
    case Binary::add: return f.template operator()<Plus>();
    case Binary::subtract: return f.template operator()<Minus>();
    case Binary::multiply: return f.template operator()<Times>();
    case Binary::divide: return f.template operator()<Over>();
  }
  throw Error("binary: unknown op");
}

template <class Op, class T>
struct Forward {
  HD void operator()(T& y, T a, T b) const { y = T(Op::value(float(a), float(b))); }
};

template <class Op, class T, bool accumulate>
struct BackwardA {
  HD void operator()(T& da, T dy) const { put(da, float(dy) * Op::slope_a(0, 0)); }  // linear
  HD void operator()(T& da, T dy, T b) const { put(da, float(dy) * Op::slope_a(0, float(b))); }

 private:
  HD static void put(T& da, float d) { da = T(accumulate ? float(da) + d : d); }
};

/// db element by element, or as sums over rows.
template <class Op, class T, class G>
struct BackwardB {
  G* db;
  const T* dy;
  const T* a;
  const T* b;
  bool accumulate;
  HD void operator()(std::int64_t i) const {  // b like a
    store(i, float(dy[i]) * (Op::linear ? Op::slope_b(0, 0) : Op::slope_b(float(a[i]), float(b[i]))));
  }
  HD Sums<1> operator()(T d) const { return Sums<1>{{float(d) * Op::slope_b(0, 0)}}; }  // b a row, linear
  HD Sums<1> operator()(T d, T left, T right) const { return Sums<1>{{float(d) * Op::slope_b(float(left), float(right))}}; }
  HD void operator()(std::int64_t c, Sums<1> total) const { store(c, total[0]); }

 private:
  HD void store(std::int64_t j, float d) const { db[j] = G(accumulate ? float(db[j]) + d : d); }
};

/// body(elements…, partner) for every element of the columns and its partner in b, which is as large or a row of them.
template <class Body, class T, class... P>
void for_each_pair(const Queue& q, std::int64_t n, std::int64_t columns, Body body, const T* b, P... p) {
  if (n == columns)
    for_each(q, n, body, p..., b);
  else
    for_each_in_rows(q, n / columns, columns, body, p..., per_column(b));
}

void check_sizes(const char* op, std::int64_t a, std::int64_t b) {
  require(b == a || (b > 0 && a % b == 0), "{}: b with {} elements is neither as large as a with {} nor a row of it", op, b, a);
}

}  // namespace

void binary(const Queue& q, Binary op, View y, View a, View b) {
  check_sizes("binary", a.size, b.size);
  require(y.size == a.size, "binary: y has {} elements, a {}", y.size, a.size);
  visit_float(a.dtype, [&]<class T>() {
    visit_binary(op, [&]<class Op>() {
      for_each_pair(q, a.size, b.size, Forward<Op, T>{}, b.as<const T>(), out(y.as<T>()), a.as<const T>());
    });
  });
}

void binary_backward_a(const Queue& q, Binary op, View da, View dy, View, View b, Write write) {
  if (!da) return;
  require(da.size == dy.size, "binary_backward_a: da has {} elements, dy {}", da.size, dy.size);
  visit_float(dy.dtype, [&]<class T>() {
    visit_binary(op, [&]<class Op>() {
      auto run = [&]<bool accumulate>(auto target) {
        const BackwardA<Op, T, accumulate> body;
        if constexpr (Op::linear) return for_each(q, dy.size, body, target, dy.as<const T>());  // b is of no use
        check_sizes("binary_backward_a", dy.size, b.size);
        for_each_pair(q, dy.size, b.size, body, b.as<const T>(), target, dy.as<const T>());
      };
      write == Write::accumulate ? run.template operator()<true>(da.as<T>()) : run.template operator()<false>(out(da.as<T>()));
    });
  });
}

void binary_backward_b(const Queue& q, Binary op, View db, View dy, View a, View b, Write write) {
  if (!db) return;
  check_sizes("binary_backward_b", dy.size, db.size);
  visit_float(dy.dtype, [&]<class T>() {
    visit_binary(op, [&]<class Op>() {
      require(Op::linear || (a.size == dy.size && b.size == db.size), "binary_backward_b: a has {} elements, dy {}, b {}, db {}",
              a.size, dy.size, b.size, db.size);
      auto run = [&]<class G>() {
        const std::int64_t columns = db.size;
        const BackwardB<Op, T, G> body{db.as<G>(), dy.as<T>(), a.as<T>(), b.as<T>(), write == Write::accumulate};
        if (dy.size == columns) return for_each(q, columns, body);
        const std::int64_t rows = dy.size / columns;
        float* partials = q.on_gpu ? workspace(q, SumShares(rows, columns).floats(1)) : nullptr;
        auto sums = [&](auto... p) { reduce_rows<1>(q, rows, columns, partials, body, body, p...); };
        if constexpr (Op::linear)
          sums(dy.as<const T>());
        else
          sums(dy.as<const T>(), a.as<const T>(), per_column(b.as<const T>()));
      };
      if (db.dtype == dy.dtype)
        run.template operator()<T>();
      else
        run.template operator()<float>();
    });
  });
}

}  // namespace lockstep::kernels
