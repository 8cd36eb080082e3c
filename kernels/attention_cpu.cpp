// Attention in tiles (Dao et al. 2022, Dao 2023): softmax is accumulated key block by key block, and backward computes the
// probabilities again from log_sum. One thread works on one head of one row of the batch, so results do not depend on the number
// of threads. Tiles are f32 whatever the storage.

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/attention_tiles_cpu.h"
#include "kernels/base/lanes.h"
#include "kernels/base/math.h"
#include "kernels/vendor.h"
#include "kernels/vendor_cpu.h"

namespace lockstep::kernels::cpu {
namespace {

using namespace tiles;
using std::int64_t;

constexpr int64_t query_block = 4 * block_rows;
constexpr int64_t forward_keys = 4 * panel;   ///< keys between two corrections of the running maximum
constexpr int64_t backward_keys = 2 * panel;  ///< so that two tiles of probabilities stay in the first cache

/// Cuts aligned pieces from a workspace; from a null one it only counts.
struct Pieces {
  float* begin;
  int64_t used = 0;
  float* take(int64_t floats) {
    float* piece = begin ? begin + used : nullptr;
    used += (floats + 15) / 16 * 16;
    return piece;
  }
};

/// One head of one row of the batch.
struct Head {
  const AttentionShape& s;
  int64_t batch, head;
  /// Row i of q (part 0), k (1) or v (2) in the packed rows.
  template <class T>
  T* packed(T* qkv, int64_t part, int64_t i) const {
    return qkv + ((batch * s.length + i) * 3 + part) * s.width() + head * s.size;
  }
  template <class T>
  T* row(T* y, int64_t i) const {
    return y + (batch * s.length + i) * s.width() + head * s.size;
  }
  template <class T>
  T* sums(T* log_sum) const {
    return log_sum + (batch * s.heads + head) * s.length;
  }
  /// How many of the keys [k0, k0 + n) the query `row` may see.
  int64_t visible(int64_t row, int64_t k0, int64_t n) const { return s.causal ? std::clamp<int64_t>(row + 1 - k0, 0, n) : n; }
  /// The index of (row, column) in the matrix of attention weights, for dropout.
  std::uint64_t element(int64_t row, int64_t column) const {
    return std::uint64_t(((batch * s.heads + head) * s.length + row) * s.length + column);
  }
};

template <class T>
void load_row(float* to, int64_t padded, const T* from, int64_t n, float factor = 1) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = float(from[i]) * factor;
  for (int64_t i = n; i < padded; ++i) to[i] = 0;
}
template <class T>
void store_row(T* to, const float* from, int64_t n, float factor = 1) {
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) to[i] = T(from[i] * factor);
}

inline void scale_row(float* row, int64_t n, float factor) {
  for (int64_t i = 0; i < n; ++i) row[i] *= factor;
}

/// Rows of one head lie far apart in the packed rows, where the processor's own prefetching does not reach.
template <class T>
void prefetch(const T* row, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(row + i);
  __builtin_prefetch(row + n - 1);
}

/// The same for a row that will be written whole: a store that waits for its line holds up those behind it.
template <class T>
void prefetch_to_write(T* row, int64_t n) {
  for (int64_t i = 0; i < n; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(row + i, 1);
  __builtin_prefetch(row + n - 1, 1);
}

/// Rows [0, length) of k or v turned on their side: panels of `panel` rows, in which element (d, row) is at d * panel + row.
template <class T>
void load_transposed(float* to, const Head& h, const T* qkv, int64_t part) {
  const int64_t size = h.s.size, length = h.s.length;
  for (int64_t r0 = 0; r0 < panels_for(length) * panel; r0 += width) {
    const int64_t rows = std::clamp<int64_t>(length - r0, 0, width);
    float* side = to + r0 / panel * size * panel + r0 % panel;
    for (int64_t r = 0; r < rows; ++r) {
      prefetch(h.packed(qkv, 0, r0 + r), size);
      prefetch(h.packed(qkv, 2, r0 + r), size);
    }
    for (int64_t d0 = 0; d0 < size; d0 += width) {
      const int64_t first =
          std::clamp<int64_t>(size - width, 0, d0);  // whole vectors, the last of which may meet its neighbour again
      alignas(64) float square[width * width] = {};
      for (int64_t r = 0; r < rows; ++r) {
        const T* from = h.packed(qkv, part, r0 + r) + first;
        if (size >= width) {
#pragma omp simd
          for (int64_t d = 0; d < width; ++d) square[r * width + d] = float(from[d]);
        } else {
          for (int64_t d = 0; d < size; ++d) square[r * width + d] = float(from[d]);
        }
      }
      Vector rows_of[width];
      for (int64_t r = 0; r < width; ++r) rows_of[r] = *reinterpret_cast<const LooseVector*>(square + r * width);
      transpose(rows_of);
      for (int64_t d = 0; d < std::min(width, size); ++d)
        *reinterpret_cast<LooseVector*>(side + (first + d) * panel) = rows_of[d];
    }
  }
}

/// Room before and behind the factors of a row: dropout_factors() works on whole batches of random words.
constexpr int64_t words_at_once = 64, room = words_at_once;

/// factors[c] = 0 or 1 / (1 - p) for n columns of an attention row whose first element has index `first`.
void dropout_factors(float* factors, int64_t n, const RandomKey& key, std::uint64_t first, float p) {
  const float kept = 1 / (1 - p);
  const int64_t ahead = int64_t(first % 4);
  const RandomKey own = key;
  for (int64_t c = -ahead; c < n; c += words_at_once) {
    float* out = factors + c;
    const std::uint64_t block = (first + std::uint64_t(c + ahead)) / 4;
#pragma omp simd
    for (int i = 0; i < words_at_once / 4; ++i) {
      Random4 r = random_words(own, block + std::uint64_t(i));
      out[4 * i] = to_uniform(r.x) < p ? 0 : kept;
      out[4 * i + 1] = to_uniform(r.y) < p ? 0 : kept;
      out[4 * i + 2] = to_uniform(r.z) < p ? 0 : kept;
      out[4 * i + 3] = to_uniform(r.w) < p ? 0 : kept;
    }
  }
}

// Loops over the scores of a row go vector by vector: `n` is a multiple of `width`, so there is no scalar rest.

/// Scores from `valid` on are those of keys that a query does not see.
void mask(float* scores, int64_t valid, int64_t n) {
  for (int64_t v = valid / width * width; v < n; v += width)
#pragma omp simd
    for (int lane = 0; lane < width; ++lane) scores[v + lane] = lane < int(valid - v) ? scores[v + lane] : -INFINITY;
}

/// scores[c] = exp(scores[c] - shift); gives their sum.
float exponentials(float* scores, int64_t n, float shift) {
  return lanes::sum(n, [=](int64_t c) { return scores[c] = math::exp_nonpositive(scores[c] - shift); });
}

struct ForwardMemory {
  float *k, *v, *q, *p, *y, *factors;
  int64_t padded, floats;
  ForwardMemory(const AttentionShape& s, float* begin) : padded(vectors_for(s.size) * width) {
    Pieces pieces{begin};
    k = pieces.take(panels_for(s.length) * panel * s.size);
    v = pieces.take(s.length * padded);
    q = pieces.take(query_block * s.size);
    p = pieces.take(query_block * forward_keys);
    y = pieces.take(query_block * padded);
    factors = pieces.take(forward_keys + 2 * room) + room;
    floats = pieces.used;
  }
};

template <class T>
void forward(const Head& h, T* y, float* log_sum, const T* qkv, const RandomKey& key, const ForwardMemory& m) {
  const AttentionShape& s = h.s;
  const int64_t length = s.length, size = s.size, vectors = m.padded / width;
  load_transposed(m.k, h, qkv, 1);
  for (int64_t r = 0; r < length; ++r) load_row(m.v + r * m.padded, m.padded, h.packed(qkv, 2, r), size);

  for (int64_t q0 = 0; q0 < length; q0 += query_block) {
    const int64_t queries = std::min(query_block, length - q0);
    float most[query_block], total[query_block] = {};
    std::fill(most, most + query_block, -INFINITY);
    for (int64_t i = 0; i < queries; ++i) load_row(m.q + i * size, size, h.packed(qkv, 0, q0 + i), size, s.scale);

    for (int64_t k0 = 0; k0 < length && h.visible(q0 + queries - 1, k0, 1) > 0; k0 += forward_keys) {
      const int64_t keys = std::min(forward_keys, length - k0);
      for (int64_t i0 = 0; i0 < queries; i0 += block_rows) {
        const int rows = int(std::min<int64_t>(block_rows, queries - i0));
        const int64_t seen = h.visible(q0 + i0 + rows - 1, k0, keys), seen_vectors = vectors_for(seen);
        float* p = m.p + i0 * forward_keys;
        product(rows, seen_vectors, size, p, forward_keys, {m.q + i0 * size, size, 1}, {m.k + k0 * size, panel, size * panel},
                false);
        for (int64_t i = i0; i < i0 + rows; ++i, p += forward_keys) {
          const int64_t valid = h.visible(q0 + i, k0, keys), n = seen_vectors * width;
          const float before = most[i];
          mask(p, valid, n);
          most[i] = std::max(before, lanes::max(n, [p](int64_t c) { return p[c]; }));
          if (k0 > 0) {
            const float correction = math::exp_nonpositive(before - most[i]);
            total[i] *= correction;
            scale_row(m.y + i * m.padded, m.padded, correction);
          }
          total[i] += exponentials(p, n, most[i]);
          if (s.dropout > 0) {
            dropout_factors(m.factors, n, key, h.element(q0 + i, k0), s.dropout);
            for (int64_t c = 0; c < n; ++c) p[c] *= m.factors[c];
          }
        }
        product(rows, vectors, seen, m.y + i0 * m.padded, m.padded, {m.p + i0 * forward_keys, forward_keys, 1},
                {m.v + k0 * m.padded, m.padded}, k0 > 0);
      }
    }
    for (int64_t i = 0; i < queries; ++i) {
      store_row(h.row(y, q0 + i), m.y + i * m.padded, size, 1 / total[i]);
      h.sums(log_sum)[q0 + i] = most[i] + std::log(total[i]);
    }
  }
}

struct BackwardMemory {
  float *k, *k_turned, *v_turned, *dk, *dv;  // all keys
  float *q, *dy, *dq, *p, *ds, *factors;     // a block of queries
  int64_t padded, floats;
  BackwardMemory(const AttentionShape& s, float* begin) : padded(vectors_for(s.size) * width) {
    Pieces pieces{begin};
    k = pieces.take(s.length * padded);
    k_turned = pieces.take(panels_for(s.length) * panel * s.size);
    v_turned = pieces.take(panels_for(s.length) * panel * s.size);
    dk = pieces.take(s.length * padded);
    dv = pieces.take(s.length * padded);
    q = pieces.take(query_block * padded);
    dy = pieces.take(query_block * padded);
    dq = pieces.take(query_block * padded);
    p = pieces.take(query_block * backward_keys);
    ds = pieces.take(query_block * backward_keys);
    factors = pieces.take(backward_keys + 2 * room) + room;
    floats = pieces.used;
  }
};

/// p = probabilities after dropout, ds = p * (dp - delta) before it, from p = scores and ds = dp.
template <bool drop>
void score_gradients(float* p, float* ds, const float* factors, int64_t n, float log_sum, float delta) {
#pragma omp simd
  for (int64_t c = 0; c < n; ++c) {
    float probability = math::exp_nonpositive(p[c] - log_sum);
    float factor = drop ? factors[c] : 1.f;
    ds[c] = probability * (ds[c] * factor - delta);
    p[c] = probability * factor;
  }
}

template <class T>
void backward(const Head& h, T* dqkv, const T* dy, const T* y, const float* log_sum, const T* qkv, const RandomKey& key,
              const BackwardMemory& m) {
  const AttentionShape& s = h.s;
  const int64_t length = s.length, size = s.size, padded = m.padded, vectors = padded / width;
  load_transposed(m.k_turned, h, qkv, 1);
  load_transposed(m.v_turned, h, qkv, 2);
  for (int64_t r = 0; r < length; ++r) load_row(m.k + r * padded, padded, h.packed(qkv, 1, r), size);
  std::fill(m.dk, m.dk + length * padded, 0.f);
  std::fill(m.dv, m.dv + length * padded, 0.f);

  for (int64_t q0 = 0; q0 < length; q0 += query_block) {
    const int64_t queries = std::min(query_block, length - q0);
    float delta[query_block];
    for (int64_t i = 0; i < queries; ++i) {
      load_row(m.q + i * padded, padded, h.packed(qkv, 0, q0 + i), size, s.scale);
      load_row(m.dy + i * padded, padded, h.row(dy, q0 + i), size);
      const T* out = h.row(y, q0 + i);
      float sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t d = 0; d < size; ++d) sum += m.dy[i * padded + d] * float(out[d]);
      delta[i] = sum;
    }

    for (int64_t k0 = 0; k0 < length && h.visible(q0 + queries - 1, k0, 1) > 0; k0 += backward_keys) {
      const int64_t keys = std::min(backward_keys, length - k0), key_columns = vectors_for(keys) * width;
      for (int64_t i0 = 0; i0 < queries; i0 += block_rows) {
        const int rows = int(std::min<int64_t>(block_rows, queries - i0));
        const int64_t seen = h.visible(q0 + i0 + rows - 1, k0, keys), seen_vectors = vectors_for(seen);
        float *p = m.p + i0 * backward_keys, *ds = m.ds + i0 * backward_keys;
        product(rows, seen_vectors, size, p, backward_keys, {m.q + i0 * padded, padded, 1},
                {m.k_turned + k0 * size, panel, size * panel}, false);
        product(rows, seen_vectors, size, ds, backward_keys, {m.dy + i0 * padded, padded, 1},
                {m.v_turned + k0 * size, panel, size * panel}, false);
        for (int64_t i = i0; i < i0 + rows; ++i, p += backward_keys, ds += backward_keys) {
          const int64_t valid = h.visible(q0 + i, k0, keys), n = seen_vectors * width;
          const float sum = h.sums(log_sum)[q0 + i];
          if (k0 == 0) {  // what is read with the next block of queries, and where the results of this row go
            if (const int64_t next = q0 + query_block + i; next < length) {
              prefetch(h.packed(qkv, 0, next), size);
              prefetch(h.row(dy, next), size);
              prefetch(h.row(y, next), size);
            }
            for (int64_t part = 0; part < 3; ++part) prefetch_to_write(h.packed(dqkv, part, q0 + i), size);
          }
          mask(p, valid, n);
          if (s.dropout > 0) {
            dropout_factors(m.factors, n, key, h.element(q0 + i, k0), s.dropout);
            score_gradients<true>(p, ds, m.factors, n, sum, delta[i]);
          } else {
            score_gradients<false>(p, ds, nullptr, n, sum, delta[i]);
          }
          std::fill(p + n, p + key_columns, 0.f);
          std::fill(ds + n, ds + key_columns, 0.f);
        }
        product(rows, vectors, seen, m.dq + i0 * padded, padded, {m.ds + i0 * backward_keys, backward_keys, 1},
                {m.k + k0 * padded, padded}, k0 > 0);
      }
      for (int64_t c = 0; c < keys; c += block_rows) {
        const int rows = int(std::min<int64_t>(block_rows, keys - c));
        const int64_t i0 = s.causal ? std::clamp<int64_t>(k0 + c - q0, 0, queries) : 0;  // the first query that sees key c
        product(rows, vectors, queries - i0, m.dv + (k0 + c) * padded, padded, {m.p + i0 * backward_keys + c, 1, backward_keys},
                {m.dy + i0 * padded, padded}, true);
        product(rows, vectors, queries - i0, m.dk + (k0 + c) * padded, padded, {m.ds + i0 * backward_keys + c, 1, backward_keys},
                {m.q + i0 * padded, padded}, true);
      }
    }
    for (int64_t i = 0; i < queries; ++i) store_row(h.packed(dqkv, 0, q0 + i), m.dq + i * padded, size, s.scale);
  }
  for (int64_t r = 0; r < length; ++r) {
    store_row(h.packed(dqkv, 1, r), m.dk + r * padded, size);
    store_row(h.packed(dqkv, 2, r), m.dv + r * padded, size);
  }
}

/// Calls body(head, memory) for every head of every row of the batch.
template <class Memory, class Body>
void for_each_head(const Queue& q, const AttentionShape& s, Body body) {
  const int64_t floats = Memory(s, nullptr).floats;
  float* workspace = q.cpu->workspace(omp_get_max_threads(), floats);
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < s.batch * s.heads; ++i)
    body(Head{s, i / s.heads, i % s.heads}, Memory(s, workspace + omp_get_thread_num() * floats));
}

}  // namespace

void attention(const Queue& q, const AttentionShape& s, View y, View log_sum, View qkv, RandomKey key) {
  visit_float(qkv.dtype, [&]<class T>() {
    for_each_head<ForwardMemory>(
        q, s,
        [&, y = y.as<T>(), log_sum = log_sum.as<float>(), qkv = qkv.as<T>()](const Head& head, const ForwardMemory& memory) {
          forward<T>(head, y, log_sum, qkv, key, memory);
        });
  });
}

void attention_backward(const Queue& q, const AttentionShape& s, View dqkv, View dy, View y, View log_sum, View qkv,
                        RandomKey key, View) {
  visit_float(qkv.dtype, [&]<class T>() {
    for_each_head<BackwardMemory>(
        q, s,
        [&, dqkv = dqkv.as<T>(), dy = dy.as<T>(), y = y.as<T>(), log_sum = log_sum.as<float>(), qkv = qkv.as<T>()](
            const Head& head, const BackwardMemory& memory) { backward<T>(head, dqkv, dy, y, log_sum, qkv, key, memory); });
  });
}

}  // namespace lockstep::kernels::cpu
