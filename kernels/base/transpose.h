#pragma once

// Private to kernels/*_cpu.*: a square of numbers, a vector a row.

#include <cstddef>
#include <utility>

namespace lockstep::kernels {

template <class Vector, std::size_t n, std::size_t... i>
[[gnu::always_inline]] inline void transpose(Vector (&rows)[n], std::index_sequence<i...>) {
  for (std::size_t stage = 1; stage < n; stage *= 2) {
    Vector next[n];
    for (std::size_t r = 0; r < n / 2; ++r) {  // the two rows' elements in turn
      next[2 * r] = __builtin_shufflevector(rows[r], rows[r + n / 2], (i / 2 + i % 2 * n)...);
      next[2 * r + 1] = __builtin_shufflevector(rows[r], rows[r + n / 2], (n / 2 + i / 2 + i % 2 * n)...);
    }
    for (std::size_t r = 0; r < n; ++r) rows[r] = next[r];
  }
}
/// Turns a square of numbers on its side: vectors of n numbers, n a power of two.
template <class Vector, std::size_t n>
[[gnu::always_inline]] inline void transpose(Vector (&rows)[n]) {
  static_assert(sizeof(Vector) % n == 0);
  transpose(rows, std::make_index_sequence<n>());
}

}  // namespace lockstep::kernels
