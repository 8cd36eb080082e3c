#include "kernels/dropout.h"

#include "kernels/base/launch.h"

namespace lockstep::kernels {
namespace {

/// Forward and gradient are the same product with keep / (1 - p).
template <class T, bool accumulate>
struct Mask {
  T* y;
  const T* x;
  float p, factor;
  RandomKey key;
  std::int64_t first;

  /// `i` counts in the unsharded tensor. What is dropped is zero even where x is not finite.
  HD void write(std::int64_t i, std::uint32_t word) const {
    std::int64_t at = i - first;
    float kept = float(x[at]) * factor;
    float v = to_uniform(word) >= p ? kept : 0.f;
    y[at] = T(accumulate ? float(y[at]) + v : v);
  }
  HD void group(std::int64_t g) const {
    Random4 r = random_words(key, std::uint64_t(g));
    write(4 * g, r.x);
    write(4 * g + 1, r.y);
    write(4 * g + 2, r.z);
    write(4 * g + 3, r.w);
  }
  HD void element(std::int64_t i) const { write(i, random_word(key, std::uint64_t(i))); }
};

/// A GPU reads the step's number when it runs.
template <class Body>
struct AtRun {
  Body body;
  HD void group(std::int64_t g) const { settled().group(g); }
  HD void element(std::int64_t i) const { settled().element(i); }
  HD Body settled() const {
    Body now = body;
    now.key = body.key.settled();
    return now;
  }
};

template <class Body>
void for_each_word(const Queue& q, std::int64_t first, std::int64_t n, const Body& body) {
  AtRun<Body> later{body};
  q.on_gpu ? for_each_group(q, first, n, later) : for_each_group(q, first, n, later.settled());
}

void mask(const char* op, const Queue& q, View y, View x, float p, RandomKey key, Write write, std::int64_t first) {
  if (q.recording) return q.recording->add([=](const Queue& then) { mask(op, then, y, x, p, key, write, first); });
  require(y.size == x.size, "{}: {} elements in, {} out", op, x.size, y.size);
  require(p >= 0 && p <= 1 && first >= 0, "{}: the probability is {}, the first element {}", op, p, first);
  float factor = p < 1 ? 1 / (1 - p) : 0;
  visit_float(x.dtype, [&]<class T>() {
    if (write == Write::accumulate)
      for_each_word(q, first, x.size, Mask<T, true>{y.as<T>(), x.as<T>(), p, factor, key, first});
    else
      for_each_word(q, first, x.size, Mask<T, false>{y.as<T>(), x.as<T>(), p, factor, key, first});
  });
}

}  // namespace

void dropout(const Queue& q, View y, View x, float p, RandomKey key, std::int64_t first) {
  mask("dropout", q, y, x, p, key, Write::overwrite, first);
}

void dropout_backward(const Queue& q, View dx, View dy, float p, RandomKey key, Write write, std::int64_t first) {
  mask("dropout_backward", q, dx, dy, p, key, write, first);
}

}  // namespace lockstep::kernels
