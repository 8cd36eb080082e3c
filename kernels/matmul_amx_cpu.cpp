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
constexpr std::int64_t wide = 1024;  // columns of y: their panels of b stay in the second (768 KiB)
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

/// `columns` of at most 16 numbers in each of `rows` of at most 16 rows, `stride` apart; zeros beyond.
INLINE_ON_AMX void load(Floats (&to)[16], const float* from, std::int64_t stride, std::int64_t rows, std::int64_t columns) {
  const __mmask16 mask = first(columns);
  for (std::int64_t r = 0; r < 16; ++r) to[r] = _mm512_maskz_loadu_ps(r < rows ? mask : 0, r < rows ? from + r * stride : from);
}

/// Half a chunk: up to 16 of y's rows (or columns) and up to 32 of k, of which one lies together in memory, at `from`.
/// Tiles of a have y's rows as rows, those of b pairs along k.
template <bool for_a, bool together_along_k>
ON_AMX void pack_half(Bf16* to, const float* from, std::int64_t stride, std::int64_t outer, std::int64_t inner) {
  const std::int64_t ahead = together_along_k ? 16 : 16 * stride, rest = std::max<std::int64_t>(0, inner - 16);
  const float* next = rest > 0 ? from + ahead : from;
  Floats low[16], high[16];
  together_along_k ? load(low, from, stride, outer, inner) : load(low, from, stride, inner, outer);
  together_along_k ? load(high, next, stride, outer, rest) : load(high, next, stride, rest, outer);
  if constexpr (for_a != together_along_k) transpose(low), transpose(high);
  for (int r = 0; r < 16; ++r) pack_row(to + r * 32, low[r], high[r]);
}

/// `outer` of at most 32 of y's rows (or columns) from i on, and `inner` of k from l on.
template <bool for_a>
void pack(Bf16* to, const Operand& x, std::int64_t i, std::int64_t outer, std::int64_t l, std::int64_t inner) {
  for (std::int64_t c = 0; c < inner; c += chunk, to += packed_chunk)
    for (std::int64_t half = 0; half < 32; half += 16) {
      const std::int64_t left = std::max<std::int64_t>(0, outer - half);
      const float* from = x.data + (left > 0 ? i + half : i) * x.outer + (l + c) * x.inner;
      if (x.inner == 1)
        pack_half<for_a, true>(to + half / 16 * tile, from, x.outer, left, inner - c);
      else
        pack_half<for_a, false>(to + half / 16 * tile, from, x.inner, left, inner - c);
    }
}

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

/// sums (32, 32) = a panel of a times one of b. In this order of the six products seven pairs of tiles are loaded.
ON_AMX void multiply_panels(float* sums, const Bf16* a, const Bf16* b, std::int64_t chunks) {
  memory_is_used();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (std::int64_t c = 0; c < chunks; ++c, a += packed_chunk, b += packed_chunk) {
    load_a(a);
    load_b(b + 2 * part);
    multiply();  // x1 y3
    load_b(b + part);
    multiply();  // x1 y2
    load_a(a + part);
    multiply();  // x2 y2
    load_b(b);
    multiply();  // x2 y1
    load_a(a + 2 * part);
    multiply();  // x3 y1
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

/// y (rows, columns) (+)= sums + bias.
ON_AMX void put(float* y, std::int64_t y_row, const float* sums, std::int64_t rows, std::int64_t columns, const float* bias, bool add) {
  for (std::int64_t at = 0; at < columns; at += 16) {
    const __mmask16 mask = first(columns - at);
    const Floats biases = bias ? Floats(_mm512_maskz_loadu_ps(mask, bias + at)) : Floats{};
    for (std::int64_t r = 0; r < rows; ++r) {
      float* to = y + r * y_row + at;
      Floats v = *reinterpret_cast<const Floats*>(sums + r * panel + at) + biases;
      if (add) v += Floats(_mm512_maskz_loadu_ps(mask, to));
      _mm512_mask_storeu_ps(to, mask, v);
    }
  }
}

struct Range {
  std::int64_t begin, end;
};

/// y's rows and columns of one thread.
ON_AMX void rectangle(float* y, std::int64_t y_row, const Operand& a, const Operand& b, Range rows, Range columns, std::int64_t k,
                      const float* bias, bool add, Bf16* room) {
  alignas(64) float sums[panel * panel];
  Bf16 *of_a = room, *of_b = room + packed_panel;
  _tile_loadconfig(&configuration);
  for (std::int64_t from = columns.begin; from < columns.end; from += wide)
    for (std::int64_t l = 0; l < k; l += deep) {
      const std::int64_t to = std::min(columns.end, from + wide), inner = std::min(deep, k - l);
      for (std::int64_t j = from; j < to; j += panel)
        pack<false>(of_b + (j - from) / panel * packed_panel, b, j, std::min(panel, to - j), l, inner);
      for (std::int64_t i = rows.begin; i < rows.end; i += panel) {
        const std::int64_t height = std::min(panel, rows.end - i);
        pack<true>(of_a, a, i, height, l, inner);
        for (std::int64_t j = from; j < to; j += panel) {
          multiply_panels(sums, of_a, of_b + (j - from) / panel * packed_panel, (inner + chunk - 1) / chunk);
          put(y + i * y_row + j, y_row, sums, height, std::min(panel, to - j), bias && l == 0 ? bias + j : nullptr, add || l > 0);
        }
      }
    }
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
    if (dnnl::get_effective_cpu_isa() < dnnl::cpu_isa::avx512_core_amx) return false;
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
  const std::int64_t room = packed_panel * (1 + std::min(wide / panel, (across + g.columns - 1) / g.columns));
  Bf16* rooms = reinterpret_cast<Bf16*>(libraries.panels(threads, room * std::int64_t(sizeof(Bf16) / 2)));
  auto run = [&](std::int64_t t) {
    const std::int64_t r = t / g.columns, c = t % g.columns;
    const Range rows{high * r / g.rows * panel, std::min(m, high * (r + 1) / g.rows * panel)};
    const Range columns{across * c / g.columns * panel, std::min(n, across * (c + 1) / g.columns * panel)};
    if (rows.begin < rows.end && columns.begin < columns.end)
      rectangle(y, y_row, a, b, rows, columns, k, bias, add, rooms + t * room);
  };
  if (threads == 1) return run(0);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) run(t);
}

}  // namespace lockstep::kernels::amx
