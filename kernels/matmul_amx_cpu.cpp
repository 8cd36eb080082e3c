#include "kernels/matmul_amx_cpu.h"

#include <omp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "kernels/amx_tiles_cpu.h"
#include "kernels/vendor_cpu.h"

namespace lockstep::kernels::amx {
namespace {

constexpr std::int64_t usually_deep = 128;  // along k: a panel of a stays in the first cache (24 KiB)
constexpr std::int64_t deepest = 256;       // where y is written once
constexpr std::int64_t wide = 1024;         // rows or columns of y whose panels stay in the second cache (768 KiB; 1.5 MiB where y is written once)
constexpr std::int64_t far = 512;           // of the other kind that pass by before k goes on: this part of y stays near
constexpr Configuration configuration(16, 16);

/// sums (32, 32) = a panel of a times one of b. Meanwhile the block before is put into y, and `packing` goes on from the step
/// `from` to `to`.
ON_AMX void multiply_panels(float* sums, const Bf16* a, const Bf16* b, std::int64_t chunks, Putting& putting, Packing& packing,
                            std::int64_t from, std::int64_t to) {
  clear_sums();
  for (std::int64_t c = 0; c < chunks; ++c, a += packed_chunk, b += packed_chunk)
    multiply_chunk({a, a + tile, part}, {b, b + tile, part}, [&](std::int64_t i) {
      if (i < 2)
        putting.until((panel * (2 * c + i + 1) + 2 * chunks - 1) / (2 * chunks));
      else
        packing.until(from + ((to - from) * (3 * c + i - 1) + 3 * chunks - 1) / (3 * chunks));
    });
  store_sums(sums, 16);
}

struct Range {
  std::int64_t begin, end;
  std::int64_t panels() const { return (end - begin + panel - 1) / panel; }
};
struct Side {
  Operand operand;
  Range range;
};

/// How a product goes along k. A y that no cache keeps is written once, around them: what they hold stays, and no line is read
/// only to be overwritten. (GPT-2 124M at 256 tokens, whose gradients of weights these are: two ranks 1.05 and two threads 1.07
/// times as fast.)
struct Passes {
  std::int64_t deep;  ///< of k at once
  bool around_caches;
  std::int64_t packed_panel() const { return deep / chunk * packed_chunk; }
};
Passes passes(std::int64_t m, std::int64_t n, std::int64_t k, bool add) {
  constexpr std::int64_t large = 4 << 20;  // bytes
  if (add || k > deepest || m * n * std::int64_t(sizeof(float)) < large) return {usually_deep, false};
  return {(k + chunk - 1) / chunk * chunk, true};
}

/// y's rows and columns of one thread. The side with fewer panels is packed `deep` by `deep` and stays in the second cache; the
/// other's panels pass by.
ON_AMX void rectangle(float* y, std::int64_t y_row, const Side& rows, const Side& columns, std::int64_t k, const float* bias,
                      bool add, Passes passes, Bf16* room) {
  const std::int64_t deep = passes.deep, packed_panel = passes.packed_panel();
  const bool a_stays = rows.range.panels() < columns.range.panels();
  const Side &staying = a_stays ? rows : columns, &passing = a_stays ? columns : rows;
  alignas(64) float sums[2][panel * panel];
  Bf16 *const passing_room[] = {room, room + packed_panel}, *staying_room = room + 2 * packed_panel;
  Packing::Squares squares;
  auto packing = [&](const Side& side, bool of_a, std::int64_t at, std::int64_t end, std::int64_t l, Bf16* to) {
    return at < end ? Packing(to, squares, side.operand, of_a, at, std::min(panel, end - at), l, std::min(deep, k - l))
                    : Packing();
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
            multiply_panels(sums[turn], a_stays ? one : other, a_stays ? other : one, chunks, putting, next,
                            next.steps() * i / stay, next.steps() * (i + 1) / stay);
            putting = Putting(y + row * y_row + column, y_row, sums[turn], std::min(panel, rows.range.end - row),
                              std::min(panel, columns.range.end - column), bias && l == 0 ? bias + column : nullptr, add || l > 0,
                              passes.around_caches);
          }
        }
      }
  putting.until(panel);
  if (passes.around_caches) _mm_sfence();  // whoever is told that y is done sees it
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
  // In what oneDNN takes for a block of 32 x 32 x 32: multiplying one 0.55, packing one for either side 0.7, fitted to 100
  // shapes.
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
  const Passes p = passes(m, n, k, add);
  const std::int64_t room = p.packed_panel() * (2 + most);
  Bf16* rooms =
      reinterpret_cast<Bf16*>(libraries.panels(threads, room * std::int64_t(sizeof(Bf16)) / std::int64_t(sizeof(float))));
  auto run = [&](std::int64_t t) {
    const std::int64_t r = t / g.columns, c = t % g.columns;
    const Side rows{a, {high * r / g.rows * panel, std::min(m, high * (r + 1) / g.rows * panel)}};
    const Side columns{b, {across * c / g.columns * panel, std::min(n, across * (c + 1) / g.columns * panel)}};
    if (rows.range.panels() > 0 && columns.range.panels() > 0)
      rectangle(y, y_row, rows, columns, k, bias, add, p, rooms + t * room);
  };
  if (threads == 1) return run(0);
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) run(t);
}

}  // namespace lockstep::kernels::amx
