#include "kernels/embedding.h"

#include <algorithm>

#include "kernels/base/launch.h"
#include "kernels/memory.h"

namespace lockstep::kernels {
namespace {

template <class T>
struct Forward {
  T* y;
  const std::int32_t* tokens;
  const T* table;
  const T* positions;
  std::int64_t rows, length, columns;
  template <class Team>
  HD void operator()(Team team, std::int64_t i) const {
    T* to = y + i * columns;
    std::int64_t token = tokens[i];
    if (token < 0 || token >= rows) {
      team.each(
          columns, [](T& v) { v = T(std::bit_cast<float>(0x7fc00000)); }, out(to));
      return;
    }
    const T* from = table + token * columns;
    if (!positions)
      return team.each(
          columns, [](T& v, T a) { v = a; }, out(to), from);
    const T* plus = positions + i % length * columns;
    team.each(
        columns, [](T& v, T a, T b) { v = T(float(a) + float(b)); }, out(to), from, plus);
  }
};

// The gradient of the table needs, for every token, the positions where it stands, in order. A stable radix sort finds them: one
// pass a digit of 8 bits, on blocks of 256 positions, with no atomics, so that both devices do the same.
constexpr std::int64_t digits = 256, sort_block = 256;

struct Sorted {
  std::int32_t* keys;       ///< tokens; those out of range are `rows`, which sorts last
  std::int32_t* positions;  ///< where they stood
};

struct Start {
  Sorted to;
  const std::int32_t* tokens;
  std::int64_t rows;
  HD void operator()(std::int64_t i) const {
    std::int32_t t = tokens[i];
    to.keys[i] = t >= 0 && t < rows ? t : std::int32_t(rows);
    to.positions[i] = std::int32_t(i);
  }
};

/// counts[block][digit] = how often a digit stands in a block.
struct Count {
  std::int32_t* counts;
  const std::int32_t* keys;
  std::int64_t n;
  int shift;
  template <class Team>
  HD void operator()(Team team, std::int64_t block) const {
    std::int64_t begin = block * sort_block, end = begin + sort_block < n ? begin + sort_block : n;
    const std::int32_t* k = keys;
    int s = shift;
    team.sum_down(
        digits, end - begin,
        [=](std::int64_t i, std::int64_t digit) { return ((k[begin + i] >> s) & (digits - 1)) == digit ? 1.f : 0.f; },
        [=, out = counts + block * digits](std::int64_t digit, float count) { out[digit] = std::int32_t(count); });
  }
};

/// counts[block][digit] becomes the number of such digits in earlier blocks; total[digit] that in all.
struct Scan {
  std::int32_t* counts;
  std::int32_t* total;
  std::int64_t blocks;
  HD void operator()(std::int64_t digit) const {
    std::int32_t sum = 0;
    for (std::int64_t b = 0; b < blocks; ++b) {
      std::int32_t here = counts[b * digits + digit];
      counts[b * digits + digit] = sum;
      sum += here;
    }
    total[digit] = sum;
  }
};

/// Each key goes behind all smaller digits, the same digits of earlier blocks, and those before it in its block.
struct Place {
  Sorted to, from;
  const std::int32_t* before;
  const std::int32_t* total;
  std::int64_t n;
  int shift;
  HD int digit_of(std::int64_t i) const { return (from.keys[i] >> shift) & int(digits - 1); }
  HD void operator()(std::int64_t i) const {
    std::int64_t block = i / sort_block;
    int digit = digit_of(i);
    std::int32_t at = before[block * digits + digit];
    for (int d = 0; d < digit; ++d) at += total[d];
    for (std::int64_t j = block * sort_block; j < i; ++j) at += digit_of(j) == digit;
    to.keys[at] = from.keys[i];
    to.positions[at] = from.positions[i];
  }
};

/// One team sums the rows of dy of one token: the one whose run begins at i.
template <class T, class G>
struct Gather {
  G* dtable;
  const T* dy;
  Sorted sorted;
  std::int64_t n, rows, columns;
  bool accumulate;
  template <class Team>
  HD void operator()(Team team, std::int64_t i) const {
    std::int32_t token = sorted.keys[i];
    if (token == rows || (i > 0 && sorted.keys[i - 1] == token)) return;
    std::int64_t end = i + 1;
    while (end < n && sorted.keys[end] == token) ++end;
    const std::int32_t* positions = sorted.positions + i;
    const T* up = dy;
    G* out = dtable + token * columns;
    std::int64_t width = columns;
    bool add = accumulate;
    team.sum_down(
        columns, end - i, [=](std::int64_t k, std::int64_t c) { return float(up[positions[k] * width + c]); },
        [=](std::int64_t c, float total) { out[c] = G(add ? float(out[c]) + total : total); });
  }
};

template <class T, class G>
struct Positions {
  G* dpositions;
  const T* dy;
  std::int64_t batch, length, columns;
  bool accumulate;
  template <class Team>
  HD void operator()(Team team, std::int64_t position) const {
    const T* up = dy + position * columns;
    G* out = dpositions + position * columns;
    std::int64_t stride = length * columns;
    bool add = accumulate;
    team.sum_down(
        columns, batch, [=](std::int64_t b, std::int64_t c) { return float(up[b * stride + c]); },
        [=](std::int64_t c, float total) { out[c] = G(add ? float(out[c]) + total : total); });
  }
};

/// Calls f.operator()<T, G>() for a gradient that is f32 or of dy's dtype.
template <class F>
void visit_gradient(DType dy, DType gradient, F&& f) {
  visit_float(dy, [&]<class T>() {
    if (gradient == dy)
      f.template operator()<T, T>();
    else
      f.template operator()<T, float>();
  });
}

std::int64_t blocks_of(std::int64_t tokens) {
  return (tokens + sort_block - 1) / sort_block;
}

/// Sorts positions by token, stably; the result lies in `scratch`.
Sorted sort_by_token(const Queue& q, View tokens, std::int64_t rows, std::int32_t* scratch) {
  std::int64_t n = tokens.size, blocks = blocks_of(n);
  Sorted from{scratch, scratch + n}, to{scratch + 2 * n, scratch + 3 * n};
  std::int32_t* counts = scratch + 4 * n;
  std::int32_t* total = counts + blocks * digits;
  for_each(q, n, Start{from, tokens.as<std::int32_t>(), rows});
  for (int shift = 0; shift < 31 && (rows >> shift) > 0; shift += 8) {
    for_each_row(q, blocks, digits * sort_block, Count{counts, from.keys, n, shift});
    for_each(q, digits, Scan{counts, total, blocks});
    for_each(q, n, Place{to, from, counts, total, n, shift});
    std::swap(from, to);
  }
  return from;
}

}  // namespace

void embedding(const Queue& q, View y, View tokens, View table, View positions, std::int64_t columns) {
  require(columns > 0 && table.size % columns == 0 && y.size == tokens.size * columns,
          "embedding: {} tokens, {} elements out, table of {}, {} columns", tokens.size, y.size, table.size, columns);
  require(!positions || (positions.size >= columns && positions.size % columns == 0),
          "embedding: {} elements of positions, {} columns", positions.size, columns);
  visit_float(table.dtype, [&]<class T>() {
    for_each_row(q, tokens.size, columns,
                 Forward<T>{y.as<T>(), tokens.as<std::int32_t>(), table.as<T>(), positions.as<T>(), table.size / columns,
                            positions.size / columns, columns});
  });
}

std::size_t embedding_scratch(std::int64_t tokens, std::int64_t) {
  return sizeof(std::int32_t) * std::size_t(4 * tokens + (blocks_of(tokens) + 1) * digits);
}

void embedding_backward(const Queue& q, View dtable, View dy, View tokens, std::int64_t columns, Write write, View scratch) {
  require(columns > 0 && dtable.size % columns == 0 && dy.size == tokens.size * columns,
          "embedding_backward: {} tokens, {} elements of dy, table of {}, {} columns", tokens.size, dy.size, dtable.size,
          columns);
  std::int64_t n = tokens.size, rows = dtable.size / columns;
  require(n < (std::int64_t(1) << 31) && rows < (std::int64_t(1) << 31), "embedding_backward: more than 2^31 tokens or rows");
  require(scratch.bytes() >= embedding_scratch(n, rows), "embedding_backward: {} bytes of scratch instead of {}", scratch.bytes(),
          embedding_scratch(n, rows));
  if (write == Write::overwrite) fill(q, dtable, 0);
  Sorted sorted = sort_by_token(q, tokens, rows, static_cast<std::int32_t*>(scratch.data));
  visit_gradient(dy.dtype, dtable.dtype, [&]<class T, class G>() {
    for_each_row(q, n, columns, Gather<T, G>{dtable.as<G>(), dy.as<T>(), sorted, n, rows, columns, write == Write::accumulate});
  });
}

void positions_backward(const Queue& q, View dpositions, View dy, std::int64_t columns, Write write) {
  require(columns > 0 && dpositions.size > 0 && dpositions.size % columns == 0 && dy.size % dpositions.size == 0,
          "positions_backward: {} elements of dy, {} of positions, {} columns", dy.size, dpositions.size, columns);
  std::int64_t length = dpositions.size / columns, batch = dy.size / dpositions.size;
  visit_gradient(dy.dtype, dpositions.dtype, [&]<class T, class G>() {
    for_each_row(q, length, batch * columns,
                 Positions<T, G>{dpositions.as<G>(), dy.as<T>(), batch, length, columns, write == Write::accumulate});
  });
}

}  // namespace lockstep::kernels
