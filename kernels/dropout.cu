#include "kernels/dropout.h"

#include "kernels/base/launch.h"

namespace lockstep::kernels {
namespace {

/// Forward and gradient are the same product with keep / (1 - p), in blocks of elements that count in the unsharded tensor from
/// `first` on. A GPU reads the step's number when it runs.
template <class T, bool accumulate>
struct Mask {
  static constexpr std::int64_t block = 4096;
  T* y;
  const T* x;
  std::int64_t size;
  float p, factor;
  RandomKey key;
  std::int64_t first;

  template <class Team>
  HD void operator()(Team team, std::int64_t b) const {
    const std::int64_t begin = b * block, count = size - begin < block ? size - begin : block;
    const RandomKey settled = key.settled();
    auto draw = [settled](std::int64_t four) { return random_words(settled, std::uint64_t(four)); };
    auto put = [dropped = p, factor = factor](std::uint32_t word, T& to, T from) {
      const float kept = float(from) * factor;
      const float v = to_uniform(word) >= dropped ? kept : 0.f;  // zero even where x is not finite
      to = T(accumulate ? float(to) + v : v);
    };
    if constexpr (accumulate)
      team.each_word(count, first + begin, draw, put, y + begin, x + begin);
    else
      team.each_word(count, first + begin, draw, put, out(y + begin), x + begin);
  }
};

void mask(const char* op, const Queue& q, View y, View x, float p, RandomKey key, Write write, std::int64_t first) {
  if (q.recording) return q.recording->add([=](const Queue& then) { mask(op, then, y, x, p, key, write, first); });
  require(y.size == x.size, "{}: {} elements in, {} out", op, x.size, y.size);
  require(p >= 0 && p <= 1 && first >= 0, "{}: the probability is {}, the first element {}", op, p, first);
  float factor = p < 1 ? 1 / (1 - p) : 0;
  visit_float(x.dtype, [&]<class T>() {
    auto run = [&]<bool accumulate>() {
      using Body = Mask<T, accumulate>;
      for_each_row(q, (x.size + Body::block - 1) / Body::block, Body::block,
                   Body{y.as<T>(), x.as<T>(), x.size, p, factor, key, first});
    };
    write == Write::accumulate ? run.template operator()<true>() : run.template operator()<false>();
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
