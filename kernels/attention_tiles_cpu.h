#pragma once

// Private to kernels/attention_cpu.cpp: products of small f32 matrices in cache, register block by register block.

#include <cstdint>
#include <utility>

#include "kernels/base/transpose.h"

namespace lockstep::kernels::tiles {

/// One register of the processor, and the same at any address.
typedef float Vector __attribute__((vector_size(__BIGGEST_ALIGNMENT__)));
typedef float LooseVector __attribute__((vector_size(__BIGGEST_ALIGNMENT__), aligned(4), may_alias));
inline constexpr std::int64_t width = sizeof(Vector) / sizeof(float);

/// A register block has `block_rows` rows of `block_vectors` vectors: 24 of 32 AVX-512 registers, 12 of 16 AVX2 ones.
inline constexpr int block_rows = 6, block_vectors = width == 16 ? 4 : 2;
/// Columns of a register block.
inline constexpr std::int64_t panel = block_vectors * width;

constexpr std::int64_t vectors_for(std::int64_t n) {
  return (n + width - 1) / width;
}
constexpr std::int64_t panels_for(std::int64_t n) {
  return (n + panel - 1) / panel;
}

/// Element (r, k) is data[r * row + k * inner].
struct Left {
  const float* data;
  std::int64_t row, inner;
};
/// Element (k, c) is data[k * row + c / panel * next_panel + c % panel].
struct Right {
  const float* data;
  std::int64_t row, next_panel = panel;
};

template <int rows, int vectors>
void block(float* y, std::int64_t y_row, const Left& left, const float* b, std::int64_t b_row, std::int64_t inner, bool add) {
  const Left a = left;
  Vector sum[rows][vectors];
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v)
      sum[r][v] = add ? *reinterpret_cast<const LooseVector*>(y + r * y_row + v * width) : Vector{};
  for (std::int64_t k = 0; k < inner; ++k) {
    Vector right[vectors];
    for (int v = 0; v < vectors; ++v) right[v] = *reinterpret_cast<const LooseVector*>(b + k * b_row + v * width);
    for (int r = 0; r < rows; ++r)
      for (int v = 0; v < vectors; ++v) sum[r][v] += a.data[r * a.row + k * a.inner] * right[v];
  }
  for (int r = 0; r < rows; ++r)
    for (int v = 0; v < vectors; ++v) *reinterpret_cast<LooseVector*>(y + r * y_row + v * width) = sum[r][v];
}

/// block<rows, vectors> for all numbers of rows and vectors.
using Block = void (*)(float*, std::int64_t, const Left&, const float*, std::int64_t, std::int64_t, bool);
template <class>
struct Blocks;
template <std::size_t... i>
struct Blocks<std::index_sequence<i...>> {
  static constexpr Block all[] = {block<int(i) / block_vectors + 1, int(i) % block_vectors + 1>...};
};

/// y (rows <= block_rows, vectors * width) (+)= a (rows, inner) b (inner, vectors * width).
inline void product(int rows, std::int64_t vectors, std::int64_t inner, float* y, std::int64_t y_row, const Left& a,
                    const Right& b, bool add) {
  const Block* blocks = Blocks<std::make_index_sequence<block_rows * block_vectors>>::all + (rows - 1) * block_vectors - 1;
  for (std::int64_t v = 0; v < vectors; v += block_vectors) {
    int now = int(vectors - v < block_vectors ? vectors - v : block_vectors);
    blocks[now](y + v * width, y_row, a, b.data + v / block_vectors * b.next_panel, b.row, inner, add);
  }
}

}  // namespace lockstep::kernels::tiles
