#include "kernels/convolution_amx_cpu.h"

#include <omp.h>

#include <vector>

#include "kernels/amx_tiles_cpu.h"
#include "kernels/vendor_cpu.h"

// An image is cut into bf16 once, with the zeros around it, 32 channels a pixel. A tile is up to 16 pixels of one row of it, so
// what any tap of the kernel sees of it is a tile, too, that begins so many pixels further on: nothing is gathered.

namespace lockstep::kernels::cpu {
namespace {

using namespace amx;

constexpr std::int64_t channels = 32;             // of a chunk
constexpr std::int64_t most_chunks = 5;           // in one sum in tiles: sums of sums are more precise
constexpr std::int64_t strip_bytes = 384 << 10;   // of an image cut to bf16: they stay in the second cache
constexpr std::int64_t turned_bytes = 640 << 10;  // of images and gradients turned for the gradient of weights: the same
constexpr std::int64_t most_shares = 8;           // of the images, each with a sum of its own, for as many threads
constexpr std::int64_t shares_size = 2 << 20;     // numbers in the sums of all shares

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
  return (a + b - 1) / b;
}
const float* floats(View v) {
  return static_cast<const float*>(v.data);
}
float* floats_to(View v) {
  return static_cast<float*>(v.data);
}

/// An image with as many zeros around it as are asked for.
struct Image {
  const float* data;
  std::int64_t height, width, channels;

  /// 16 channels of a pixel.
  INLINE_ON_AMX Floats at(std::int64_t row, std::int64_t column, std::int64_t channel) const {
    const bool inside = row >= 0 && row < height && column >= 0 && column < width;
    return _mm512_maskz_loadu_ps(inside ? first(channels - channel) : __mmask16(0),
                                 data + (row * width + column) * channels + channel);
  }
};

/// A convolution of stride 1 in one group. The gradient of an image is one of the gradient of y with the kernel turned around.
struct Sliding {
  std::int64_t batch, height, width, in, out_height, out_width, out;
  std::int64_t kernel_height, kernel_width, dilation;
  std::int64_t up, left;  ///< zeros above and to the left of an image; less than none: what is left out of it

  Image image(const float* x, std::int64_t number) const { return {x + number * height * width * in, height, width, in}; }
  Image out_image(const float* y, std::int64_t number) const {
    return {y + number * out_height * out_width * out, out_height, out_width, out};
  }
  std::int64_t taps() const { return kernel_height * kernel_width; }
  std::int64_t in_chunks() const { return ceil_div(in, channels); }
  std::int64_t out_blocks() const { return ceil_div(out, panel); }

  /// A row of y is cut into pieces of equal width (the last may lack some), each a tile.
  std::int64_t pieces() const { return ceil_div(out_width, 16); }
  std::int64_t piece() const { return ceil_div(out_width, pieces()); }
  std::int64_t pixels_of(std::int64_t piece_number) const { return std::min(piece(), out_width - piece_number * piece()); }
  /// Pixels of a row of an image with what is around it, as far as tiles of pieces see.
  std::int64_t wide() const { return pieces() * piece() + dilation * (kernel_width - 1); }
  std::int64_t halo() const { return dilation * (kernel_height - 1); }
  /// How far behind the pixel that its first tap sees is the one that `tap` sees.
  std::int64_t pixels_to(std::int64_t tap) const { return (tap / kernel_width * wide() + tap % kernel_width) * dilation; }
};
Sliding forward_of(const ConvolutionShape& s) {
  return {s.batch, s.height,        s.width,        s.in,       s.out_height(), s.out_width(),
          s.out,   s.kernel_height, s.kernel_width, s.dilation, s.padding,      s.padding};
}
Sliding backward_of(const ConvolutionShape& s) {
  return {s.batch,
          s.out_height(),
          s.out_width(),
          s.out,
          s.height,
          s.width,
          s.in,
          s.kernel_height,
          s.kernel_width,
          s.dilation,
          s.dilation * (s.kernel_height - 1) - s.padding,
          s.dilation * (s.kernel_width - 1) - s.padding};
}

/// A block's sums between the unit and y: the last block's are put into y while the next is multiplied.
class Sums {
 public:
  ON_AMX void begin(std::int64_t chunks) {
    rows_ = ceil_div(panel, 5 * chunks), row_ = 0;
    clear_sums();
  }
  /// Called five times a chunk.
  void put_some() { putting_.until(row_ += rows_); }
  ON_AMX void end(std::int64_t rows_of_first_tile, float* y, std::int64_t y_row, std::int64_t rows, std::int64_t columns,
                  const float* bias, bool add) {
    put_all();
    store_sums(sums_[turn_], rows_of_first_tile);
    putting_ = Putting(y, y_row, sums_[turn_], rows, columns, bias, add);
    turn_ ^= 1;
  }
  ON_AMX void put_all() { putting_.until(panel); }

 private:
  alignas(64) float sums_[2][panel * panel];
  Putting putting_;
  std::int64_t rows_ = 0, row_ = 0;
  int turn_ = 0;
};

/// Some of y's rows in one image and what they see: for each chunk of channels x1, x2 and x3 of all pixels.
class Strip {
 public:
  Strip(const Sliding& s, std::int64_t rows) : s_(s), rows_(rows), pixels_((rows + s.halo()) * s.wide()) {
    for (std::int64_t tap = 0; tap < s.taps(); ++tap)
      for (std::int64_t c = 0; c < s.in_chunks(); ++c) seen_.push_back((c * 3 * pixels_ + s.pixels_to(tap)) * channels);
  }
  static std::int64_t row_bytes(const Sliding& s) { return s.wide() * s.in_chunks() * 3 * channels * std::int64_t(sizeof(Bf16)); }
  std::int64_t size() const { return s_.in_chunks() * 3 * pixels_ * channels; }

  /// What y's rows from `row` see.
  ON_AMX void cut(Bf16* to, Image x, std::int64_t row) const {
    for (std::int64_t c = 0; c < s_.in_chunks(); ++c, to += 2 * pixels_ * channels)
      for (std::int64_t r = row - s_.up; r < row - s_.up + rows_ + s_.halo(); ++r)
        for (std::int64_t i = -s_.left; i < s_.wide() - s_.left; ++i, to += channels)
          pack_row(to, pixels_ * channels, x.at(r, i, c * channels), x.at(r, i, c * channels + 16));
  }

  /// y is the strip's first pixel; `rows` of it are there.
  ON_AMX void multiply(float* y, const Bf16* cut, const Bf16* weights, std::int64_t rows, const float* bias, bool add) const {
    alignas(64) const Configuration configuration(int(s_.piece()), 16);
    Sums sums;
    _tile_loadconfig(&configuration);
    const std::int64_t tiles = rows * s_.pieces(), chunks = std::int64_t(seen_.size()), slices = ceil_div(chunks, most_chunks);
    for (std::int64_t o = 0; o < s_.out_blocks(); ++o)
      for (std::int64_t t = 0; t < tiles; t += 2) {
        const std::int64_t one = start(t), other = start(std::min(t + 1, tiles - 1));
        const std::int64_t first = s_.pixels_of(t % s_.pieces()),
                           both = first + (t + 1 < tiles ? s_.pixels_of((t + 1) % s_.pieces()) : 0);
        const std::int64_t at = t / s_.pieces() * s_.out_width + t % s_.pieces() * s_.piece();
        for (std::int64_t slice = 0; slice < slices; ++slice) {
          const std::int64_t begin = chunks * slice / slices, end = chunks * (slice + 1) / slices;
          sums.begin(end - begin);
          for (std::int64_t i = begin; i < end; ++i) {
            const Bf16 *a = cut + seen_[std::size_t(i)], *b = weights + (o * chunks + i) * packed_chunk;
            multiply_chunk({a + one, a + other, pixels_ * channels}, {b, b + tile, part}, [&](std::int64_t) { sums.put_some(); });
          }
          sums.end(first, y + at * s_.out + o * panel, s_.out, both, std::min(panel, s_.out - o * panel),
                   bias && slice == 0 ? bias + o * panel : nullptr, add || slice > 0);
        }
      }
    sums.put_all();
    _tile_release();
  }

 private:
  std::int64_t start(std::int64_t t) const { return (t / s_.pieces() * s_.wide() + t % s_.pieces() * s_.piece()) * channels; }
  const Sliding s_;
  std::int64_t rows_, pixels_;
  std::vector<std::int64_t> seen_;  ///< where the chunks that a pixel of y sees lie, by taps
};

/// y (+)= the convolution + bias. Element (o, i) of a tap's weights is weights.data[tap * tap_distance + o * outer + i * inner].
void slide(const Queue& q, const Sliding& s, float* y, const float* x, Operand weights, std::int64_t tap_distance,
           const float* bias, bool add) {
  if (s.batch * s.out_height * s.out_width == 0) return;
  const std::int64_t taps = s.taps(), chunks = s.in_chunks(), blocks = s.out_blocks(), threads = omp_get_max_threads();
  std::int64_t rows = std::max<std::int64_t>(2, strip_bytes / Strip::row_bytes(s) - s.halo());
  rows = std::min(ceil_div(s.out_height, ceil_div(s.out_height, rows)), ceil_div(s.batch * s.out_height, threads));
  const Strip strip(s, rows);
  const std::int64_t strips = ceil_div(s.out_height, rows), size_of_weights = blocks * taps * chunks * packed_chunk;
  auto* packed = reinterpret_cast<Bf16*>(q.cpu->panels(1, (size_of_weights + threads * strip.size()) / 2));
  Bf16* cuts = packed + size_of_weights;
#pragma omp parallel num_threads(threads)
  {
#pragma omp for
    for (std::int64_t i = 0; i < blocks * taps; ++i) {
      const std::int64_t o = i / taps * panel, tap = i % taps;
      Packing::Squares squares;
      Packing packing(packed + i * chunks * packed_chunk, squares,
                      {weights.data + tap * tap_distance, weights.outer, weights.inner}, false, o, std::min(panel, s.out - o), 0,
                      s.in);
      packing.until(packing.steps());
    }
    Bf16* cut = cuts + omp_get_thread_num() * strip.size();
#pragma omp for
    for (std::int64_t i = 0; i < s.batch * strips; ++i) {
      const std::int64_t image = i / strips, row = i % strips * rows;
      strip.cut(cut, s.image(x, image), row);
      strip.multiply(y + (image * s.out_height + row) * s.out_width * s.out, cut, packed, std::min(rows, s.out_height - row),
                     bias, add);
    }
  }
}

/// Gradients of weights sum over y's pixels. A chunk is one piece of two of y's rows; what is summed over goes in pairs of pixels
/// below each other, so that what a tap sees may begin at any pixel. A strip of rows so turned holds, for 16 of x's channels
/// after the other, x1 to x3 of all pixels in pairs with those below; behind it, for each 32 of y's channels, chunk after chunk
/// of y's gradient.
class TurnedStrip {
 public:
  /// `rows` of y, an even number.
  TurnedStrip(const Sliding& s, std::int64_t rows)
      : s_(s),
        rows_(rows),
        distance_((rows - 1 + s.halo()) * s.wide() * channels),
        chunks_(rows / 2 * s.pieces()),
        size_of_x_(s.in_chunks() * 6 * distance_) {}
  static std::int64_t row_bytes(const Sliding& s) {
    return (s.wide() * s.in_chunks() * 6 * channels + s.pieces() * s.out_blocks() * packed_chunk / 2) *
           std::int64_t(sizeof(Bf16));
  }
  std::int64_t size() const { return size_of_x_ + s_.out_blocks() * chunks_ * packed_chunk; }

  /// What y's rows from `row` see, and their gradient.
  ON_AMX void turn(Bf16* to, Image x, Image dy, std::int64_t row) const {
    for (std::int64_t half = 0; half < 2 * s_.in_chunks(); ++half)
      for (std::int64_t i = 0; i < s_.wide(); ++i)
        turn_column(to + half * 3 * distance_ + i * channels, x, row - s_.up, i - s_.left, half * 16);
    for (std::int64_t half = 0; half < 2 * s_.out_blocks(); ++half)
      for (std::int64_t c = 0; c < chunks_; ++c)
        turn_chunk(to + size_of_x_ + (half / 2 * chunks_ + c) * packed_chunk + half % 2 * tile, dy, row + c / s_.pieces() * 2,
                   c % s_.pieces(), half * 16);
  }

  /// Blocks of 32 x 32 of the gradient of weights, each at one tap.
  std::int64_t tasks() const { return s_.out_blocks() * s_.in_chunks() * s_.taps(); }
  /// Adds what the strip gives to the gradient of weights, or writes it: tasks [begin, end).
  ON_AMX void multiply(float* dw, const Bf16* turned, std::int64_t begin, std::int64_t end, bool add) const {
    alignas(64) const Configuration configuration(16, int(s_.piece()));
    Sums sums;
    _tile_loadconfig(&configuration);
    const std::int64_t filter = s_.taps() * s_.in, slices = ceil_div(chunks_, most_chunks);
    for (std::int64_t slice = 0; slice < slices; ++slice)
      for (std::int64_t task = begin; task < end; ++task) {
        const std::int64_t tap = task % s_.taps(), i = task / s_.taps() % s_.in_chunks(), o = task / s_.taps() / s_.in_chunks();
        const std::int64_t first = chunks_ * slice / slices, last = chunks_ * (slice + 1) / slices;
        const Bf16 *a = turned + size_of_x_ + o * chunks_ * packed_chunk,
                   *b = turned + i * 6 * distance_ + s_.pixels_to(tap) * channels;
        sums.begin(last - first);
        for (std::int64_t c = first; c < last; ++c) {
          const Bf16 *dy = a + c * packed_chunk,
                     *x = b + (c / s_.pieces() * 2 * s_.wide() + c % s_.pieces() * s_.piece()) * channels;
          multiply_chunk({dy, dy + tile, part}, {x, x + 3 * distance_, distance_}, [&](std::int64_t) { sums.put_some(); });
        }
        sums.end(16, dw + o * panel * filter + tap * s_.in + i * channels, filter, std::min(panel, s_.out - o * panel),
                 std::min(channels, s_.in - i * channels), nullptr, add || slice > 0);
      }
    sums.put_all();
    _tile_release();
  }

 private:
  /// 16 channels of a column of x, each number cut once.
  ON_AMX void turn_column(Bf16* to, Image x, std::int64_t row, std::int64_t column, std::int64_t channel) const {
    Bits above[3], here[3];
    for (std::int64_t r = 0; r < rows_ + s_.halo(); ++r) {
      cut(here, x.at(row + r, column, channel));
      for (int i = 0; i < 3; ++i) {
        if (r > 0) *reinterpret_cast<Bits*>(to + (r - 1) * s_.wide() * channels + i * distance_) = above[i] >> 16 | here[i];
        above[i] = here[i];
      }
    }
  }
  /// 16 channels of a piece of dy's rows `row` and the next, channels as rows.
  ON_AMX void turn_chunk(Bf16* to, Image dy, std::int64_t row, std::int64_t piece, std::int64_t channel) const {
    Floats squares[2][16];
    for (std::int64_t r = 0; r < 2; ++r) {
      for (std::int64_t i = 0; i < 16; ++i)
        squares[r][i] = i < s_.piece() ? dy.at(row + r, piece * s_.piece() + i, channel) : Floats{};
      transpose(squares[r]);
    }
    for (std::int64_t i = 0; i < 16; ++i) pack_row(to + i * 32, part, squares[0][i], squares[1][i]);
  }

  const Sliding s_;
  std::int64_t rows_, distance_, chunks_, size_of_x_;  ///< distance_: from x1 to x2
};

}  // namespace

void convolution_by_amx(const Queue& q, const ConvolutionShape& s, View y, View x, View w, View bias) {
  const std::int64_t taps = s.kernel_height * s.kernel_width;
  slide(q, forward_of(s), floats_to(y), floats(x), {floats(w), taps * s.in, 1}, s.in, floats(bias), false);
}

void convolution_backward_data_by_amx(const Queue& q, const ConvolutionShape& s, View dx, View dy, View w, Write write) {
  const std::int64_t taps = s.kernel_height * s.kernel_width;
  slide(q, backward_of(s), floats_to(dx), floats(dy), {floats(w) + (taps - 1) * s.in, 1, taps * s.in}, -s.in, nullptr,
        write == Write::accumulate);
}

void convolution_backward_weights_by_amx(const Queue& q, const ConvolutionShape& shape, View dw, View dy, View x, Write write) {
  // How images are shared out tells in which order is summed: it must not depend on the number of threads.
  const Sliding s = forward_of(shape);
  std::int64_t rows = std::max<std::int64_t>(2, turned_bytes / TurnedStrip::row_bytes(s) - s.halo());
  rows = ceil_div(ceil_div(s.out_height, ceil_div(s.out_height, rows)), 2) * 2;
  const TurnedStrip strip(s, rows);
  const std::int64_t strips = ceil_div(s.out_height, rows), all = s.batch * strips;
  std::int64_t shares = 1;
  while (2 * shares <= std::min(most_shares, all) && 2 * shares * dw.size <= shares_size) shares *= 2;

  const std::int64_t threads = omp_get_max_threads(), parts = ceil_div(threads, shares);
  auto* rooms = reinterpret_cast<Bf16*>(q.cpu->panels(1, threads * strip.size() / 2 + (shares - 1) * dw.size));
  float* sums = reinterpret_cast<float*>(rooms + threads * strip.size());
#pragma omp parallel num_threads(threads)
  {
    Bf16* room = rooms + omp_get_thread_num() * strip.size();
#pragma omp for schedule(dynamic)
    for (std::int64_t item = 0; item < shares * parts; ++item) {
      const std::int64_t share = item / parts, part = item % parts, begin = all * share / shares,
                         end = all * (share + 1) / shares;
      float* to = share == 0 ? floats_to(dw) : sums + (share - 1) * dw.size;
      for (std::int64_t i = begin; i < end; ++i) {
        strip.turn(room, s.image(floats(x), i / strips), s.out_image(floats(dy), i / strips), i % strips * rows);
        strip.multiply(to, room, strip.tasks() * part / parts, strip.tasks() * (part + 1) / parts,
                       i > begin || (share == 0 && write == Write::accumulate));
      }
    }
    float* to = floats_to(dw);
#pragma omp for simd
    for (std::int64_t i = 0; i < dw.size; ++i)
      for (std::int64_t share = 1; share < shares; ++share) to[i] += sums[(share - 1) * dw.size + i];
  }
}

// In products of a direct convolution by oneDNN, fitted to 15 shapes on one core and two: multiplying a chunk, cutting a pixel of
// 32 channels (for the gradient of weights twice, in halves), turning half a chunk of y's gradient.
bool suits_amx(const ConvolutionShape& shape, bool for_weights, double others) {
  const Sliding s = forward_of(shape);
  const double rows = double(s.batch * s.out_height), pairs_of_tiles = rows * double(s.pieces()) / 2, in = double(s.in_chunks()),
               out = double(s.out_blocks()), pixels = (rows + double(s.batch * s.halo())) * double(s.wide());
  const double multiplying = 0.6 * 32 * 32 * 32 * pairs_of_tiles * double(s.taps()) * in * out;
  const double packing = for_weights ? 1000 * 2 * pixels * in + 19000 * 2 * pairs_of_tiles * out : 1100 * pixels * in;
  return multiplying + packing < others && available();
}

}  // namespace lockstep::kernels::cpu
