#pragma once

// Private to kernels/batch_norm.cu: the CPU's passes over rows of channels. Memory bounds them, so each meets its rows once,
// statistics too, and the second of two passes begins where the first one ended.

#include <algorithm>
#include <vector>

#include "kernels/base/launch.h"

namespace lockstep::kernels::rows_cpu {

using std::int64_t;

/// Rows that one thread sums: many enough that sums of blocks are little beside the rows, few enough that there is something to
/// share. The shape alone decides, so sums do not depend on the threads.
inline int64_t block_rows(int64_t rows) {
  return std::clamp<int64_t>(rows / 256 / 4 * 4, 64, 256);
}
inline int64_t block_count(int64_t rows) {
  return (rows + block_rows(rows) - 1) / block_rows(rows);
}
/// Floats that a pass with sums needs beside the tensors.
inline int64_t sums_size(int64_t rows, int64_t channels) {
  return block_count(rows) * 2 * channels;
}

/// work(first, count) for up to 16 neighbouring channels, a line of memory.
template <class Work>
void for_each_line(int64_t channels, int64_t blocks, Work work) {
#pragma omp parallel for firstprivate(work) if (blocks * channels > 16384) schedule(static)
  for (int64_t first = 0; first < channels; first += 16) work(first, std::min<int64_t>(16, channels - first));
}

/// finish(c, mean, sum of squared distances from it) for every channel. The next 64 rows sum distances from the mean so far, and
/// their squares; then they join it, as blocks join each other: Chan, Golub & LeVeque (1979). Little is lost where a square of
/// sums is taken off: the first mean is that of some of the rows at hand.
template <class T, class Finish>
void statistics(int64_t rows, int64_t channels, const T* x, float* sums, Finish finish) {
  const int64_t size = block_rows(rows), blocks = block_count(rows);
  for_each_block(rows, channels, size, Direction::forwards, [=](int64_t b, int64_t first, int64_t last) {
    float *mean = sums + b * 2 * channels, *squares = mean + channels;
    std::vector<float> of_few(std::size_t(2 * channels));
    float *distances = of_few.data(), *powers = distances + channels;
    std::fill(mean, mean + 2 * channels, 0.f);
    const int64_t guess = std::min<int64_t>(last - first, 4);
    for (int64_t r = first; r < first + guess; ++r)
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) mean[c] += float(x[r * channels + c]) / float(guess);
    for (int64_t begin = first; begin < last; begin += 64) {
      const int64_t end = std::min(begin + 64, last);
      by_fours(begin, end, [=]<int n>(int64_t r) {
        const T* in = x + r * channels;
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) {
          float distance = 0, power = 0;
          for (int i = 0; i < n; ++i) {
            float d = float(in[i * channels + c]) - mean[c];
            distance += d;
            power += d * d;
          }
          distances[c] += distance;
          powers[c] += power;
        }
      });
      const float few = float(end - begin), share = few / float(end - first);
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        float d = distances[c] / few, square = powers[c] - distances[c] * d;
        squares[c] += (square < 0 ? 0.f : square) + d * d * few * (1 - share);
        mean[c] += d * share;
        distances[c] = powers[c] = 0;
      }
    }
  });
  for_each_line(channels, blocks, [=](int64_t first, int64_t count) {
    const float* means = sums + first;
    float mean[16] = {}, square[16] = {};
    auto weight = [=](int64_t b) { return float(std::min(size, rows - b * size)); };
    for (int64_t b = 1; b < blocks; ++b)
      for (int64_t c = 0; c < count; ++c) mean[c] += weight(b) * (means[b * 2 * channels + c] - means[c]);
    for (int64_t c = 0; c < count; ++c) mean[c] = means[c] + mean[c] / float(rows);
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t c = 0; c < count; ++c) {
        float d = means[b * 2 * channels + c] - mean[c];
        square[c] += means[(b * 2 + 1) * channels + c] + weight(b) * d * d;
      }
    for (int64_t c = 0; c < count; ++c) finish(first + c, mean[c], square[c]);
  });
}

/// body(elements…) of columns of memory; row by row from the end of a thread's share.
template <class Body, class... P>
void each_backwards(int64_t rows, int64_t channels, Body body, P... p) {
  for_each_block(rows, channels, block_rows(rows), Direction::backwards, [=](int64_t, int64_t begin, int64_t end) {
    by_fours(begin, end, [=]<int n>(int64_t r) {
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c)
        for (int i = 0; i < n; ++i) body(packs::at(p, (r + i) * channels + c, c)...);
    });
  });
}

/// finish(c, sums over rows of the two numbers that term(elements…) of columns of memory gives) for every channel.
template <class Term, class Finish, class... P>
void two_sums(int64_t rows, int64_t channels, float* sums, Term term, Finish finish, P... p) {
  const int64_t blocks = block_count(rows);
  for_each_block(rows, channels, block_rows(rows), Direction::forwards, [=](int64_t b, int64_t begin, int64_t end) {
    float *left = sums + b * 2 * channels, *right = left + channels;
    std::fill(left, left + 2 * channels, 0.f);
    by_fours(begin, end, [=]<int n>(int64_t r) {
#pragma omp simd
      for (int64_t c = 0; c < channels; ++c) {
        float a = 0, b = 0;
        for (int i = 0; i < n; ++i) {
          Sums<2> s = term(packs::at(p, (r + i) * channels + c, c)...);
          a += s.v[0];
          b += s.v[1];
        }
        left[c] += a;
        right[c] += b;
      }
    });
  });
  for_each_line(channels, blocks, [=](int64_t first, int64_t count) {
    float left[16] = {}, right[16] = {};
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t c = 0; c < count; ++c) {
        left[c] += sums[b * 2 * channels + first + c];
        right[c] += sums[(b * 2 + 1) * channels + first + c];
      }
    for (int64_t c = 0; c < count; ++c) finish(first + c, Sums<2>{{left[c], right[c]}});
  });
}

}  // namespace lockstep::kernels::rows_cpu
