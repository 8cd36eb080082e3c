#include "kernels/matmul_amx_cpu.h"

#include <immintrin.h>
#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "kernels/base/transpose.h"
#include "kernels/vendor_cpu.h"

// An AMX unit multiplies tiles of 16 rows x 32 bf16 by 32 x 16 into 16 x 16 f32, a thousand multiply-adds in the time that two
// vector units take for 64. With x = x1 + x2 + x3, each a bf16, six products of tiles are one of f32:
//   x y = x1 y1 + (x1 y2 + x2 y1) + (x1 y3 + x2 y2 + x3 y1), and what is left out is below 2^-24 of it.
// (Henry, Tang, Heinecke, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations", 2019.)
//
// y is computed in blocks of 32 x 32, four tiles. Both operands are packed first: a panel is 32 rows of y (or columns), cut into
// chunks of 32 along k, each chunk holding the two tiles of x1, of x2 and of x3. A tile's row is 16 pairs (l, l + 16) of one row of
// a, or the pair (l, l + 16) of 16 columns of b.

// The file is compiled for any processor; these functions run on those that have what they need.
#define ON_AMX __attribute__((target("avx512f,avx512bw,amx-tile,amx-bf16")))
#define INLINE_ON_AMX ON_AMX __attribute__((always_inline)) inline

namespace lockstep::kernels::amx {
namespace {

using Bf16 = std::uint16_t;

constexpr std::int64_t panel = 32, chunk = 32;  // rows or columns of y; along k
constexpr std::int64_t tile = 16 * 32, part = 2 * tile, packed_chunk = 3 * part;  // in bf16
constexpr std::int64_t deep = 128;   // along k: a panel of a stays in the first cache (24 KiB)
constexpr std::int64_t wide = 1024;  // rows or columns of y whose panels stay in the second cache (768 KiB)
constexpr std::int64_t far = 512;    // of the other kind that pass by before k goes on: this part of y stays near
constexpr std::int64_t packed_panel = deep / chunk * packed_chunk;

/// The layout of a tile configuration is Intel's (LDTILECFG): eight tiles of 16 rows of 64 bytes.
struct alignas(64) Configuration {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr Configuration configuration;

typedef float Floats __attribute__((vector_size(64), may_alias));
typedef std::uint32_t Bits __attribute__((vector_size(64), may_alias));

/// gcc's intrinsics for tiles do not say that they read and write memory.
INLINE_ON_AMX void memory_is_used() { asm volatile("" ::: "memory"); }

constexpr __mmask16 first(std::int64_t n) {
  return n >= 16 ? 0xffff : n <= 0 ? 0 : __mmask16((1u << n) - 1);
}

/// The pairs (low, high) as bf16, and what that leaves of them. Cutting off is exact in x2 and x3 (they hold the 16 bits that x1
/// leaves); x1 is rounded, so that what the product leaves out has either sign. A NaN may be lost in x1, never in x2.
template <bool rounded>
INLINE_ON_AMX void split(Bf16* to, Floats& low, Floats& high) {
  constexpr std::uint32_t upper = 0xffff0000, half = rounded ? 0x8000 : 0;
  const Bits l = Bits(low) + half, h = Bits(high) + half;
  *reinterpret_cast<Bits*>(to) = (l >> 16) | (h & upper);
  low -= Floats(l & upper);
  high -= Floats(h & upper);
}
/// A row of a tile of x1, and the same rows of x2 and x3.
INLINE_ON_AMX void pack_row(Bf16* to, Floats low, Floats high) {
  split<true>(to, low, high);
  split<false>(to + part, low, high);
  split<false>(to + 2 * part, low, high);
}

/// A panel of up to 32 of y's rows (or columns) and `deep` of k on its way into tiles, in steps of about 100 instructions: as many as a
/// processor looks ahead while it multiplies a chunk, so that packing beside it is free.
class Packing {
 public:
  using Squares = Floats[2][16];
  Packing() = default;
  /// y's rows (or columns) [i, i + outer), k's [l, l + inner). Tiles of a have y's rows as rows, those of b pairs along k.
  /// Steps leave things for each other in `squares`.
  Packing(Bf16* to, Squares& squares, const Operand& x, bool of_a, std::int64_t i, std::int64_t outer, std::int64_t l, std::int64_t inner)
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

  /// Row r of 16, of which `rows` and `columns` are there; zeros beyond. Asks for what the next panel has in its place: 10 % of a step
  /// of GPT-2, whose weights come from memory. (Two panels ahead, or into the first cache: slower.)
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
      turned_ ? pack_row(to + r * 32, (*squares_)[0][r], (*squares_)[1][r])
              : pack_row(to + r * 32, row(low, r, rows, columns), row(high, r, high_rows, high_columns));
  }

  Bf16* to_ = nullptr;
  Squares* squares_ = nullptr;
  bool along_k_ = false, turned_ = false;
  const float* from_ = nullptr;
  std::int64_t stride_ = 0, outer_ = 0, inner_ = 0, steps_ = 0, done_ = 0;
};

/// Sums of a block on their way to y (rows, columns): y (+)= sums + bias, a few rows at a time.
class Putting {
 public:
  Putting() = default;
  Putting(float* y, std::int64_t y_row, const float* sums, std::int64_t rows, std::int64_t columns, const float* bias, bool add)
      : y_(y), sums_(sums), bias_(bias), y_row_(y_row), rows_(rows), columns_(columns), add_(add) {}

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
        _mm512_mask_storeu_ps(to, mask, v);
      }
    }
    done_ = row;
  }

 private:
  float* y_ = nullptr;
  const float *sums_ = nullptr, *bias_ = nullptr;
  std::int64_t y_row_ = 0, rows_ = 0, columns_ = 0, done_ = 0;
  bool add_ = false;
};

INLINE_ON_AMX void load_a(const Bf16* a) {
  _tile_loadd(4, a, 64);
  _tile_loadd(5, a + tile, 64);
}
INLINE_ON_AMX void load_b(const Bf16* b) {
  _tile_loadd(6, b, 64);
  _tile_loadd(7, b + tile, 64);
}
INLINE_ON_AMX void multiply() {
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

/// sums (32, 32) = a panel of a times one of b. Meanwhile the block before is put into y, and `packing` goes on from the step
/// `from` to `to`. In this order of the six products seven pairs of tiles are loaded.
ON_AMX void multiply_panels(float* sums, const Bf16* a, const Bf16* b, std::int64_t chunks, Putting& putting, Packing& packing,
                            std::int64_t from, std::int64_t to) {
  memory_is_used();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t c = 0; c < chunks; ++c, a += packed_chunk, b += packed_chunk) {
    auto put = [&](std::int64_t half) { putting.until((panel * (2 * c + half) + 2 * chunks - 1) / (2 * chunks)); };
    auto pack = [&](std::int64_t third) { packing.until(from + ((to - from) * (3 * c + third) + 3 * chunks - 1) / (3 * chunks)); };
    load_a(a);
    load_b(b + 2 * part);
    multiply();  // x1 y3
    put(1);
    load_b(b + part);
    multiply();  // x1 y2
    put(2);
    load_a(a + part);
    multiply();  // x2 y2
    pack(1);
    load_b(b);
    multiply();  // x2 y1
    pack(2);
    load_a(a + 2 * part);
    multiply();  // x3 y1
    pack(3);
    load_a(a);
    multiply();  // x1 y1
  }
  constexpr std::int64_t row = panel * sizeof(float);
  _tile_stored(0, sums, row);
  _tile_stored(1, sums + 16, row);
  _tile_stored(2, sums + 16 * panel, row);
  _tile_stored(3, sums + 16 * panel + 16, row);
  memory_is_used();
}

struct Range {
  std::int64_t begin, end;
  std::int64_t panels() const { return (end - begin + panel - 1) / panel; }
};
struct Side {
  Operand operand;
  Range range;
};

/// y's rows and columns of one thread. The side with fewer panels is packed `deep` by `deep` and stays in the second cache; the
/// other's panels pass by.
ON_AMX void rectangle(float* y, std::int64_t y_row, const Side& rows, const Side& columns, std::int64_t k, const float* bias, bool add,
                      Bf16* room) {
  const bool a_stays = rows.range.panels() < columns.range.panels();
  const Side &staying = a_stays ? rows : columns, &passing = a_stays ? columns : rows;
  alignas(64) float sums[2][panel * panel];
  Bf16 *const passing_room[] = {room, room + packed_panel}, *staying_room = room + 2 * packed_panel;
  Packing::Squares squares;
  auto packing = [&](const Side& side, bool of_a, std::int64_t at, std::int64_t end, std::int64_t l, Bf16* to) {
    return at < end ? Packing(to, squares, side.operand, of_a, at, std::min(panel, end - at), l, std::min(deep, k - l)) : Packing();
  };
  Putting putting;
  int turn = 0;
  _tile_loadconfig(&configuration);
  for (std::int64_t s = staying.range.begin; s < staying.range.end; s += wide)
    for (std::int64_t p = passing.range.begin; p < passing.range.end; p += far)
      for (std::int64_t l = 0; l < k; l += deep) {
        const std::int64_t s_end = std::min(staying.range.end, s + wide), p_end = std::min(passing.range.end, p + far);
        const std::int64_t stay = Range{s, s_end}.panels(), chunks = (std::min(deep, k - l) + chunk - 1) / chunk;
        for (std::int64_t i = 0; i < stay; ++i) {
          Packing now = packing(staying, a_stays, s + i * panel, s_end, l, staying_room + i * packed_panel);
          now.until(now.steps());
        }
        Packing next = packing(passing, !a_stays, p, p_end, l, passing_room[0]);
        next.until(next.steps());
        for (std::int64_t at = p, buffer = 0; at < p_end; at += panel, buffer ^= 1) {
          next = packing(passing, !a_stays, at + panel, p_end, l, passing_room[buffer ^ 1]);
          for (std::int64_t i = 0; i < stay; ++i, turn ^= 1) {
            const std::int64_t stays = s + i * panel, row = a_stays ? stays : at, column = a_stays ? at : stays;
            const Bf16 *one = staying_room + i * packed_panel, *other = passing_room[buffer];
            multiply_panels(sums[turn], a_stays ? one : other, a_stays ? other : one, chunks, putting, next, next.steps() * i / stay,
                            next.steps() * (i + 1) / stay);
            putting = Putting(y + row * y_row + column, y_row, sums[turn], std::min(panel, rows.range.end - row),
                              std::min(panel, columns.range.end - column), bias && l == 0 ? bias + column : nullptr, add || l > 0);
          }
        }
      }
  putting.until(panel);
  _tile_release();
}

/// How `threads` share y out: into as many stripes of rows as `rows` says, each cut into columns.
struct Grid {
  std::int64_t rows, columns;
};
Grid grid(std::int64_t row_panels, std::int64_t column_panels, int threads) {
  Grid best{1, threads};
  double least = 1e300;
  for (std::int64_t rows = 1; rows <= threads; ++rows) {
    if (threads % rows != 0) continue;
    const std::int64_t high = (row_panels + rows - 1) / rows, across = (column_panels + threads / rows - 1) / (threads / rows);
    const double time = double(high * across) + 0.6 * double(high + across);  // packing a chunk takes 0.6 of multiplying one
    if (time < least) least = time, best = {rows, threads / rows};
  }
  return best;
}

}  // namespace

bool available() {
  static const bool answer = [] {
    // A bit for each part of a processor: AVX2 with VNNI is the larger number of oneDNN 2, and has no AMX.
    constexpr auto wanted = unsigned(dnnl::cpu_isa::avx512_core_amx);
    if ((unsigned(dnnl::get_effective_cpu_isa()) & wanted) != wanted) return false;
    if (!__builtin_cpu_supports("amx-bf16") || !__builtin_cpu_supports("avx512bw")) return false;
    constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
  }();
  return answer;
}

bool suits(std::int64_t m, std::int64_t n, std::int64_t k) {
  // In what oneDNN takes for a block of 32 x 32 x 32: multiplying one 0.55, packing one for either side 0.7, fitted to 100 shapes.
  auto panels = [](std::int64_t i) { return double((i + panel - 1) / panel); };
  const double high = panels(m), across = panels(n), inner = double((k + chunk - 1) / chunk);
  return inner * (0.55 * high * across + 0.7 * (high + across)) < 0.92 * double(m) * double(n) * double(k) / (32 * 32 * 32);
}

void product(CpuLibraries& libraries, float* y, std::int64_t y_row, Operand a, Operand b, std::int64_t m, std::int64_t n,
             std::int64_t k, const float* bias, bool add) {
  const std::int64_t high = (m + panel - 1) / panel, across = (n + panel - 1) / panel;
  const int threads = int(std::min<std::int64_t>(omp_get_max_threads(), high * across));
  const Grid g = grid(high, across, threads);
  const std::int64_t most = std::min(wide / panel, std::min((high + g.rows - 1) / g.rows, (across + g.columns - 1) / g.columns));
  const std::int64_t room = packed_panel * (2 + most);
  Bf16* rooms = reinterpret_cast<Bf16*>(libraries.panels(threads, room * std::int64_t(sizeof(Bf16)) / std::int64_t(sizeof(float))));
  auto run = [&](std::int64_t t) {
    const std::int64_t r = t / g.columns, c = t % g.columns;
    const Side rows{a, {high * r / g.rows * panel, std::min(m, high * (r + 1) / g.rows * panel)}};
    const Side columns{b, {across * c / g.columns * panel, std::min(n, across * (c + 1) / g.columns * panel)}};
    if (rows.range.panels() > 0 && columns.range.panels() > 0) rectangle(y, y_row, rows, columns, k, bias, add, rooms + t * room);
  };
  if (threads == 1) return run(0);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) run(t);
}

}  // namespace lockstep::kernels::amx
