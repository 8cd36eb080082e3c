#pragma once

// Private to kernels/: writing around the CPU's caches. Memory that is written in whole lines this way is not fetched before, and
// what is in the caches stays; it pays where rows leave them anyway before somebody reads them.

#include <immintrin.h>

#include <cstdint>

namespace lockstep {

/// Whether rows that are written once, to `to`, are so large together that they should go around the caches, and can.
template <class T>
bool goes_around_caches(const T* to, std::int64_t rows, std::int64_t columns) {
  constexpr std::int64_t large = 32 << 20;
  const auto bytes = std::int64_t(sizeof(T)) * columns;
  return rows * bytes >= large && bytes % 64 == 0 && std::uintptr_t(to) % 64 == 0;
}

/// n elements, whole lines of memory both. Other threads may read them after finish_streams.
template <class T>
void stream(T* to, const T* from, std::int64_t n) {
  auto* out = reinterpret_cast<float*>(to);
  auto* in = reinterpret_cast<const float*>(from);
#if defined(__AVX512F__)
  constexpr std::int64_t step = 16;
  auto put = [&](std::int64_t i) { _mm512_stream_ps(out + i, _mm512_loadu_ps(in + i)); };
#else
  constexpr std::int64_t step = 4;
  auto put = [&](std::int64_t i) { _mm_stream_ps(out + i, _mm_loadu_ps(in + i)); };
#endif
  for (std::int64_t i = 0; i < n * std::int64_t(sizeof(T)) / 4; i += step) put(i);
}
inline void finish_streams() {
  _mm_sfence();
}

}  // namespace lockstep
