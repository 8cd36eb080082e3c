#include "kernels/pooling.h"

#include <algorithm>
#include <type_traits>

#include "kernels/base/launch.h"

// On a GPU one team works on the channels of one position of the image, so loops run over neighbours in memory. Gradients are
// gathered by the input position from the windows that cover it: no two teams write the same element. A CPU's thread works on a
// line of what is written, with the same order of sums: what a position needs before its first channel costs more there than the
// channels.

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

/// A position of image n.
struct Position {
  int64_t n, h, w;
};

/// The part of every element in the average of window (oh, ow).
HD float share_of_average(const Geometry& g, int64_t oh, int64_t ow) {
  return 1 / float(g.window(oh, g.s.height).size() * g.window(ow, g.s.width).size());
}

/// Calls body(team, position) with a flat index taken apart.
template <class Body>
struct Positions {
  Body body;
  int64_t height, width;
  template <class Team>
  HD void operator()(Team team, int64_t flat) const {
    body(team, Position{flat / width / height, flat / width % height, flat % width});
  }
};
/// On a GPU: body(team, position) for every position of `batch` images of height x width.
template <class Body>
void for_each_position(const Queue& q, int64_t batch, int64_t height, int64_t width, int64_t channels, Body body) {
  for_each_row(q, batch * height * width, channels, Positions<Body>{body, height, width});
}

template <class T, bool keep_index>
struct Max {
  Geometry g;
  T* y;
  std::uint8_t* index;
  const T* x;

  template <class Team>
  HD void operator()(Team team, Position o) const {
    const int64_t channels = g.s.channels, row = (o.n * g.out_height + o.h) * g.out_width + o.w;
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
  HD void operator()(Team team, Position o) const {
    const int64_t channels = g.s.channels, width = g.s.width;
    Range hs = g.window(o.h, g.s.height), ws = g.window(o.w, width);
    const T* in = x + ((o.n * g.s.height + hs.begin) * width + ws.begin) * channels;
    T* out = y + ((o.n * g.out_height + o.h) * g.out_width + o.w) * channels;
    float share = share_of_average(g, o.h, o.w);
    team.sum_down(
        channels, hs.size() * ws.size(),
        [=](int64_t i, int64_t c) { return float(in[(i / ws.size() * width + i % ws.size()) * channels + c]); },
        [=](int64_t c, float total) { out[c] = T(total * share); });
  }
};

constexpr int64_t pool_tile = 64;
/// Channels first … first + count - 1 of one window, whose elements' channels begin at elements[0 … size - 1].
template <class T, bool max>
void pool_window(const T* const* elements, const std::uint8_t* places, int64_t size, int64_t first, int64_t count, float part,
                 T* y, std::uint8_t* index) {
  float value[pool_tile];
  std::uint8_t place[pool_tile];
  std::fill(value, value + count, max ? -INFINITY : 0.f);
  std::fill(place, place + count, places[0]);
  auto take = [](float& value, std::uint8_t& place, float v, std::uint8_t here) {
    if constexpr (max) {
      const bool larger = v > value || v != v;  // NaN stays
      value = larger ? v : value;
      place = larger ? here : place;
    } else {
      value += v;
    }
  };
  int64_t i = 0;
  for (; i + 4 <= size; i += 4) {
    const T *in0 = elements[i] + first, *in1 = elements[i + 1] + first, *in2 = elements[i + 2] + first,
            *in3 = elements[i + 3] + first;
    const std::uint8_t p0 = places[i], p1 = places[i + 1], p2 = places[i + 2], p3 = places[i + 3];
#pragma omp simd
    for (int64_t c = 0; c < count; ++c) {
      float most = value[c];
      std::uint8_t at = place[c];
      take(most, at, float(in0[c]), p0);
      take(most, at, float(in1[c]), p1);
      take(most, at, float(in2[c]), p2);
      take(most, at, float(in3[c]), p3);
      value[c] = most;
      place[c] = at;
    }
  }
  for (; i < size; ++i) {
    const T* in = elements[i] + first;
    const std::uint8_t here = places[i];
#pragma omp simd
    for (int64_t c = 0; c < count; ++c) take(value[c], place[c], float(in[c]), here);
  }
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) y[first + c] = T(max ? value[c] : value[c] * part);
  if (!index) return;
#pragma omp simd
  for (int64_t c = 0; c < count; ++c) index[first + c] = place[c];
}

/// The CPU's forward, a line of the output at a time.
template <class T, bool max>
void pool_lines(const Geometry& g, T* y, std::uint8_t* index, const T* x) {
  const int64_t channels = g.s.channels;
  for_each_block(g.s.batch * g.out_height, g.s.width * channels, 1, Direction::forwards, [=](int64_t line, int64_t, int64_t) {
    const int64_t n = line / g.out_height, oh = line % g.out_height;
    const Range hs = g.window(oh, g.s.height);
    std::vector<const T*> elements(std::size_t(g.s.window * g.s.window));
    std::vector<std::uint8_t> places(elements.size());
    for (int64_t ow = 0; ow < g.out_width; ++ow) {
      const Range ws = g.window(ow, g.s.width);
      int64_t size = 0;
      for (int64_t h = hs.begin; h < hs.end; ++h)
        for (int64_t w = ws.begin; w < ws.end; ++w, ++size) {
          elements[std::size_t(size)] = x + ((n * g.s.height + h) * g.s.width + w) * channels;
          places[std::size_t(size)] = std::uint8_t(g.place(h, w, oh, ow));
        }
      const float part = max ? 1 : share_of_average(g, oh, ow);
      for (int64_t first = 0; first < channels; first += pool_tile)
        pool_window<T, max>(elements.data(), places.data(), size, first, std::min(pool_tile, channels - first), part,
                            y + (line * g.out_width + ow) * channels,
                            index ? index + (line * g.out_width + ow) * channels : nullptr);
    }
  });
}

/// The GPU's backward.
template <class T, bool max, bool add>
struct Backward {
  Geometry g;
  T* dx;
  const T* dy;
  const std::uint8_t* index;

  template <class Team>
  HD void operator()(Team team, Position p) const {
    const int64_t channels = g.s.channels;
    Range hs = g.covering(p.h, g.out_height), ws = g.covering(p.w, g.out_width);
    T* out = dx + ((p.n * g.s.height + p.h) * g.s.width + p.w) * channels;
    auto term = [=, *this](int64_t i, int64_t c) {
      int64_t oh = hs.begin + i / ws.size(), ow = ws.begin + i % ws.size();
      int64_t at = ((p.n * g.out_height + oh) * g.out_width + ow) * channels + c;
      if constexpr (max)
        return index[at] == g.place(p.h, p.w, oh, ow) ? float(dy[at]) : 0.f;
      else
        return float(dy[at]) * share_of_average(g, oh, ow);
    };
    int64_t windows = hs.size() > 0 && ws.size() > 0 ? hs.size() * ws.size() : 0;
    team.sum_down(channels, windows, term, [=](int64_t c, float total) { out[c] = T(add ? float(out[c]) + total : total); });
  }
};

/// The CPU's backward: the windows that cover a line of the image are spread over it, in order. f32 is summed in place.
template <class T, bool max, bool add>
void spread_over_lines(const Geometry& g, T* dx, const T* dy, const std::uint8_t* index) {
  const int64_t channels = g.s.channels, columns = g.s.width * channels;
  for_each_block(g.s.batch * g.s.height, columns, 1, Direction::forwards, [=](int64_t line, int64_t, int64_t) {
    const int64_t n = line / g.s.height, h = line % g.s.height;
    const Range hs = g.covering(h, g.out_height);
    T* out = dx + line * columns;
    std::vector<float> sums(std::is_same_v<T, float> ? 0 : std::size_t(columns));
    float* totals = sums.data();
    if constexpr (std::is_same_v<T, float>) {
      totals = out;
      if (!add) std::fill(out, out + columns, 0.f);
    }
    for (int64_t oh = hs.begin; oh < hs.end; ++oh)
      for (int64_t ow = 0; ow < g.out_width; ++ow) {
        const Range ws = g.window(ow, g.s.width);
        const int64_t first = ((n * g.out_height + oh) * g.out_width + ow) * channels;
        const float part = max ? 1 : share_of_average(g, oh, ow);
        for (int64_t w = ws.begin; w < ws.end; ++w) {
          const T* up = dy + first;
          const std::uint8_t* where = max ? index + first : nullptr;
          float* total = totals + w * channels;
          const int place = int(g.place(h, w, oh, ow));
#pragma omp simd
          for (int64_t c = 0; c < channels; ++c) {
            float d = float(up[c]);  // read in any case: a read that depends on a condition is not vectorised
            if constexpr (max)
              total[c] += int(where[c]) == place ? d : 0.f;
            else
              total[c] += d * part;
          }
        }
      }
    if constexpr (!std::is_same_v<T, float>)
#pragma omp simd
      for (int64_t i = 0; i < columns; ++i) out[i] = T(add ? float(out[i]) + totals[i] : totals[i]);
  });
}

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
  if (kind == Pooling::average) index = {};
  if (q.recording) return q.recording->add([=](const Queue& then) { pooling(then, kind, s, y, index, x); });
  visit_float(x.dtype, [&]<class T>() {
    auto* places = index.as<std::uint8_t>();
    if (!q.on_gpu)
      return kind == Pooling::max ? pool_lines<T, true>(Geometry(s), y.as<T>(), places, x.as<T>())
                                  : pool_lines<T, false>(Geometry(s), y.as<T>(), nullptr, x.as<T>());
    auto run = [&](auto body) { for_each_position(q, s.batch, s.out_height(), s.out_width(), s.channels, body); };
    if (kind == Pooling::average)
      run(Average<T>{Geometry(s), y.as<T>(), x.as<T>()});
    else if (index)
      run(Max<T, true>{Geometry(s), y.as<T>(), places, x.as<T>()});
    else
      run(Max<T, false>{Geometry(s), y.as<T>(), nullptr, x.as<T>()});
  });
}

void pooling_backward(const Queue& q, Pooling kind, const PoolingShape& s, View dx, View dy, View index, Write write) {
  check_shape("pooling_backward", s, dx, dy);
  if (kind == Pooling::max) check_index("pooling_backward", s, dy, index);
  if (q.recording) return q.recording->add([=](const Queue& then) { pooling_backward(then, kind, s, dx, dy, index, write); });
  visit_float(dx.dtype, [&]<class T>() {
    auto run = [&]<bool max, bool add>() {
      const std::uint8_t* places = max ? index.as<std::uint8_t>() : nullptr;
      if (!q.on_gpu) return spread_over_lines<T, max, add>(Geometry(s), dx.as<T>(), dy.as<T>(), places);
      for_each_position(q, s.batch, s.height, s.width, s.channels,
                        Backward<T, max, add>{Geometry(s), dx.as<T>(), dy.as<T>(), places});
    };
    const bool add = write == Write::accumulate;
    if (kind == Pooling::max)
      add ? run.template operator()<true, true>() : run.template operator()<true, false>();
    else
      add ? run.template operator()<false, true>() : run.template operator()<false, false>();
  });
}

}  // namespace lockstep::kernels
