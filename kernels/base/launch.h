#pragma once

// Private to kernels/*.cu: the loops that every shared kernel is made of.
//
//   for_each(queue, n, body)                            body(i): element-wise; the compiler vectorises over i
//   for_each_group(queue, first, n, body)               body.group(g), body.element(i): elements by fours, for random numbers
//   for_each_row(queue, rows, width, body)              body(team, row): one team of threads works on one row
//   reduce_rows<K>(queue, rows, columns, term, finish)  K sums over rows, for every column
//   for_each_block(rows, columns, size, direction, work) on the CPU alone: work(b, begin, end) for every block of rows
//
// A team is one CPU thread or one CUDA block. Its members share the columns of a row:
//   team.each(n, f)              f(c) for every column
//   team.each_word(n, first, draw, f)   f(c, word) for every column, with the word of element first + c: draw(b), a Random4,
//                                has those of elements 4b … 4b + 3
//   team.sum(n, f)               sum of f(c), in every member     (fixed order for a given device)
//   team.sums<K>(n, f)           K sums at once: f(c) is a Sums<K>
//   team.sum_f64(n, f)           as sum, in double; strictly in order on the CPU
//   team.sum_u64(n, f)           sum of whole numbers f(c), modulo 2^64: no order matters
//   team.max(n, f)               largest f(c), in every member; NaN is passed over
//   team.log_sum_exp(n, f)       log of the sum of exp(f(c)), in every member
//   team.first_where(n, f)       the first c for which f(c), or n
//   team.sum_down(n, k, f, g)    g(c, f(0, c) + f(1, c) + … + f(k - 1, c)) for every column, added in this order
//   team.first()                 true in one member: for results of the whole row
// A member meets the same columns in every call with the same n, so it may read back what it wrote in an earlier one. Bodies are
// copied; they hold pointers and numbers, and their operator() is const.
//
// On the CPU, threads share out whole rows, or blocks of a fixed size, never the arithmetic inside one, so results do not depend
// on the number of threads.
//
// A queue that records (kernels/base/queue.h) keeps loops with their bodies. What passes memory of its own to a loop, or works
// without one, records itself as a whole.

#include <omp.h>

#include <cmath>
#include <vector>

#include "kernels/base/lanes.h"
#include "kernels/base/math.h"
#include "kernels/base/queue.h"
#include "kernels/base/view.h"
#if defined(__CUDACC__)
#include "kernels/base/check_cuda.h"
#endif

namespace lockstep {

/// K sums that travel together.
template <int K>
struct Sums {
  float v[K];
  HD float operator[](int k) const { return v[k]; }
  HD void add(const Sums& other) {
    for (int k = 0; k < K; ++k) v[k] += other.v[k];
  }
};

struct SerialTeam {
  HD bool first() const { return true; }
  template <class F>
  HD void each(std::int64_t n, F f) const {
#pragma omp simd
    for (std::int64_t c = 0; c < n; ++c) f(c);
  }
  template <class Draw, class F>
  HD void each_word(std::int64_t n, std::int64_t first, Draw draw, F f) const {
    constexpr std::int64_t tile = 512;
    std::uint32_t words[tile];
    for (std::int64_t begin = 0; begin < n;) {
      const std::int64_t block = (first + begin) / 4, skip = (first + begin) % 4;
      const std::int64_t size = n - begin < tile - skip ? n - begin : tile - skip, blocks = (skip + size + 3) / 4;
#pragma omp simd
      for (std::int64_t b = 0; b < blocks; ++b) {
        const auto four = draw(block + b);
        words[4 * b] = four.x;
        words[4 * b + 1] = four.y;
        words[4 * b + 2] = four.z;
        words[4 * b + 3] = four.w;
      }
#pragma omp simd
      for (std::int64_t c = 0; c < size; ++c) f(begin + c, words[skip + c]);
      begin += size;
    }
  }
  template <class F>
  HD float sum(std::int64_t n, F f) const {
    return lanes::sum(n, f);
  }
  template <int K, class F>
  HD Sums<K> sums(std::int64_t n, F f) const {
    static_assert(K == 2, "gcc vectorises named sums only");
    float a[lanes::count] = {}, b[lanes::count] = {};
    lanes::spread(n, [&](std::int64_t c, int lane) {
      Sums<K> s = f(c);
      a[lane] += s[0];
      b[lane] += s[1];
    });
    return {{lanes::total(a), lanes::total(b)}};
  }
  template <class F>
  HD double sum_f64(std::int64_t n, F f) const {
    double total = 0;
    for (std::int64_t c = 0; c < n; ++c) total += f(c);
    return total;
  }
  template <class F>
  HD std::uint64_t sum_u64(std::int64_t n, F f) const {
    std::uint64_t total = 0;
#pragma omp simd reduction(+ : total)
    for (std::int64_t c = 0; c < n; ++c) total += f(c);
    return total;
  }
  template <class F>
  HD float max(std::int64_t n, F f) const {
    return lanes::max(n, f);
  }
  /// Tile by tile, each read twice while it is in the first cache: what was summed before a larger value came is scaled down
  /// (Milakov & Gimelshein 2018).
  template <class F>
  HD float log_sum_exp(std::int64_t n, F f) const {
    constexpr std::int64_t tile = 2048;
    float most = -INFINITY, total = 0;
    for (std::int64_t begin = 0; begin < n; begin += tile) {
      std::int64_t size = n - begin < tile ? n - begin : tile;
      float larger = max(size, [&](std::int64_t c) { return f(begin + c); });
      if (larger > most) {
        total *= math::exp_nonpositive(most - larger);
        most = larger;
      }
      float shift = most > -INFINITY ? most : 0;
      total += sum(size, [&](std::int64_t c) { return math::exp_nonpositive(f(begin + c) - shift); });
    }
    return most + math::log(total);
  }
  template <class F>
  HD std::int64_t first_where(std::int64_t n, F f) const {
    for (std::int64_t c = 0; c < n; ++c)
      if (f(c)) return c;
    return n;
  }
  template <class F, class G>
  HD void sum_down(std::int64_t n, std::int64_t k, F f, G g) const {
    constexpr std::int64_t tile = 256;
    float total[tile];
    for (std::int64_t begin = 0; begin < n; begin += tile) {
      std::int64_t size = n - begin < tile ? n - begin : tile;
      for (std::int64_t c = 0; c < size; ++c) total[c] = 0;
      for (std::int64_t i = 0; i < k; ++i) {
#pragma omp simd
        for (std::int64_t c = 0; c < size; ++c) total[c] += f(i, begin + c);
      }
#pragma omp simd
      for (std::int64_t c = 0; c < size; ++c) g(begin + c, total[c]);
    }
  }
};

#if defined(__CUDACC__)
/// All threads of a block (a multiple of 32, at most 1024).
struct BlockTeam {
  __device__ bool first() const { return threadIdx.x == 0; }
  template <class F>
  __device__ void each(std::int64_t n, F f) const {
    for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) f(c);
  }
  template <class Draw, class F>
  __device__ void each_word(std::int64_t n, std::int64_t first, Draw draw, F f) const {
    const std::int64_t end = (first + n + 3) / 4;
    for (std::int64_t b = first / 4 + threadIdx.x; b < end; b += blockDim.x) {
      const auto four = draw(b);
      const std::uint32_t words[] = {four.x, four.y, four.z, four.w};
      const std::int64_t c = 4 * b - first;
      for (int k = 0; k < 4; ++k)
        if (c + k >= 0 && c + k < n) f(c + k, words[k]);
    }
  }
  template <class F>
  __device__ float sum(std::int64_t n, F f) const {
    float v = 0;
    for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) v += f(c);
    return reduce(v, 0.f, [](float a, float b) { return a + b; });
  }
  template <int K, class F>
  __device__ Sums<K> sums(std::int64_t n, F f) const {
    Sums<K> total{};
    for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) total.add(f(c));
    for (int k = 0; k < K; ++k) total.v[k] = reduce(total.v[k], 0.f, [](float a, float b) { return a + b; });
    return total;
  }
  template <class F>
  __device__ double sum_f64(std::int64_t n, F f) const {
    double v = 0;
    for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) v += f(c);
    return reduce(v, 0., [](double a, double b) { return a + b; });
  }
  template <class F>
  __device__ std::uint64_t sum_u64(std::int64_t n, F f) const {
    unsigned long long v = 0;
    for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) v += f(c);
    return reduce(v, 0ull, [](unsigned long long a, unsigned long long b) { return a + b; });
  }
  template <class F>
  __device__ float max(std::int64_t n, F f) const {
    float v = -INFINITY;
    for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) v = fmaxf(v, f(c));
    return reduce(v, -INFINITY, [](float a, float b) { return fmaxf(a, b); });
  }
  /// In one pass over the row: what was summed before a larger value came is scaled down (Milakov & Gimelshein 2018).
  template <class F>
  __device__ float log_sum_exp(std::int64_t n, F f) const {
    float most = -INFINITY, total = 0;
    for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) {
      float v = f(c);
      if (v > most) {
        total *= math::exp_nonpositive(most - v);
        most = v;
      }
      if (most > -INFINITY || v != v) total += math::exp_nonpositive(v - most);
    }
    auto larger = [](float a, float b) { return fmaxf(a, b); };
    float largest = reduce(most, -INFINITY, larger);
    if (most < largest) total *= math::exp_nonpositive(most - largest);
    return largest + math::log(reduce(total, 0.f, [](float a, float b) { return a + b; }));
  }
  template <class F>
  __device__ std::int64_t first_where(std::int64_t n, F f) const {
    long long found = n;
    for (std::int64_t c = threadIdx.x; c < n && found == n; c += blockDim.x)
      if (f(c)) found = c;
    return reduce(found, (long long)n, [](long long a, long long b) { return a < b ? a : b; });
  }
  template <class F, class G>
  __device__ void sum_down(std::int64_t n, std::int64_t k, F f, G g) const {
    for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) {
      float total = 0;
#pragma unroll 8
      for (std::int64_t i = 0; i < k; ++i) total += f(i, c);
      g(c, total);
    }
  }

 private:
  template <class V, class Combine>
  __device__ static V reduce(V v, V neutral, Combine combine) {
    __shared__ V parts[32];
    for (int o = 16; o; o /= 2) v = combine(v, __shfl_xor_sync(~0u, v, o));
    __syncthreads();  // parts may still be read from the previous reduction
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
    __syncthreads();
    v = threadIdx.x % 32 < blockDim.x / 32 ? parts[threadIdx.x % 32] : neutral;
    for (int o = 16; o; o /= 2) v = combine(v, __shfl_xor_sync(~0u, v, o));
    return v;
  }
};

template <class Body>
__global__ void each_kernel(std::int64_t n, Body body) {
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < n; i += std::int64_t(gridDim.x) * blockDim.x)
    body(i);
}
template <class Body>
__global__ void row_kernel(std::int64_t rows, Body body) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) body(BlockTeam{}, row);
}
/// A block has 32 columns and 32 threads for each, which share the rows; their sums are added in order.
template <int K, class Term, class Finish>
__global__ void column_kernel(std::int64_t rows, std::int64_t columns, Term term, Finish finish) {
  __shared__ Sums<K> parts[32][33];
  std::int64_t c = blockIdx.x * std::int64_t(32) + threadIdx.x;
  Sums<K> total{};
  if (c < columns)
    for (std::int64_t r = threadIdx.y; r < rows; r += 32) total.add(term(r, c));
  parts[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.y != 0 || c >= columns) return;
  for (int y = 1; y < 32; ++y) total.add(parts[y][threadIdx.x]);
  finish(c, total);
}
#endif

namespace detail {
inline unsigned blocks_for(std::int64_t n) {
  return unsigned(n < 65535 * 8 ? (n < 1 ? 1 : n) : 65535 * 8);
}
}  // namespace detail

template <class Body>
void for_each(const Queue& q, std::int64_t n, Body body) {
  if (n == 0) return;
#if defined(__CUDACC__)
  if (q.on_gpu) {
    each_kernel<<<detail::blocks_for((n + 255) / 256), 256, 0, q.stream>>>(n, body);
    return check(cudaGetLastError());
  }
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

/// `width` is the number of columns: it decides how many threads a CUDA team has, and whether the work is worth sharing on the
/// CPU.
template <class Body>
void for_each_row(const Queue& q, std::int64_t rows, std::int64_t width, Body body) {
  if (rows == 0) return;
#if defined(__CUDACC__)
  if (q.on_gpu) {
    unsigned threads = width <= 32 ? 32 : width <= 128 ? 64 : width <= 1024 ? 128 : 256;
    row_kernel<<<detail::blocks_for(rows), threads, 0, q.stream>>>(rows, body);
    return check(cudaGetLastError());
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

/// finish(c, totals) for every column, where totals are the K sums of term(r, c) over rows (both are Sums<K>).
template <int K, class Term, class Finish>
void reduce_rows(const Queue& q, std::int64_t rows, std::int64_t columns, Term term, Finish finish) {
  if (columns == 0) return;
#if defined(__CUDACC__)
  if (q.on_gpu) {
    column_kernel<K><<<unsigned((columns + 31) / 32), dim3(32, 32), 0, q.stream>>>(rows, columns, term, finish);
    return check(cudaGetLastError());
  }
#endif
  require(!q.on_gpu, "reduce_rows: this program was built without CUDA");
  if (q.recording) return q.recording->add([=](const Queue& then) { reduce_rows<K>(then, rows, columns, term, finish); });
  auto block = [=](std::int64_t b, float* sums) {
    std::int64_t end = (b + 1) * row_block < rows ? (b + 1) * row_block : rows;
    for (std::int64_t r = b * row_block; r < end; ++r) {
#pragma omp simd
      for (std::int64_t c = 0; c < columns; ++c) {
        Sums<K> s = term(r, c);
        for (int k = 0; k < K; ++k) sums[k * columns + c] += s[k];
      }
    }
  };
  reduce_blocks<K>((rows + row_block - 1) / row_block, columns, rows, block, finish);
}

}  // namespace lockstep
