// Attention in tiles (Dao et al. 2022, Dao 2023): softmax is accumulated key block by key block, and backward computes the
// probabilities again from log_sum. One thread works on one head of one row of the batch, so results do not depend on the number
// of threads. Tiles are f32 whatever the storage.

#include <omp.h>

#include <algorithm>
#include <cmath>

#include "kernels/attention_tiles_cpu.h"
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
template <class T>
struct Head {
  const AttentionShape& s;
  int64_t batch, head;
  /// Row i of q (part 0), k (1) or v (2) in the packed rows.
  T* packed(View qkv, int64_t part, int64_t i) const {
    return qkv.as<T>() + ((batch * s.length + i) * 3 + part) * s.width() + head * s.size;
  }
  T* row(View y, int64_t i) const { return y.as<T>() + (batch * s.length + i) * s.width() + head * s.size; }
  float* sums(View log_sum) const { return log_sum.as<float>() + (batch * s.heads + head) * s.length; }
  /// How many of the keys [k0, k0 + n) the query `row` may see.
  int64_t visible(int64_t row, int64_t k0, int64_t n) const { return s.causal ? std::clamp<int64_t>(row + 1 - k0, 0, n) : n; }
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

/// Rows [0, length) of k or v turned on their side: panels of `panel` rows, in which element (d, row) is at d * panel + row.
template <class T>
void load_transposed(float* to, const Head<T>& h, View qkv, int64_t part) {
  const int64_t size = h.s.size, length = h.s.length;
  for (int64_t r0 = 0; r0 < length; r0 += panel, to += size * panel) {
    int64_t rows = std::min(panel, length - r0);
    for (int64_t r = 0; r < rows; ++r) {
      const T* from = h.packed(qkv, part, r0 + r);
      for (int64_t d = 0; d < size; ++d) to[d * panel + r] = float(from[d]);
    }
    for (int64_t d = 0; d < size; ++d) std::fill(to + d * panel + rows, to + (d + 1) * panel, 0.f);
  }
}

/// factors[c] = 0 or 1 / (1 - p) for n columns of an attention row whose first element has index `first`; writes up to 3 more.
void dropout_factors(float* factors, int64_t n, const RandomKey& key, std::uint64_t first, float p) {
  const float kept = 1 / (1 - p);
  const int64_t ahead = int64_t(first % 4), blocks = (ahead + n + 3) / 4;
  const std::uint64_t block0 = first / 4;
  float* out = factors - ahead;
#pragma omp simd
  for (int64_t i = 0; i < blocks; ++i) {
    Random4 r = random_words(key, block0 + std::uint64_t(i));
    out[4 * i] = to_uniform(r.x) < p ? 0 : kept;
    out[4 * i + 1] = to_uniform(r.y) < p ? 0 : kept;
    out[4 * i + 2] = to_uniform(r.z) < p ? 0 : kept;
    out[4 * i + 3] = to_uniform(r.w) < p ? 0 : kept;
  }
}

/// Largest of scores[0, n).
float largest(const float* scores, int64_t n) {
  float most = -INFINITY;
#pragma omp simd reduction(max : most)
  for (int64_t c = 0; c < n; ++c) most = std::max(most, scores[c]);
  return most;
}

/// scores[c] = exp(scores[c] - shift), 0 from `valid` on; gives their sum. n is a multiple of `width`.
float exponentials(float* scores, int64_t valid, int64_t n, float shift) {
  float total = 0;
#pragma omp simd reduction(+ : total)
  for (int64_t c = 0; c < n; ++c) {
    float p = math::exp(scores[c] - shift);
    p = c < valid ? p : 0.f;
    scores[c] = p;
    total += p;
  }
  return total;
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
    factors = pieces.take(forward_keys + 16) + 8;
    floats = pieces.used;
  }
};

template <class T>
void forward(const Head<T>& h, View y, View log_sum, View qkv, const RandomKey& key, const ForwardMemory& m) {
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
          const int64_t valid = h.visible(q0 + i, k0, keys);
          const float before = most[i];
          most[i] = std::max(before, largest(p, valid));
          const float correction = k0 == 0 ? 0.f : math::exp(before - most[i]);
          total[i] = total[i] * correction + exponentials(p, valid, seen_vectors * width, most[i]);
          float* out = m.y + i * m.padded;
          if (k0 > 0)
            for (int64_t d = 0; d < m.padded; ++d) out[d] *= correction;
          if (s.dropout > 0) {
            auto first = std::uint64_t(((h.batch * s.heads + h.head) * length + q0 + i) * length + k0);
            dropout_factors(m.factors, valid, key, first, s.dropout);
            for (int64_t c = 0; c < valid; ++c) p[c] *= m.factors[c];
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
    factors = pieces.take(backward_keys + 16) + 8;
    floats = pieces.used;
  }
};

/// p = probabilities after dropout, ds = p * (dp - delta) before it, from p = scores and ds = dp; 0 from `valid` on.
void score_gradients(float* p, float* ds, const float* factors, int64_t valid, int64_t n, float log_sum, float delta) {
  if (factors) {
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) {
      float probability = math::exp(p[c] - log_sum), d = probability * (ds[c] * factors[c] - delta);
      ds[c] = c < valid ? d : 0.f;
      p[c] = c < valid ? probability * factors[c] : 0.f;
    }
  } else {
#pragma omp simd
    for (int64_t c = 0; c < n; ++c) {
      float probability = math::exp(p[c] - log_sum), d = probability * (ds[c] - delta);
      ds[c] = c < valid ? d : 0.f;
      p[c] = c < valid ? probability : 0.f;
    }
  }
}

template <class T>
void backward(const Head<T>& h, View dqkv, View dy, View y, View log_sum, View qkv, const RandomKey& key,
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
          if (s.dropout > 0) {
            auto first = std::uint64_t(((h.batch * s.heads + h.head) * length + q0 + i) * length + k0);
            dropout_factors(m.factors, n, key, first, s.dropout);
          }
          score_gradients(p, ds, s.dropout > 0 ? m.factors : nullptr, valid, n, h.sums(log_sum)[q0 + i], delta[i]);
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
template <class T, class Memory, class Body>
void for_each_head(const Queue& q, const AttentionShape& s, Body body) {
  const int64_t floats = Memory(s, nullptr).floats;
  float* workspace = q.cpu->workspace(omp_get_max_threads(), floats);
#pragma omp parallel for schedule(static)
  for (int64_t i = 0; i < s.batch * s.heads; ++i)
    body(Head<T>{s, i / s.heads, i % s.heads}, Memory(s, workspace + omp_get_thread_num() * floats));
}

}  // namespace

void attention(const Queue& q, const AttentionShape& s, View y, View log_sum, View qkv, RandomKey key) {
  visit_float(qkv.dtype, [&]<class T>() {
    for_each_head<T, ForwardMemory>(
        q, s, [&](const Head<T>& head, const ForwardMemory& memory) { forward(head, y, log_sum, qkv, key, memory); });
  });
}

void attention_backward(const Queue& q, const AttentionShape& s, View dqkv, View dy, View y, View log_sum, View qkv,
                        RandomKey key, View) {
  visit_float(qkv.dtype, [&]<class T>() {
    for_each_head<T, BackwardMemory>(
        q, s, [&](const Head<T>& head, const BackwardMemory& memory) { backward(head, dqkv, dy, y, log_sum, qkv, key, memory); });
  });
}

}  // namespace lockstep::kernels::cpu
