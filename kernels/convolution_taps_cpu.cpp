#include "kernels/convolution_taps_cpu.h"

#include <algorithm>
#include <cstring>

#include "kernels/matmul_amx_cpu.h"
#include "kernels/vendor.h"
#include "kernels/vendor_cpu.h"

// A tap is one place (i, j) of the kernel, whose weights are an (out, in) matrix. It sees the pixels that lie inside the image
// when shifted by (i, j); these are gathered, multiplied by the tap's weights where they lie, and added to the pixels that they
// belong to. Nothing is spent on what lies outside the image (31 % of a direct 3 x 3 convolution of 4 x 4 pixels) nor on bringing
// weights into another layout, which takes its time where weights outnumber pixels.

namespace lockstep::kernels::cpu {
namespace {

using onednn::Desc;

constexpr std::int64_t pass_of_taps = 5;  // in keys of plans: 1 is a product, 2 to 4 are convolutions

/// The output pixels that a tap has an input for, rows [row, row + rows) and columns [column, column + columns) of each image, and
/// how far their inputs lie from them.
struct Tap {
  std::int64_t number, row, rows, column, columns, shift;  ///< shift: in pixels
};

/// The middle one, which sees all pixels, comes first.
std::vector<Tap> taps_of(const ConvolutionShape& s) {
  std::vector<Tap> taps;
  for (std::int64_t i = 0; i < s.kernel_height; ++i)
    for (std::int64_t j = 0; j < s.kernel_width; ++j) {
      const std::int64_t down = i * s.dilation - s.padding, right = j * s.dilation - s.padding;
      const Tap tap{i * s.kernel_width + j,
                    std::max<std::int64_t>(0, -down),
                    s.height - std::abs(down),
                    std::max<std::int64_t>(0, -right),
                    s.width - std::abs(right),
                    down * s.width + right};
      if (tap.rows > 0 && tap.columns > 0) taps.push_back(tap);
    }
  std::ranges::stable_partition(taps, [](const Tap& t) { return t.shift == 0; });
  return taps;
}
std::int64_t pixels(const ConvolutionShape& s, const Tap& t) { return s.batch * t.rows * t.columns; }

/// Calls f(pixel of the images, pixel of the gathered ones, pixels) for each piece of a tap's output pixels that lies together.
template <class F>
void for_each_run(const ConvolutionShape& s, const Tap& t, F f) {
  const std::int64_t runs = s.batch * t.rows;
#pragma omp parallel for schedule(static)
  for (std::int64_t run = 0; run < runs; ++run) {
    const std::int64_t image = run / t.rows, row = t.row + run % t.rows;
    f((image * s.height + row) * s.width + t.column, run * t.columns, t.columns);
  }
}

/// What a tap sees of images with `channels`, or, with shift 0, what it gives to; one behind the other.
const float* gathered(const ConvolutionShape& s, const Tap& t, const float* images, std::int64_t channels, std::int64_t shift,
                      float* room) {
  if (t.shift == 0) return images;
  for_each_run(s, t, [&](std::int64_t pixel, std::int64_t at, std::int64_t n) {
    std::memcpy(room + at * channels, images + (pixel + shift) * channels, std::size_t(n * channels) * sizeof(float));
  });
  return room;
}
void add_back(const ConvolutionShape& s, const Tap& t, float* images, std::int64_t channels, std::int64_t shift, const float* from) {
  for_each_run(s, t, [&](std::int64_t pixel, std::int64_t at, std::int64_t n) {
    float* to = images + (pixel + shift) * channels;
    const float* what = from + at * channels;
#pragma omp simd
    for (std::int64_t i = 0; i < n * channels; ++i) to[i] += what[i];
  });
}

/// A matrix of f32 at a given distance between rows and columns.
struct Matrix {
  std::int64_t rows, columns, row_stride, column_stride;
  Desc desc() const { return {{rows, columns}, dnnl::memory::data_type::f32, dnnl::memory::dims{row_stride, column_stride}}; }
};

/// y (+)= a b + bias.
void product(const Queue& q, float* y, Matrix my, const float* a, Matrix ma, const float* b, Matrix mb, View bias, bool add) {
  CpuLibraries& libraries = *q.cpu;
  if (amx::suits(my.rows, my.columns, ma.columns) && amx::available())
    return amx::product(libraries, y, my.row_stride, {a, ma.row_stride, ma.column_stride}, {b, mb.column_stride, mb.row_stride}, my.rows,
                        my.columns, ma.columns, static_cast<const float*>(bias.data), add);
  const PlanKey key{pass_of_taps,   my.rows,       my.columns,       ma.columns,    my.row_stride, ma.row_stride,
                    ma.column_stride, mb.row_stride, mb.column_stride, bool(bias), add};
  auto name = [&] {
    return format_text("a convolution's product of {} x {} and {} x {}", {my.rows, ma.columns, ma.columns, my.columns});
  };
  CpuPlan& plan = libraries.plan(key, name, [&] {
    const Desc dy = my.desc(), da = ma.desc(), db = mb.desc();
    const Desc dbias({1, my.columns}, dnnl::memory::data_type::f32, dnnl::memory::format_tag::ab);
    dnnl::post_ops after;
    if (add) after.append_sum(1.f);
    dnnl::primitive_attr attributes;
    attributes.set_post_ops(after);
    CpuPlan made(libraries.engine, dnnl::matmul(onednn::matmul(libraries.engine, da, db, bias ? &dbias : nullptr, dy, attributes)));
    made.writes(DNNL_ARG_DST, dy, dy).reads(DNNL_ARG_SRC, da, da).reads(DNNL_ARG_WEIGHTS, db, db);
    if (bias) made.reads(DNNL_ARG_BIAS, dbias, dbias);
    return made;
  });
  auto data = [](const float* p) { return const_cast<float*>(p); };  // oneDNN's handles know no const
  if (bias)
    plan.run(libraries.stream, {y, data(a), data(b), bias.data});
  else
    plan.run(libraries.stream, {y, data(a), data(b)});
}

Matrix plain(std::int64_t rows, std::int64_t columns) { return {rows, columns, columns, 1}; }
Matrix transposed(Matrix m) { return {m.columns, m.rows, m.column_stride, m.row_stride}; }
/// A tap's weights, as (out, in).
Matrix weights_of_tap(const ConvolutionShape& s) { return {s.out, s.in, s.kernel_height * s.kernel_width * s.in, 1}; }
/// For the pixels that a tap sees, with `channels`, and behind them those that it gives to.
struct Room {
  float *seen = nullptr, *given = nullptr;
};
Room room_for(const Queue& q, const ConvolutionShape& s, std::int64_t channels) {
  if (s.kernel_height * s.kernel_width == 1) return {};  // the one tap sees all
  const std::int64_t all = s.batch * s.height * s.width;
  float* room = q.cpu->workspace(1, all * (s.in + s.out));
  return {room, room + all * channels};
}
float* floats(View v) { return static_cast<float*>(v.data); }

}  // namespace

bool suits_taps(const ConvolutionShape& s, double others) {
  const bool same_size = s.stride == 1 && s.kernel_height % 2 == 1 && s.kernel_width % 2 == 1 &&
                         2 * s.padding == s.dilation * (s.kernel_height - 1) && 2 * s.padding == s.dilation * (s.kernel_width - 1);
  if (!same_size || s.padding >= std::min(s.height, s.width)) return false;  // else a tap sees nothing
  // What copies cost is fitted to 12 shapes of 256 to 512 channels and images of 2 x 2 to 8 x 8 on one core with AVX-512: taps
  // are 1.1 to 1.8 times as fast where they are chosen (5 times for 2 x 2), at most 1.15 where they are not.
  double seen = 0;
  for (const Tap& t : taps_of(s)) seen += double(pixels(s, t));
  const bool by_amx = amx::suits(s.batch * s.height * s.width, s.out, s.in) && amx::available();
  const double product = by_amx ? 0.65 : 1;
  return product * seen * double(s.in) * double(s.out) + 20 * seen * double(s.in + s.out) < others;
}

void convolution_by_taps(const Queue& q, const ConvolutionShape& s, View y, View x, View w, View bias) {
  const auto [room, sums] = room_for(q, s, s.in);
  for (const Tap& t : taps_of(s)) {
    const bool first = t.shift == 0;
    const float* seen = gathered(s, t, floats(x), s.in, t.shift, room);
    const std::int64_t n = pixels(s, t);
    product(q, first ? floats(y) : sums, plain(n, s.out), seen, plain(n, s.in), floats(w) + t.number * s.in, transposed(weights_of_tap(s)),
            first ? bias : View{}, false);
    if (!first) add_back(s, t, floats(y), s.out, 0, sums);
  }
}

void convolution_backward_data_by_taps(const Queue& q, const ConvolutionShape& s, View dx, View dy, View w, Write write) {
  const auto [room, sums] = room_for(q, s, s.out);
  for (const Tap& t : taps_of(s)) {
    const bool first = t.shift == 0;
    const float* seen = gathered(s, t, floats(dy), s.out, 0, room);
    const std::int64_t n = pixels(s, t);
    product(q, first ? floats(dx) : sums, plain(n, s.in), seen, plain(n, s.out), floats(w) + t.number * s.in, weights_of_tap(s), {},
            first && write == Write::accumulate);
    if (!first) add_back(s, t, floats(dx), s.in, t.shift, sums);
  }
}

void convolution_backward_weights_by_taps(const Queue& q, const ConvolutionShape& s, View dw, View dy, View x, Write write) {
  const auto [room, room_of_given] = room_for(q, s, s.in);
  for (const Tap& t : taps_of(s)) {
    const float* seen = gathered(s, t, floats(x), s.in, t.shift, room);
    const float* given = gathered(s, t, floats(dy), s.out, 0, room_of_given);
    const std::int64_t n = pixels(s, t);
    product(q, floats(dw) + t.number * s.in, weights_of_tap(s), given, transposed(plain(n, s.out)), seen, plain(n, s.in), {},
            write == Write::accumulate);
  }
}

}  // namespace lockstep::kernels::cpu
