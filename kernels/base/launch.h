#pragma once

// Private to kernels/*.cu: the loops that every shared kernel is made of.
//
//   for_each(queue, n, body, columns...)                body(elements...): element-wise, of columns of memory (pack.h)
//   for_each(queue, n, body)                            body(i): where no columns fit
//   for_each_in_rows(queue, rows, width, body, columns...)   as the first, where some columns have one value for each column
//   for_each_group(queue, first, n, body)               body.group(g), body.element(i): elements by fours, for random numbers
//   for_each_row(queue, rows, width, body)              body(team, row): one team of threads works on one row
//   reduce_rows<K>(queue, rows, columns, partials, term, finish, columns...)  K sums over rows, for every column
//   sweep_rows<K>(queue, rows, columns, partials, body, finish)   body(team, row, sums): both at once, in one pass
//   for_each_block(rows, columns, size, direction, work) on the CPU alone: work(b, begin, end) for every block of rows
//
// A team (team.h) is one CPU thread or one CUDA block, whose members share the columns of a row. Bodies are copied; they hold
// pointers and numbers, and their operator() is const.
//
// On the CPU, threads share out whole rows, or blocks of a fixed size, never the arithmetic inside one, so results do not depend
// on the number of threads.
//
// A queue that records (kernels/base/queue.h) keeps loops with their bodies. What passes memory of its own to a loop, or works
// without one, records itself as a whole.

#include <omp.h>

#include <vector>

#include "kernels/base/queue.h"
#include "kernels/base/team.h"
#include "kernels/base/view.h"
#if defined(__CUDACC__)
#include "kernels/base/kernel_cuda.h"
#endif

namespace lockstep {

/// How a GPU's blocks share rows whose columns are summed: by the shape alone, so that sums do not depend on the kind of GPU.
/// About 1024 blocks, which fill the largest twice, with `least` rows or more, so that their sums cost little beside them.
struct RowShares {
  std::int64_t rows_each, count, stride;  ///< floats from one row of sums to the next
  /// Of `tiles` blocks that share the columns of the same rows.
  RowShares(std::int64_t rows, std::int64_t columns, std::int64_t tiles, std::int64_t least)
      : rows_each(rows * tiles > least * 1024 ? (rows * tiles + 1023) / 1024 : least),
        count((rows + rows_each - 1) / rows_each),
        stride((columns + 7) / 8 * 8) {}
  /// Memory for `sums` sums a column of all shares.
  std::int64_t floats(int sums) const { return count * sums * stride; }
};
/// Of sweep_rows.
struct SweepShares : RowShares {
  SweepShares(std::int64_t rows, std::int64_t columns) : RowShares(rows, columns, 1, 8) {}
};
/// Of reduce_rows: tiles of about one size, of at most 256 columns.
struct SumShares : RowShares {
  std::int64_t tiles, tile;
  SumShares(std::int64_t rows, std::int64_t columns) : SumShares(rows, columns, (columns + 255) / 256) {}

 private:
  SumShares(std::int64_t rows, std::int64_t columns, std::int64_t tiles)
      : RowShares(rows, columns, tiles, 64), tiles(tiles), tile((columns + 8 * tiles - 1) / (8 * tiles) * 8) {}
};

#if defined(__CUDACC__)
template <class Body>
__global__ void each_kernel(std::int64_t n, Body body) {
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < n; i += std::int64_t(gridDim.x) * blockDim.x)
    body(i);
}
template <int N, class Body, class... P>
__global__ void columns_kernel(std::int64_t n, std::int64_t columns, Body body, P... p) {
  packs::visit<N>(
      blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x, std::int64_t(gridDim.x) * blockDim.x, n, columns, 0,
      [&](std::int64_t, auto&... at) { body(at...); }, p...);
}
template <int threads, class Body>
__global__ void __launch_bounds__(threads) row_kernel(std::int64_t rows, Body body) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) body(BlockTeam{}, row);
}
/// K sums over rows for a tile of columns and a share of the rows. Threads side by side have N neighbouring columns each, threads
/// below them other rows; theirs are added in pairs.
template <int N, int K, class Term, class... P>
__global__ void __launch_bounds__(256, 3)
    sums_kernel(std::int64_t rows, std::int64_t columns, SumShares shares, float* partials, Term term, P... p) {
  constexpr int values = N * K;
  __shared__ float parts[values][128];
  const int across = int(shares.tile) / N, down = int(blockDim.x) / across;
  const int x = int(threadIdx.x) % across, y = int(threadIdx.x) / across;
  const std::int64_t share = blockIdx.x / shares.tiles, c = blockIdx.x % shares.tiles * shares.tile + x * N;
  const std::int64_t begin = share * shares.rows_each, end = begin + shares.rows_each < rows ? begin + shares.rows_each : rows;
  const bool whole = (packs::aligned<N>(p) && ...) && columns % N == 0;
  float totals[values] = {};
  auto add = [&](int i, Sums<K> s) {
    for (int k = 0; k < K; ++k) totals[k * N + i] += s[k];
  };
  std::int64_t r = begin + y;
  if (y < down && c < columns && whole) {
    auto row = [&](std::int64_t r) {
      auto neighbours = [&](auto... loaded) {
        for (int i = 0; i < N; ++i) add(i, term(loaded.v[i]...));
      };
      neighbours(packs::load<N>(p, r * columns + c, c)...);
    };
    for (; r + 3 * down < end; r += 4 * down)  // four rows are on their way together
#pragma unroll
      for (int i = 0; i < 4; ++i) row(r + i * down);
    for (; r < end; r += down) row(r);
  } else if (y < down && c < columns) {
    for (; r < end; r += down)
      for (int i = 0; i < N; ++i)
        if (c + i < columns) add(i, term(packs::at(p, r * columns + c + i, c + i)...));
  }
  for (int left = down; left > 1;) {
    const int half = (left + 1) / 2;
    const int at = (y - (y < half ? 0 : half)) * across + x;
    if (y >= half && y < left)
      for (int i = 0; i < values; ++i) parts[i][at] = totals[i];
    __syncthreads();
    if (y + half < left)
      for (int i = 0; i < values; ++i) totals[i] += parts[i][at];
    __syncthreads();
    left = half;
  }
  if (y != 0 || c >= columns) return;
  for (int k = 0; k < K; ++k) {
    packs::Pack<float, N> sums;
    for (int i = 0; i < N; ++i) sums.v[i] = totals[k * N + i];
    packs::store(out(partials), (share * K + k) * shares.stride + c, sums);
  }
}
/// The sums of all shares, for eight columns with 128 threads each; theirs are added in pairs.
template <int K, class Finish>
__global__ void __launch_bounds__(1024)
    totals_kernel(std::int64_t columns, RowShares shares, const float* partials, Finish finish) {
  __shared__ Sums<K> parts[128][8];
  const std::int64_t c = blockIdx.x * std::int64_t(8) + threadIdx.x % 8;
  const int y = int(threadIdx.x) / 8;
  Sums<K>& total = parts[y][threadIdx.x % 8];
  total = {};
  if (c < columns)
    for (std::int64_t share = y; share < shares.count; share += 128)
      for (int k = 0; k < K; ++k) total.v[k] += partials[(share * K + k) * shares.stride + c];
  for (int half = 64; half > 0; half /= 2) {
    __syncthreads();
    if (y < half) total.add(parts[y + half][threadIdx.x % 8]);
  }
  if (y == 0 && c < columns) finish(c, total);
}
/// A block meets its rows one after another and keeps their sums: in shared memory, or where they do not fit in its part of
/// `partials`, where they end in any case.
template <int K, bool fits, class Body>
__global__ void __launch_bounds__(256)
    sweep_kernel(std::int64_t rows, RowShares shares, float* partials, Body body) {
  const std::int64_t stride = shares.stride, rows_each = shares.rows_each;
  float* own = partials + std::int64_t(blockIdx.x) * K * stride;
  float* sums = fits ? reinterpret_cast<float*>(dynamic_memory()) : own;
  for (std::int64_t c = threadIdx.x; c < K * stride; c += blockDim.x) sums[c] = 0;
  __syncthreads();
  const std::int64_t begin = blockIdx.x * rows_each, end = begin + rows_each < rows ? begin + rows_each : rows;
  for (std::int64_t r = begin; r < end; ++r) {
    body(BlockTeam{}, r, ColumnSums{sums, stride});
    __syncthreads();
  }
  if constexpr (fits)
    for (std::int64_t c = threadIdx.x; c < K * stride; c += blockDim.x) own[c] = sums[c];
}
#endif

namespace detail {
inline unsigned blocks_for(std::int64_t n) {
  return unsigned(n < 65535 * 8 ? (n < 1 ? 1 : n) : 65535 * 8);
}
/// Of a block that has a row of `width` columns.
inline unsigned threads_for(std::int64_t width) {
  return width <= 32 ? 32 : width <= 128 ? 64 : width <= 1024 ? 128 : 256;
}
}  // namespace detail

template <class Body>
void for_each(const Queue& q, std::int64_t n, Body body) {
  if (n == 0) return;
#if defined(__CUDACC__)
  if (q.on_gpu) return start_kernel(q, detail::blocks_for((n + 255) / 256), 256, 0, each_kernel<Body>, n, body);
#endif
  require(!q.on_gpu, "for_each: this program was built without CUDA");
  if (q.recording) return q.recording->add([=](const Queue& then) { for_each(then, n, body); });
  constexpr std::int64_t block = 8192;
  std::int64_t blocks = (n + block - 1) / block;
  // A thread's own copy of the body: the compiler then knows that what it writes does not change it.
#pragma omp parallel for firstprivate(body) if (blocks > 3) schedule(static)
  for (std::int64_t b = 0; b < blocks; ++b) {
    std::int64_t end = b + 1 < blocks ? (b + 1) * block : n;
#pragma omp simd
    for (std::int64_t i = b * block; i < end; ++i) body(i);
  }
}

namespace detail {
template <class Body, class... P>
void columns_range(std::int64_t begin, std::int64_t end, Body body, P... p) {
#pragma omp simd
  for (std::int64_t i = begin; i < end; ++i) body(packs::at(p, i, 0)...);
}
template <class Body, class... P>
void columns_row(std::int64_t row, std::int64_t columns, Body body, P... p) {
  const std::int64_t begin = row * columns;
#pragma omp simd
  for (std::int64_t c = 0; c < columns; ++c) body(packs::at(p, begin + c, c)...);
}
}  // namespace detail

template <class Body, class... P>
requires(sizeof...(P) > 0) void for_each(const Queue& q, std::int64_t n, Body body, P... p) {
  if (n == 0) return;
#if defined(__CUDACC__)
  if (q.on_gpu) {
    constexpr int N = packs::width_of<P...>();
    const unsigned blocks = detail::blocks_for((n + 256 * N - 1) / (256 * N));
    return start_kernel(q, blocks, 256, 0, columns_kernel<N, Body, P...>, n, 0, body, p...);
  }
#endif
  require(!q.on_gpu, "for_each: this program was built without CUDA");
  if (q.recording) return q.recording->add([=](const Queue& then) { for_each(then, n, body, p...); });
  constexpr std::int64_t block = 8192;
  std::int64_t blocks = (n + block - 1) / block;
#pragma omp parallel for if (blocks > 3) schedule(static)
  for (std::int64_t b = 0; b < blocks; ++b) detail::columns_range(b * block, b + 1 < blocks ? (b + 1) * block : n, body, p...);
}

template <class Body, class... P>
void for_each_in_rows(const Queue& q, std::int64_t rows, std::int64_t columns, Body body, P... p) {
  if (rows == 0 || columns == 0) return;
#if defined(__CUDACC__)
  if (q.on_gpu) {
    constexpr int N = packs::width_of<P...>();
    const std::int64_t n = rows * columns;
    const unsigned blocks = detail::blocks_for((n + 256 * N - 1) / (256 * N));
    return start_kernel(q, blocks, 256, 0, columns_kernel<N, Body, P...>, n, columns, body, p...);
  }
#endif
  require(!q.on_gpu, "for_each_in_rows: this program was built without CUDA");
  if (q.recording) return q.recording->add([=](const Queue& then) { for_each_in_rows(then, rows, columns, body, p...); });
#pragma omp parallel for if (rows > 1 && rows * columns > 16384) schedule(static)
  for (std::int64_t r = 0; r < rows; ++r) detail::columns_row(r, columns, body, p...);
}

namespace detail {
template <class Body>
struct Groups {
  std::int64_t begin;
  Body body;
  HD void operator()(std::int64_t i) const { body.group(begin + i); }
};
template <class Body>
struct Ends {
  std::int64_t left, left_size, right;
  Body body;
  HD void operator()(std::int64_t i) const { body.element(i < left_size ? left + i : right + (i - left_size)); }
};
}  // namespace detail

/// Meets the elements first … first + n - 1: body.group(g) for elements 4g … 4g + 3 where all four are in the range,
/// body.element(i) for the few others at the ends. Philox gives four words at a time.
template <class Body>
void for_each_group(const Queue& q, std::int64_t first, std::int64_t n, Body body) {
  std::int64_t end = first + n, begin_group = (first + 3) / 4, end_group = end / 4;
  if (begin_group >= end_group) return for_each(q, n, detail::Ends<Body>{first, n, 0, body});
  for_each(q, end_group - begin_group, detail::Groups<Body>{begin_group, body});
  std::int64_t left = 4 * begin_group - first, right = end - 4 * end_group;
  for_each(q, left + right, detail::Ends<Body>{first, left, 4 * end_group, body});
}

/// Bodies of for_each_row that say so read their rows twice: a GPU then works on few wide rows at a time, and the second look
/// finds them in its second cache.
template <class Body>
concept ReadsRowsAgain = requires { typename Body::ReadsRowsAgain; };

/// `width` is the number of columns: it decides how many threads a CUDA team has, and whether the work is worth sharing on the
/// CPU.
template <class Body>
void for_each_row(const Queue& q, std::int64_t rows, std::int64_t width, Body body) {
  if (rows == 0) return;
#if defined(__CUDACC__)
  if (q.on_gpu) {
    if constexpr (ReadsRowsAgain<Body>)
      if (width > 8192) return start_kernel(q, detail::blocks_for(rows), 1024, 0, row_kernel<1024, Body>, rows, body);
    return start_kernel(q, detail::blocks_for(rows), detail::threads_for(width), 0, row_kernel<256, Body>, rows, body);
  }
#endif
  require(!q.on_gpu, "for_each_row: this program was built without CUDA");
  if (q.recording) return q.recording->add([=](const Queue& then) { for_each_row(then, rows, width, body); });
#pragma omp parallel for firstprivate(body) if (rows > 1 && rows * width > 16384) schedule(static)
  for (std::int64_t r = 0; r < rows; ++r) body(SerialTeam{}, r);
}

/// Rows that one CPU thread sums in order, one after another.
inline constexpr std::int64_t row_block = 64;

/// Which end of its share of rows a thread begins at. Of two passes over the same rows the second goes backwards: what the first
/// read last is still in the thread's cache.
enum class Direction : std::uint8_t { forwards, backwards };

/// CPU only, at once even where a queue records. work(b, begin, end) for the b-th block of `size` rows, [begin, end); threads
/// share out neighbouring blocks, the same ones in every call with the same numbers.
template <class Work>
void for_each_block(std::int64_t rows, std::int64_t columns, std::int64_t size, Direction direction, Work work) {
  const std::int64_t blocks = (rows + size - 1) / size;
#pragma omp parallel firstprivate(work) if (blocks > 1 && rows * columns > 16384)
  {
    const std::int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
    const std::int64_t first = blocks * thread / threads, last = blocks * (thread + 1) / threads;
    for (std::int64_t i = first; i < last; ++i) {
      const std::int64_t b = direction == Direction::forwards ? i : first + last - 1 - i;
      work(b, b * size, (b + 1) * size < rows ? (b + 1) * size : rows);
    }
  }
}

/// rows.template operator()<n>(r) for rows r … r + n - 1, in fours and then one by one: what belongs to a column is loaded, or
/// added to, once for four rows.
template <class Rows>
void by_fours(std::int64_t begin, std::int64_t end, Rows rows) {
  for (; begin + 4 <= end; begin += 4) rows.template operator()<4>(begin);
  for (; begin < end; ++begin) rows.template operator()<1>(begin);
}

/// CPU only, at once even where a queue records: its callers record themselves. block(b, sums) fills K rows of `columns` sums
/// (zero before) for the b-th of `blocks` blocks of rows; finish(c, totals) receives their totals over the blocks, added in
/// order.
template <int K, class Block, class Finish>
void reduce_blocks(std::int64_t blocks, std::int64_t columns, std::int64_t rows, Block block, Finish finish) {
  std::vector<float> sums(std::size_t(blocks * K * columns));
#pragma omp parallel if (blocks > 1 && rows * columns > 16384)
  {
#pragma omp for schedule(static)
    for (std::int64_t b = 0; b < blocks; ++b) block(b, sums.data() + b * K * columns);
#pragma omp for schedule(static)
    for (std::int64_t tile = 0; tile < (columns + 63) / 64; ++tile) {
      std::int64_t begin = tile * 64, end = begin + 64 < columns ? begin + 64 : columns;
      float* total = sums.data();
      for (std::int64_t b = 1; b < blocks; ++b)
        for (int k = 0; k < K; ++k) {
          const float* part = total + (b * K + k) * columns;
#pragma omp simd
          for (std::int64_t c = begin; c < end; ++c) total[k * columns + c] += part[c];
        }
      const Finish f = finish;
#pragma omp simd
      for (std::int64_t c = begin; c < end; ++c) {
        Sums<K> s{};
        if (blocks > 0)
          for (int k = 0; k < K; ++k) s.v[k] = total[k * columns + c];
        f(c, s);
      }
    }
  }
}

namespace detail {
template <int K, class Term, class... P>
void add_row(float* sums, std::int64_t row, std::int64_t columns, Term term, P... p) {
#pragma omp simd
  for (std::int64_t c = 0; c < columns; ++c) {
    Sums<K> s = term(packs::at(p, row * columns + c, c)...);
    for (int k = 0; k < K; ++k) sums[k * columns + c] += s[k];
  }
}
#if defined(__CUDACC__)
template <int K, class Finish>
void finish_shares(const Queue& q, std::int64_t columns, RowShares shares, const float* partials, Finish finish) {
  start_kernel(q, unsigned((columns + 7) / 8), 1024, 0, totals_kernel<K, Finish>, columns, shares, partials, finish);
}
#endif
}  // namespace detail

/// finish(c, totals) for every column, where totals are the K sums over rows of term(elements...) of columns of memory (both are
/// Sums<K>), in a fixed order. `partials`, on a GPU: memory for SumShares(rows, columns).floats(K).
template <int K, class Term, class Finish, class... P>
void reduce_rows(const Queue& q, std::int64_t rows, std::int64_t columns, [[maybe_unused]] float* partials, Term term,
                 Finish finish, P... p) {
  if (columns == 0) return;
#if defined(__CUDACC__)
  if (q.on_gpu) {
    constexpr int N = packs::width_of<P...>();
    const SumShares shares(rows, columns);
    if (rows > 0)
      start_kernel(q, unsigned(shares.count * shares.tiles), 256, 0, sums_kernel<N, K, Term, P...>, rows, columns, shares,
                   partials, term, p...);
    return detail::finish_shares<K>(q, columns, shares, partials, finish);
  }
#endif
  require(!q.on_gpu, "reduce_rows: this program was built without CUDA");
  if (q.recording)
    return q.recording->add([=](const Queue& then) { reduce_rows<K>(then, rows, columns, nullptr, term, finish, p...); });
  auto block = [=](std::int64_t b, float* sums) {
    const std::int64_t end = (b + 1) * row_block < rows ? (b + 1) * row_block : rows;
    for (std::int64_t r = b * row_block; r < end; ++r) detail::add_row<K>(sums, r, columns, term, p...);
  };
  reduce_blocks<K>((rows + row_block - 1) / row_block, columns, rows, block, finish);
}

/// body(team, row, sums) works on every row and adds to the K rows of column sums that it is given, each member of the team to
/// the columns that it meets; finish(c, totals) receives their totals in a fixed order. `partials`, on a GPU: memory for
/// SweepShares(rows, columns).floats(K). On a CPU it is done at once even where a queue records.
template <int K, class Body, class Finish>
void sweep_rows(const Queue& q, std::int64_t rows, std::int64_t columns, [[maybe_unused]] float* partials, Body body,
                Finish finish) {
#if defined(__CUDACC__)
  if (q.on_gpu) {
    const SweepShares shares(rows, columns);
    const std::int64_t bytes = K * shares.stride * std::int64_t(sizeof(float));
    auto run = [&]<bool fits>() {
      start_kernel(q, unsigned(shares.count), detail::threads_for(columns), fits ? std::size_t(bytes) : 0,
                   sweep_kernel<K, fits, Body>, rows, shares, partials, body);
    };
    if (rows > 0)  // a block may have 48 KiB unasked, of which its team's sums take a part
      bytes <= 47 * 1024 ? run.template operator()<true>() : run.template operator()<false>();
    return detail::finish_shares<K>(q, columns, shares, partials, finish);
  }
#endif
  require(!q.on_gpu, "sweep_rows: this program was built without CUDA");
  auto block = [=](std::int64_t b, float* sums) {
    const std::int64_t end = (b + 1) * row_block < rows ? (b + 1) * row_block : rows;
    for (std::int64_t r = b * row_block; r < end; ++r) body(SerialTeam{}, r, ColumnSums{sums, columns});
  };
  reduce_blocks<K>((rows + row_block - 1) / row_block, columns, rows, block, finish);
}

}  // namespace lockstep
