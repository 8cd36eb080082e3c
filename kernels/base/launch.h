#pragma once

// Private to kernels/*.cu: the two loops that every shared kernel is made of.
//
//   for_each(queue, n, body)           body(i)            element-wise; the compiler vectorises over i
//   for_each_row(queue, rows, body)    body(team, row)    one team of threads works on one row
//
// A team is one CPU thread or one CUDA block. Its members share the columns of a row:
//   team.each(n, f)      f(c) for every column
//   team.sum(n, f)       sum of f(c), in every member     (fixed order for a given device)
//   team.max(n, f)       largest f(c), in every member
//   team.first()         true in one member: for results of the whole row
// On the CPU rows never share arithmetic, so results do not depend on the number of threads.

#include <cmath>

#include "kernels/base/queue.h"
#include "kernels/base/view.h"
#if defined(__CUDACC__)
#include "kernels/base/check_cuda.h"
#endif

namespace lockstep {

struct SerialTeam {
  HD bool first() const { return true; }
  template <class F>
  HD void each(std::int64_t n, F f) const {
#pragma omp simd
    for (std::int64_t c = 0; c < n; ++c) f(c);
  }
  template <class F>
  HD float sum(std::int64_t n, F f) const {
    float total = 0;
#pragma omp simd reduction(+ : total)
    for (std::int64_t c = 0; c < n; ++c) total += f(c);
    return total;
  }
  template <class F>
  HD float max(std::int64_t n, F f) const {
    float most = -INFINITY;
#pragma omp simd reduction(max : most)
    for (std::int64_t c = 0; c < n; ++c) {
      float v = f(c);
      most = v > most ? v : most;
    }
    return most;
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
  template <class F>
  __device__ float sum(std::int64_t n, F f) const {
    float v = 0;
    for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) v += f(c);
    return reduce(v, 0.f, [](float a, float b) { return a + b; });
  }
  template <class F>
  __device__ float max(std::int64_t n, F f) const {
    float v = -INFINITY;
    for (std::int64_t c = threadIdx.x; c < n; c += blockDim.x) v = fmaxf(v, f(c));
    return reduce(v, -INFINITY, [](float a, float b) { return fmaxf(a, b); });
  }

 private:
  template <class Combine>
  __device__ static float reduce(float v, float neutral, Combine combine) {
    __shared__ float parts[32];
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
  for (std::int64_t i = blockIdx.x * std::int64_t(blockDim.x) + threadIdx.x; i < n;
       i += std::int64_t(gridDim.x) * blockDim.x)
    body(i);
}
template <class Body>
__global__ void row_kernel(std::int64_t rows, Body body) {
  for (std::int64_t row = blockIdx.x; row < rows; row += gridDim.x) body(BlockTeam{}, row);
}
#endif

namespace detail {
inline unsigned blocks_for(std::int64_t n) { return unsigned(n < 65535 * 8 ? (n < 1 ? 1 : n) : 65535 * 8); }
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
#pragma omp parallel for simd if (n > 32768) schedule(static)
  for (std::int64_t i = 0; i < n; ++i) body(i);
}

/// `width` is the number of columns; it only decides how many threads a CUDA team has.
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
#pragma omp parallel for if (rows * width > 16384) schedule(static)
  for (std::int64_t r = 0; r < rows; ++r) body(SerialTeam{}, r);
}

}  // namespace lockstep
