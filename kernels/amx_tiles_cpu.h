#pragma once

// Private to kernels/*_amx_cpu.cpp: what a matrix unit of Intel's AMX is fed with, and how.
//
// It multiplies tiles of 16 rows x 32 bf16 by 32 x 16 into 16 x 16 f32, a thousand multiply-adds in the time that two vector
// units take for 64. With x = x1 + x2 + x3, each a bf16, six products of tiles are one of f32:
//   x y = x1 y1 + (x1 y2 + x2 y1) + (x1 y3 + x2 y2 + x3 y1), and what is left out is below 2^-24 of it.
// (Henry, Tang, Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", 2019.)
//
// y is computed in blocks of 32 x 32, four tiles. What is multiplied is packed first: a panel is 32 rows of y (or columns), cut
// into chunks of 32 along k, each chunk holding the two tiles of x1, of x2 and of x3. A tile's row is 16 pairs (l, l + 16) of one
// row of a, or the pair (l, l + 16) of 16 columns of b.

#include <immintrin.h>

#include <algorithm>
#include <cstdint>

#include "kernels/base/transpose.h"
#include "kernels/matmul_amx_cpu.h"

// The file is compiled for any processor; these functions run on those that have what they need.
#define ON_AMX __attribute__((target("avx512f,avx512bw,amx-tile,amx-bf16")))
#define INLINE_ON_AMX ON_AMX __attribute__((always_inline)) inline

namespace lockstep::kernels::amx {

using Bf16 = std::uint16_t;

constexpr std::int64_t panel = 32, chunk = 32;                                    // rows or columns of y; along k
constexpr std::int64_t tile = 16 * 32, part = 2 * tile, packed_chunk = 3 * part;  // in bf16

/// Which tiles there are, in Intel's layout (LDTILECFG): 0 to 3 are sums, 4 and 5 of a, 6 and 7 of b. A tile of a may have fewer
/// than 16 rows, and one of b, like the rows of a's, fewer than 16 pairs.
struct alignas(64) Configuration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
  constexpr Configuration(int a_rows, int pairs) {
    for (int t = 0; t < 8; ++t) {
      rows[t] = std::uint8_t(t < 6 ? a_rows : pairs);
      row_bytes[t] = std::uint16_t(t == 4 || t == 5 ? 4 * pairs : 64);
    }
  }
};

typedef float Floats __attribute__((vector_size(64), may_alias));
typedef std::uint32_t Bits __attribute__((vector_size(64), may_alias));

/// gcc's intrinsics for tiles do not say that they read and write memory.
INLINE_ON_AMX void memory_is_used() {
  asm volatile("" ::: "memory");
}

constexpr __mmask16 first(std::int64_t n) {
  return n >= 16 ? 0xffff : n <= 0 ? 0 : __mmask16((1u << n) - 1);
}

/// x = x1 + x2 + x3, in the upper halves. Cutting off is exact in x2 and x3 (they hold the 16 bits that x1 leaves); x1 is
/// rounded, so that what the product leaves out has either sign. A NaN may be lost in x1, never in x2.
INLINE_ON_AMX void cut(Bits (&to)[3], Floats x) {
  constexpr std::uint32_t upper = 0xffff0000, half = 0x8000;
  to[0] = (Bits(x) + half) & upper;
  x -= Floats(to[0]);
  to[1] = Bits(x) & upper;
  x -= Floats(to[1]);
  to[2] = Bits(x) & upper;
}
/// A row of a tile of x1, of pairs (low, high), and the same rows of x2 and x3, which lie `distance` and twice that behind.
INLINE_ON_AMX void pack_row(Bf16* to, std::int64_t distance, Floats low, Floats high) {
  Bits l[3], h[3];
  cut(l, low);
  cut(h, high);
  for (int i = 0; i < 3; ++i) *reinterpret_cast<Bits*>(to + i * distance) = l[i] >> 16 | h[i];
}

/// A panel of up to 32 of y's rows (or columns) and some of k on its way into tiles, in steps of about 100 instructions: as many
/// as a processor looks ahead while it multiplies a chunk, so that packing beside it is free.
class Packing {
 public:
  using Squares = Floats[2][16];
  Packing() = default;
  /// y's rows (or columns) [i, i + outer), k's [l, l + inner). Tiles of a have y's rows as rows, those of b pairs along k.
  /// Steps leave things for each other in `squares`.
  Packing(Bf16* to, Squares& squares, const Operand& x, bool of_a, std::int64_t i, std::int64_t outer, std::int64_t l,
          std::int64_t inner)
      : to_(to),
        squares_(&squares),
        along_k_(x.inner == 1),
        turned_(of_a != along_k_),
        from_(x.data + i * x.outer + l * x.inner),
        stride_(along_k_ ? x.outer : x.inner),
        outer_(outer),
        inner_(inner),
        steps_((inner + chunk - 1) / chunk * 2 * steps_of_half()) {}

  std::int64_t steps() const { return steps_; }
  ON_AMX void until(std::int64_t step) {
    while (done_ < step) one_step();
  }

 private:
  std::int64_t steps_of_half() const { return turned_ ? 6 : 4; }

  /// Row r of 16, of which `rows` and `columns` are there; zeros beyond. Asks for what the next panel has in its place: 10 % of a
  /// step of GPT-2, whose weights come from memory. (Two panels ahead, or into the first cache: slower.)
  INLINE_ON_AMX Floats row(const float* from, std::int64_t r, std::int64_t rows, std::int64_t columns) const {
    _mm_prefetch(reinterpret_cast<const char*>(from + r * stride_ + (along_k_ ? panel * stride_ : panel)), _MM_HINT_T1);
    return r < rows ? Floats(_mm512_maskz_loadu_ps(first(columns), from + r * stride_)) : Floats{};
  }

  ON_AMX void one_step() {
    const std::int64_t number = done_ / steps_of_half(), step = done_ % steps_of_half(), half = number % 2, c = number / 2;
    ++done_;
    const std::int64_t outer = outer_ - half * 16, inner = inner_ - c * chunk;  // what is left
    const float* low = from_ + (along_k_ ? half * 16 * stride_ + c * chunk : half * 16 + c * chunk * stride_);
    const float* high = low + (along_k_ ? 16 : 16 * stride_);
    const std::int64_t rows = along_k_ ? outer : inner, columns = along_k_ ? inner : outer;
    const std::int64_t high_rows = along_k_ ? rows : rows - 16, high_columns = along_k_ ? columns - 16 : columns;
    Bf16* to = to_ + c * packed_chunk + half * tile;
    if (turned_ && step < 2) {
      Floats square[16];
      for (int r = 0; r < 16; ++r) square[r] = step == 0 ? row(low, r, rows, columns) : row(high, r, high_rows, high_columns);
      transpose(square);
      for (int r = 0; r < 16; ++r) (*squares_)[step][r] = square[r];
      return;
    }
    const std::int64_t begin = 4 * (turned_ ? step - 2 : step);
    for (std::int64_t r = begin; r < begin + 4; ++r)
      turned_ ? pack_row(to + r * 32, part, (*squares_)[0][r], (*squares_)[1][r])
              : pack_row(to + r * 32, part, row(low, r, rows, columns), row(high, r, high_rows, high_columns));
  }

  Bf16* to_ = nullptr;
  Squares* squares_ = nullptr;
  bool along_k_ = false, turned_ = false;
  const float* from_ = nullptr;
  std::int64_t stride_ = 0, outer_ = 0, inner_ = 0, steps_ = 0, done_ = 0;
};

/// Sums of a block on their way to y (rows, columns): y (+)= sums + bias, a few rows at a time; around the caches if asked for,
/// and then the caller waits for the stores (sfence).
class Putting {
 public:
  Putting() = default;
  Putting(float* y, std::int64_t y_row, const float* sums, std::int64_t rows, std::int64_t columns, const float* bias, bool add,
          bool around_caches = false)
      : y_(y),
        sums_(sums),
        bias_(bias),
        y_row_(y_row),
        rows_(rows),
        columns_(columns),
        add_(add),
        around_caches_(around_caches) {}

  ON_AMX void until(std::int64_t row) {
    row = std::min(row, rows_);
    if (done_ >= row) return;
    for (std::int64_t at = 0; at < columns_; at += 16) {
      const __mmask16 mask = first(columns_ - at);
      const Floats bias = bias_ ? Floats(_mm512_maskz_loadu_ps(mask, bias_ + at)) : Floats{};
      for (std::int64_t r = done_; r < row; ++r) {
        float* to = y_ + r * y_row_ + at;
        Floats v = *reinterpret_cast<const Floats*>(sums_ + r * panel + at) + bias;
        if (add_) v += Floats(_mm512_maskz_loadu_ps(mask, to));
        if (around_caches_ && mask == 0xffff && (reinterpret_cast<std::uintptr_t>(to) & 63) == 0)
          _mm512_stream_ps(to, v);
        else
          _mm512_mask_storeu_ps(to, mask, v);
      }
    }
    done_ = row;
  }

 private:
  float* y_ = nullptr;
  const float *sums_ = nullptr, *bias_ = nullptr;
  std::int64_t y_row_ = 0, rows_ = 0, columns_ = 0, done_ = 0;
  bool add_ = false, around_caches_ = false;
};

/// Where the two tiles of x1 on one side of a product lie; those of x2 and x3 are `distance` and twice that behind.
struct Tiles {
  const Bf16 *first, *second;
  std::int64_t distance;
};
INLINE_ON_AMX void load_a(const Tiles& a, std::int64_t number) {
  _tile_loadd(4, a.first + number * a.distance, 64);
  _tile_loadd(5, a.second + number * a.distance, 64);
}
INLINE_ON_AMX void load_b(const Tiles& b, std::int64_t number) {
  _tile_loadd(6, b.first + number * b.distance, 64);
  _tile_loadd(7, b.second + number * b.distance, 64);
}
INLINE_ON_AMX void multiply() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}
INLINE_ON_AMX void clear_sums() {
  memory_is_used();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}
/// To rows of 32; those of a's second tile begin with `second`.
INLINE_ON_AMX void store_sums(float* sums, std::int64_t second) {
  constexpr std::int64_t row = panel * sizeof(float);
  _tile_stored(0, sums, row);
  _tile_stored(1, sums + 16, row);
  _tile_stored(2, sums + second * panel, row);
  _tile_stored(3, sums + second * panel + 16, row);
  memory_is_used();
}

/// Adds a chunk's product to the sums, and calls meanwhile(0) to meanwhile(4) while the unit multiplies: 130 instructions in all
/// are free. In this order of the six products seven pairs of tiles are loaded.
template <class Meanwhile>
INLINE_ON_AMX void multiply_chunk(const Tiles& a, const Tiles& b, Meanwhile&& meanwhile) {
  load_a(a, 0);
  load_b(b, 2);
  multiply();  // x1 y3
  meanwhile(0);
  load_b(b, 1);
  multiply();  // x1 y2
  meanwhile(1);
  load_a(a, 1);
  multiply();  // x2 y2
  meanwhile(2);
  load_b(b, 0);
  multiply();  // x2 y1
  meanwhile(3);
  load_a(a, 2);
  multiply();  // x3 y1
  meanwhile(4);
  load_a(a, 0);
  multiply();  // x1 y1
}

}  // namespace lockstep::kernels::amx
