#pragma once

// Private to kernels/: sums and maxima on the CPU, in as many numbers side by side as keep its adders busy: one after another
// would wait for each addition. The lanes are added in pairs at the end, so a sum is the same whatever the width of the
// processor's vectors.

#include <cmath>
#include <cstdint>

#include "kernels/base/hd.h"

namespace lockstep::lanes {

inline constexpr int count = 32;

/// work(c, lane) for 0 <= c < n; lane is c % count.
template <class Work>
HD void spread(std::int64_t n, Work work) {
  std::int64_t c = 0;
  for (; c + count <= n; c += count) {
#pragma omp simd
    for (int lane = 0; lane < count; ++lane) work(c + lane, lane);
  }
  const int rest = int(n - c);
#pragma omp simd
  for (int lane = 0; lane < rest; ++lane) work(c + lane, lane);
}

HD float total(float (&lanes)[count]) {
  for (int half = count / 2; half > 0; half /= 2)
#pragma omp simd
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

/// Sum of f(c) for 0 <= c < n.
template <class F>
HD float sum(std::int64_t n, F f) {
  float parts[count] = {};
  spread(n, [&](std::int64_t c, int lane) { parts[lane] += f(c); });
  return total(parts);
}

/// Largest f(c) for 0 <= c < n; NaN is passed over.
template <class F>
HD float max(std::int64_t n, F f) {
  float parts[count];
  for (float& part : parts) part = -INFINITY;
  spread(n, [&](std::int64_t c, int lane) {
    float v = f(c);
    parts[lane] = v > parts[lane] ? v : parts[lane];
  });
  float most = -INFINITY;
#pragma omp simd reduction(max : most)
  for (int lane = 0; lane < count; ++lane) most = parts[lane] > most ? parts[lane] : most;
  return most;
}

}  // namespace lockstep::lanes
