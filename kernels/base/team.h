#pragma once

// Private to kernels/*.cu: the threads that share a row.
//
// A team is one CPU thread or one CUDA block. Its members share the columns of a row:
//   team.each(n, f)              f(c) for every column
//   team.sum(n, f)               sum of f(c), in every member     (fixed order for a given device)
//   team.sums<K>(n, f)           K sums at once: f(c) is a Sums<K>
//   team.max(n, f)               largest f(c), in every member; NaN is passed over
//   team.log_sum_exp(n, f)       log of the sum of exp(f(c)), in every member
// These five also take columns of memory behind f, which then is a function of their elements: a CUDA block reads 16 bytes at a
// time.
//   team.each_at(n, f, columns...)   f(c, elements...)
//   team.each_word(n, first, draw, f, columns...)   f(word, elements...), with the word of element first + c: draw(b), a Random4,
//                                has those of elements 4b … 4b + 3
//   team.sum_f64(n, f)           as sum, in double; strictly in order on the CPU
//   team.sum_u64(n, f)           sum of whole numbers f(c), modulo 2^64: no order matters
//   team.first_where(n, f)       the first c for which f(c), or n
//   team.sum_down(n, k, f, g)    g(c, f(0, c) + f(1, c) + … + f(k - 1, c)) for every column, added in this order
//   team.first()                 true in one member: for results of the whole row
//   team.from(row)               the same team for rows that all begin at odd addresses, as this one: where it and all columns
//                                are as far from 16 bytes, a CUDA block reads 16 bytes from the first element on that allows it
// A member of one team meets the same columns in every call with columns of memory and the same n, and in every call without and
// the same n, so it may read back what it wrote in an earlier one of the same sort.

#include <cmath>
#include <cstdint>

#include "kernels/base/lanes.h"
#include "kernels/base/math.h"
#include "kernels/base/pack.h"

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

/// K rows of sums, one for each column.
struct ColumnSums {
  float* data;
  std::int64_t stride;
  HD float* operator[](int k) const { return data + k * stride; }
};

struct SerialTeam {
  template <class T>
  HD SerialTeam from(const T*) const {
    return {};
  }
  HD bool first() const { return true; }
  template <class F, class... P>
  HD void each(std::int64_t n, F f, P... p) const {
#pragma omp simd
    for (std::int64_t c = 0; c < n; ++c) value(f, c, p...);
  }
  template <class F, class... P>
  HD void each_at(std::int64_t n, F f, P... p) const {
#pragma omp simd
    for (std::int64_t c = 0; c < n; ++c) f(c, packs::at(p, c, c)...);
  }
  template <class Draw, class F, class... P>
  HD void each_word(std::int64_t n, std::int64_t first, Draw draw, F f, P... p) const {
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
      for (std::int64_t c = 0; c < size; ++c) f(words[skip + c], packs::at(p, begin + c, 0)...);
      begin += size;
    }
  }
  template <class F, class... P>
  HD float sum(std::int64_t n, F f, P... p) const {
    return lanes::sum(n, [&](std::int64_t c) { return value(f, c, p...); });
  }
  template <int K, class F, class... P>
  HD Sums<K> sums(std::int64_t n, F f, P... p) const {
    static_assert(K == 2, "gcc vectorises named sums only");
    float a[lanes::count] = {}, b[lanes::count] = {};
    lanes::spread(n, [&](std::int64_t c, int lane) {
      Sums<K> s = value(f, c, p...);
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
  template <class F, class... P>
  HD float max(std::int64_t n, F f, P... p) const {
    return lanes::max(n, [&](std::int64_t c) { return value(f, c, p...); });
  }
  /// Tile by tile, each read twice while it is in the first cache: what was summed before a larger value came is scaled down
  /// (Milakov & Gimelshein 2018).
  template <class F, class... P>
  HD float log_sum_exp(std::int64_t n, F f, P... p) const {
    constexpr std::int64_t tile = 2048;
    float most = -INFINITY, total = 0;
    for (std::int64_t begin = 0; begin < n; begin += tile) {
      std::int64_t size = n - begin < tile ? n - begin : tile;
      float larger = max(size, [&](std::int64_t c) { return value(f, begin + c, p...); });
      if (larger > most) {
        total *= math::exp_nonpositive(most - larger);
        most = larger;
      }
      float shift = most > -INFINITY ? most : 0;
      total += sum(size, [&](std::int64_t c) { return math::exp_nonpositive(value(f, begin + c, p...) - shift); });
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

 private:
  template <class F, class... P>
  HD static auto value(F& f, std::int64_t c, P... p) {
    if constexpr (sizeof...(P) == 0)
      return f(c);
    else
      return f(packs::at(p, c, c)...);
  }
};

#if defined(__CUDACC__)
/// All threads of a block (a multiple of 32, at most 1024).
struct BlockTeam {
  int head = 0;  ///< where packs begin in a row
  template <class T>
  __device__ BlockTeam from(const T* row) const {
    return {packs::head_of<8>(row)};
  }
  __device__ bool first() const { return threadIdx.x == 0; }
  template <class F, class... P>
  __device__ void each(std::int64_t n, F f, P... p) const {
    visit(n, f, p...);
  }
  template <class F, class... P>
  __device__ void each_at(std::int64_t n, F f, P... p) const {
    packs::visit<8>(threadIdx.x, blockDim.x, n, 0, head, f, p...);
  }
  template <class Draw, class F, class... P>
  __device__ void each_word(std::int64_t n, std::int64_t first, Draw draw, F f, P... p) const {
    const std::int64_t end = (first + n + 3) / 4;
    const bool whole = first % 4 == 0 && (packs::aligned<4>(p) && ...);
    for (std::int64_t b = first / 4 + threadIdx.x; b < end; b += blockDim.x) {
      const auto four = draw(b);
      const std::uint32_t words[] = {four.x, four.y, four.z, four.w};
      const std::int64_t c = 4 * b - first;
      if (whole && c + 4 <= n) {
        auto with_word = [&](std::int64_t at, auto&... elements) { f(words[at - c], elements...); };
        packs::visit_pack<4>(with_word, c, c, p...);
        continue;
      }
      for (int k = 0; k < 4; ++k)
        if (c + k >= 0 && c + k < n) f(words[k], packs::at(p, c + k, 0)...);
    }
  }
  template <class F, class... P>
  __device__ float sum(std::int64_t n, F f, P... p) const {
    float v = 0;
    visit(
        n, [&](auto&... at) { v += f(at...); }, p...);
    return reduce(v, 0.f, [](float a, float b) { return a + b; });
  }
  template <int K, class F, class... P>
  __device__ Sums<K> sums(std::int64_t n, F f, P... p) const {
    Sums<K> total{};
    visit(
        n, [&](auto&... at) { total.add(f(at...)); }, p...);
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
  template <class F, class... P>
  __device__ float max(std::int64_t n, F f, P... p) const {
    float v = -INFINITY;
    visit(
        n, [&](auto&... at) { v = fmaxf(v, f(at...)); }, p...);
    return reduce(v, -INFINITY, [](float a, float b) { return fmaxf(a, b); });
  }
  /// In one pass over the row: what was summed before a larger value came is scaled down (Milakov & Gimelshein 2018).
  template <class F, class... P>
  __device__ float log_sum_exp(std::int64_t n, F f, P... p) const {
    float most = -INFINITY, total = 0;
    auto add = [&](auto&... at) {
      float v = f(at...);
      if (v > most) {
        total *= math::exp_nonpositive(most - v);
        most = v;
      }
      if (most > -INFINITY || v != v) total += math::exp_nonpositive(v - most);
    };
    visit(n, add, p...);
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
  template <class F, class... P>
  __device__ void visit(std::int64_t n, F&& f, P... p) const {
    if constexpr (sizeof...(P) == 0)
      for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) f(c);
    else  // packs of one size, whatever the types: a member meets the same columns in every call
      packs::visit<8>(
          threadIdx.x, blockDim.x, n, 0, head, [&](std::int64_t, auto&... at) { f(at...); }, p...);
  }
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
#endif

}  // namespace lockstep
