#include "kernels/pooling.h"

#include "kernels/base/launch.h"

// One team works on the channels of one position of the image, so loops run over neighbours in memory. Gradients are gathered by
// the input position from the windows that cover it: no two teams write the same element.

namespace lockstep::kernels {
namespace {

using std::int64_t;

/// [begin, end)
struct Range {
  int64_t begin, end;
  HD int64_t size() const { return end - begin; }
};

struct Geometry {
  PoolingShape s;
  int64_t out_height, out_width;
  explicit Geometry(const PoolingShape& s) : s(s), out_height(s.out_height()), out_width(s.out_width()) {}

  /// The part of an axis of `size` elements that lies in window `o`.
  HD Range window(int64_t o, int64_t size) const {
    int64_t begin = o * s.stride - s.padding, end = begin + s.window;
    return {begin < 0 ? 0 : begin, end < size ? end : size};
  }
  /// The windows, of `count` along an axis, that cover position i.
  HD Range covering(int64_t i, int64_t count) const {
    int64_t at = i + s.padding, begin = at < s.window ? 0 : (at - s.window) / s.stride + 1, end = at / s.stride + 1;
    return {begin, end < count ? end : count};
  }
  /// The place of position (h, w) in window (oh, ow).
  HD int64_t place(int64_t h, int64_t w, int64_t oh, int64_t ow) const {
    return (h - oh * s.stride + s.padding) * s.window + w - ow * s.stride + s.padding;
  }
};

/// A flat index of (n, row, column) in an image of height x width, taken apart.
struct Position {
  int64_t n, h, w;
  HD Position(int64_t flat, int64_t height, int64_t width)
      : n(flat / (height * width)), h(flat / width % height), w(flat % width) {}
};

template <class T, bool keep_index>
struct Max {
  Geometry g;
  T* y;
  std::uint8_t* index;
  const T* x;

  template <class Team>
  HD void operator()(Team team, int64_t row) const {
    Position o(row, g.out_height, g.out_width);
    const int64_t channels = g.s.channels;
    Range hs = g.window(o.h, g.s.height), ws = g.window(o.w, g.s.width);
    T* out = y + row * channels;
    std::uint8_t* where = index + row * channels;
    bool first = true;
    for (int64_t h = hs.begin; h < hs.end; ++h)
      for (int64_t w = ws.begin; w < ws.end; ++w, first = false) {
        const T* in = x + ((o.n * g.s.height + h) * g.s.width + w) * channels;
        auto place = std::uint8_t(g.place(h, w, o.h, o.w));
        team.each(channels, [=](int64_t c) {
          float v = float(in[c]), most = float(out[c]);
          bool larger = first || v > most || v != v;  // NaN stays
          out[c] = larger ? in[c] : out[c];
          if constexpr (keep_index) where[c] = larger ? place : where[c];
        });
      }
  }
};

template <class T>
struct Average {
  Geometry g;
  T* y;
  const T* x;

  template <class Team>
  HD void operator()(Team team, int64_t row) const {
    Position o(row, g.out_height, g.out_width);
    const int64_t channels = g.s.channels, width = g.s.width;
    Range hs = g.window(o.h, g.s.height), ws = g.window(o.w, width);
    const T* in = x + ((o.n * g.s.height + hs.begin) * width + ws.begin) * channels;
    T* out = y + row * channels;
    float share = 1 / float(hs.size() * ws.size());
    team.sum_down(
        channels, hs.size() * ws.size(),
        [=](int64_t i, int64_t c) { return float(in[(i / ws.size() * width + i % ws.size()) * channels + c]); },
        [=](int64_t c, float total) { out[c] = T(total * share); });
  }
};

template <class T, bool max, bool add>
struct Backward {
  Geometry g;
  T* dx;
  const T* dy;
  const std::uint8_t* index;

  template <class Team>
  HD void operator()(Team team, int64_t row) const {
    Position p(row, g.s.height, g.s.width);
    const int64_t channels = g.s.channels;
    Range hs = g.covering(p.h, g.out_height), ws = g.covering(p.w, g.out_width);
    T* out = dx + row * channels;
    auto term = [=, *this](int64_t i, int64_t c) {
      int64_t oh = hs.begin + i / ws.size(), ow = ws.begin + i % ws.size();
      int64_t at = ((p.n * g.out_height + oh) * g.out_width + ow) * channels + c;
      float d = float(dy[at]);  // read in any case: a read that depends on a condition keeps compilers from vectorising
      if constexpr (max)
        return index[at] == g.place(p.h, p.w, oh, ow) ? d : 0.f;
      else
        return d / float(g.window(oh, g.s.height).size() * g.window(ow, g.s.width).size());
    };
    int64_t windows = hs.size() > 0 && ws.size() > 0 ? hs.size() * ws.size() : 0;
    team.sum_down(channels, windows, term, [=](int64_t c, float total) { out[c] = T(add ? float(out[c]) + total : total); });
  }
};

void check_shape(const char* op, const PoolingShape& s, View x, View y) {
  require(s.batch >= 0 && s.height > 0 && s.width > 0 && s.channels > 0, "{}: images {} x {} x {} x {}", op, s.batch, s.height,
          s.width, s.channels);
  require(s.window > 0 && s.stride > 0 && s.padding >= 0 && s.padding < s.window, "{}: window {}, stride {}, padding {}", op,
          s.window, s.stride, s.padding);
  require(s.height + 2 * s.padding >= s.window && s.width + 2 * s.padding >= s.window,
          "{}: the window of {} is larger than the padded image of {} x {}", op, s.window, s.height + 2 * s.padding,
          s.width + 2 * s.padding);
  int64_t x_size = s.batch * s.height * s.width * s.channels, y_size = s.batch * s.out_height() * s.out_width() * s.channels;
  require(x.size == x_size, "{}: the input has {} elements, its shape {}", op, x.size, x_size);
  require(y.size == y_size, "{}: the output has {} elements, its shape {}", op, y.size, y_size);
  require(x.dtype == y.dtype, "{}: {} and {} do not go together", op, name_of(x.dtype), name_of(y.dtype));
}

void check_index(const char* op, const PoolingShape& s, View y, View index) {
  require(index.dtype == DType::u8 && index.size == y.size, "{}: the index must hold {} u8 values", op, y.size);
  require(s.window * s.window <= 255, "{}: max pooling keeps places in windows of at most 15 x 15, not {} x {}", op, s.window,
          s.window);
}

}  // namespace

void pooling(const Queue& q, Pooling kind, const PoolingShape& s, View y, View index, View x) {
  check_shape("pooling", s, x, y);
  if (index && kind == Pooling::max) check_index("pooling", s, y, index);
  const int64_t rows = s.batch * s.out_height() * s.out_width();
  visit_float(x.dtype, [&]<class T>() {
    if (kind == Pooling::average)
      for_each_row(q, rows, s.channels, Average<T>{Geometry(s), y.as<T>(), x.as<T>()});
    else if (index)
      for_each_row(q, rows, s.channels, Max<T, true>{Geometry(s), y.as<T>(), index.as<std::uint8_t>(), x.as<T>()});
    else
      for_each_row(q, rows, s.channels, Max<T, false>{Geometry(s), y.as<T>(), nullptr, x.as<T>()});
  });
}

void pooling_backward(const Queue& q, Pooling kind, const PoolingShape& s, View dx, View dy, View index, Write write) {
  check_shape("pooling_backward", s, dx, dy);
  if (kind == Pooling::max) check_index("pooling_backward", s, dy, index);
  visit_float(dx.dtype, [&]<class T>() {
    auto run = [&]<bool max, bool add>() {
      for_each_row(q, s.batch * s.height * s.width, s.channels,
                   Backward<T, max, add>{Geometry(s), dx.as<T>(), dy.as<T>(), max ? index.as<std::uint8_t>() : nullptr});
    };
    const bool add = write == Write::accumulate;
    if (kind == Pooling::max)
      add ? run.template operator()<true, true>() : run.template operator()<true, false>();
    else
      add ? run.template operator()<false, true>() : run.template operator()<false, false>();
  });
}

}  // namespace lockstep::kernels
