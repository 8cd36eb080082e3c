// Attention in tiles on a GPU (Dao 2023): a block holds `tile` rows of queries or keys in shared memory and walks over the other
// side. Every sum has one owner and one order, so results repeat. Arithmetic is f32.

#include "kernels/base/launch.h"
#include "kernels/vendor.h"

namespace lockstep::kernels::cuda {
namespace {

using std::int64_t;

constexpr int threads = 128;
constexpr std::size_t shared_limit = 48 * 1024;  // what every GPU gives without asking

/// What all kernels share. `head` counts (batch, head).
template <class T>
struct Problem {
  AttentionShape s;
  RandomKey key;
  int tile;
  const T* qkv;
  const T* dy;
  const float* log_sum;
  const float* delta;

  __device__ int64_t length() const { return s.length; }
  __device__ int64_t width() const { return s.heads * s.size; }
  /// Row i of q (part 0), k (1) or v (2).
  __device__ int64_t packed(int64_t head, int64_t part, int64_t i) const {
    return ((head / s.heads * s.length + i) * 3 + part) * width() + head % s.heads * s.size;
  }
  __device__ int64_t row(int64_t head, int64_t i) const {
    return (head / s.heads * s.length + i) * width() + head % s.heads * s.size;
  }
  __device__ bool visible(int64_t i, int64_t j) const { return i < s.length && j < s.length && (!s.causal || j <= i); }
  /// 0 or 1 / (1 - p) for one attention weight.
  __device__ float dropped(int64_t head, int64_t i, int64_t j) const {
    if (s.dropout == 0) return 1;
    auto element = std::uint64_t((head * s.length + i) * s.length + j);
    return to_uniform(random_word(key, element)) < s.dropout ? 0.f : 1 / (1 - s.dropout);
  }
};

/// A tile of rows in shared memory. Rows are one float longer than they need, so that a column does not fall on one bank.
struct Tile {
  float* data;
  int columns;
  __device__ float& operator()(int r, int c) const { return data[r * (columns + 1) + c]; }
  static __host__ __device__ int floats(int rows, int columns) { return rows * (columns + 1); }
};

/// Hands out shared memory.
struct Carver {
  float* next;
  __device__ Tile take(int rows, int columns) {
    Tile t{next, columns};
    next += Tile::floats(rows, columns);
    return t;
  }
};

/// for every (r, c) of a tile, shared by the threads of a block
template <class F>
__device__ void each(int rows, int columns, F f) {
  for (int i = threadIdx.x; i < rows * columns; i += threads) f(i / columns, i % columns);
}

/// Rows [first, first + tile) of what at(i) points to; zero beyond the length.
template <class T, class At>
__device__ void load(const Problem<T>& p, Tile to, const T* from, int64_t first, float factor, At at) {
  each(p.tile, int(p.s.size),
       [&](int r, int c) { to(r, c) = first + r < p.length() ? float(from[at(first + r) + c]) * factor : 0.f; });
}

__device__ float dot(Tile a, int i, Tile b, int j, int n) {
  float sum = 0;
  for (int d = 0; d < n; ++d) sum += a(i, d) * b(j, d);
  return sum;
}

template <class T>
__global__ void __launch_bounds__(threads) forward(Problem<T> p, T* y, float* log_sum) {
  extern __shared__ float memory[];
  Carver carver{memory};
  const int tile = p.tile, size = int(p.s.size);
  const int64_t head = blockIdx.y, q0 = int64_t(blockIdx.x) * tile;
  Tile q = carver.take(tile, size), k = carver.take(tile, size), v = carver.take(tile, size), out = carver.take(tile, size);
  Tile weights = carver.take(tile, tile);
  float *most = carver.next, *total = most + tile, *correction = total + tile;

  load(p, q, p.qkv, q0, p.s.scale, [&](int64_t i) { return p.packed(head, 0, i); });
  each(tile, size, [&](int r, int c) { out(r, c) = 0; });
  for (int r = threadIdx.x; r < tile; r += threads) {
    most[r] = -INFINITY;
    total[r] = 0;
  }
  const int64_t end = p.s.causal && q0 + tile < p.length() ? q0 + tile : p.length();
  for (int64_t k0 = 0; k0 < end; k0 += tile) {
    __syncthreads();
    load(p, k, p.qkv, k0, 1, [&](int64_t j) { return p.packed(head, 1, j); });
    load(p, v, p.qkv, k0, 1, [&](int64_t j) { return p.packed(head, 2, j); });
    __syncthreads();
    each(tile, tile, [&](int i, int j) { weights(i, j) = p.visible(q0 + i, k0 + j) ? dot(q, i, k, j, size) : -INFINITY; });
    __syncthreads();
    for (int i = threadIdx.x; i < tile; i += threads) {
      float before = most[i], largest = before, sum = 0;
      for (int j = 0; j < tile; ++j) largest = fmaxf(largest, weights(i, j));
      // A row beyond the length sees nothing and is not stored.
      float shift = largest == -INFINITY ? 0 : largest;
      for (int j = 0; j < tile; ++j) {
        float w = math::exp(weights(i, j) - shift);
        sum += w;
        weights(i, j) = w == 0 ? 0 : w * p.dropped(head, q0 + i, k0 + j);
      }
      correction[i] = math::exp(before - shift);
      total[i] = total[i] * correction[i] + sum;
      most[i] = largest;
    }
    __syncthreads();
    each(tile, size, [&](int i, int d) {
      float sum = out(i, d) * correction[i];
      for (int j = 0; j < tile; ++j) sum += weights(i, j) * v(j, d);
      out(i, d) = sum;
    });
  }
  __syncthreads();
  each(tile, size, [&](int i, int d) {
    if (q0 + i < p.length()) y[p.row(head, q0 + i) + d] = T(out(i, d) / total[i]);
  });
  for (int i = threadIdx.x; i < tile; i += threads)
    if (q0 + i < p.length()) log_sum[head * p.length() + q0 + i] = most[i] + math::log(total[i]);
}

/// delta = sum of dy * y over a row of a head.
template <class T>
struct Delta {
  Problem<T> p;
  const T* y;
  float* delta;
  HD void operator()(int64_t row) const {
    const int64_t heads = p.s.heads, size = p.s.size;
    const T* up = p.dy + row * size;  // rows of dy and y are (batch, length, head)
    const T* out = y + row * size;
    float sum = 0;
    for (int64_t d = 0; d < size; ++d) sum += float(up[d]) * float(out[d]);
    const int64_t head = row % heads, i = row / heads % p.s.length, batch = row / heads / p.s.length;
    delta[(batch * heads + head) * p.s.length + i] = sum;
  }
};

/// weights(i, j) = the probability after dropout, scores(i, j) = the gradient of the score, for one pair of tiles.
template <class T>
__device__ void score_gradients(const Problem<T>& p, int64_t head, int64_t q0, int64_t k0, Tile q, Tile dy, Tile k, Tile v,
                                Tile weights, Tile scores) {
  const int size = int(p.s.size);
  each(p.tile, p.tile, [&](int i, int j) {
    float w = 0, g = 0;
    if (p.visible(q0 + i, k0 + j)) {
      const int64_t at = head * p.length() + q0 + i;
      float probability = math::exp(dot(q, i, k, j, size) - p.log_sum[at]), factor = p.dropped(head, q0 + i, k0 + j);
      w = probability * factor;
      g = probability * (dot(dy, i, v, j, size) * factor - p.delta[at]);
    }
    weights(i, j) = w;
    scores(i, j) = g;
  });
}

template <class T>
__global__ void __launch_bounds__(threads) backward_queries(Problem<T> p, T* dqkv) {
  extern __shared__ float memory[];
  Carver carver{memory};
  const int tile = p.tile, size = int(p.s.size);
  const int64_t head = blockIdx.y, q0 = int64_t(blockIdx.x) * tile;
  Tile q = carver.take(tile, size), dy = carver.take(tile, size), k = carver.take(tile, size), v = carver.take(tile, size);
  Tile dq = carver.take(tile, size), weights = carver.take(tile, tile), scores = carver.take(tile, tile);

  load(p, q, p.qkv, q0, p.s.scale, [&](int64_t i) { return p.packed(head, 0, i); });
  load(p, dy, p.dy, q0, 1, [&](int64_t i) { return p.row(head, i); });
  each(tile, size, [&](int i, int d) { dq(i, d) = 0; });
  const int64_t end = p.s.causal && q0 + tile < p.length() ? q0 + tile : p.length();
  for (int64_t k0 = 0; k0 < end; k0 += tile) {
    __syncthreads();
    load(p, k, p.qkv, k0, 1, [&](int64_t j) { return p.packed(head, 1, j); });
    load(p, v, p.qkv, k0, 1, [&](int64_t j) { return p.packed(head, 2, j); });
    __syncthreads();
    score_gradients(p, head, q0, k0, q, dy, k, v, weights, scores);
    __syncthreads();
    each(tile, size, [&](int i, int d) {
      float sum = dq(i, d);
      for (int j = 0; j < tile; ++j) sum += scores(i, j) * k(j, d);
      dq(i, d) = sum;
    });
  }
  each(tile, size, [&](int i, int d) {
    if (q0 + i < p.length()) dqkv[p.packed(head, 0, q0 + i) + d] = T(dq(i, d) * p.s.scale);
  });
}

template <class T>
__global__ void __launch_bounds__(threads) backward_keys(Problem<T> p, T* dqkv) {
  extern __shared__ float memory[];
  Carver carver{memory};
  const int tile = p.tile, size = int(p.s.size);
  const int64_t head = blockIdx.y, k0 = int64_t(blockIdx.x) * tile;
  Tile q = carver.take(tile, size), dy = carver.take(tile, size), k = carver.take(tile, size), v = carver.take(tile, size);
  Tile dk = carver.take(tile, size), dv = carver.take(tile, size);
  Tile weights = carver.take(tile, tile), scores = carver.take(tile, tile);

  load(p, k, p.qkv, k0, 1, [&](int64_t j) { return p.packed(head, 1, j); });
  load(p, v, p.qkv, k0, 1, [&](int64_t j) { return p.packed(head, 2, j); });
  each(tile, size, [&](int j, int d) { dk(j, d) = dv(j, d) = 0; });
  for (int64_t q0 = p.s.causal ? k0 : 0; q0 < p.length(); q0 += tile) {
    __syncthreads();
    load(p, q, p.qkv, q0, p.s.scale, [&](int64_t i) { return p.packed(head, 0, i); });
    load(p, dy, p.dy, q0, 1, [&](int64_t i) { return p.row(head, i); });
    __syncthreads();
    score_gradients(p, head, q0, k0, q, dy, k, v, weights, scores);
    __syncthreads();
    each(tile, size, [&](int j, int d) {
      float to_k = dk(j, d), to_v = dv(j, d);
      for (int i = 0; i < tile; ++i) {
        to_k += scores(i, j) * q(i, d);
        to_v += weights(i, j) * dy(i, d);
      }
      dk(j, d) = to_k;
      dv(j, d) = to_v;
    });
  }
  each(tile, size, [&](int j, int d) {
    if (k0 + j >= p.length()) return;
    dqkv[p.packed(head, 1, k0 + j) + d] = T(dk(j, d));
    dqkv[p.packed(head, 2, k0 + j) + d] = T(dv(j, d));
  });
}

/// The largest tile with which `wide` tiles of (tile, size), `square` ones of (tile, tile) and three numbers a row fit.
int choose_tile(int64_t size, int wide, int square, std::size_t& bytes) {
  for (int tile = 32; tile >= 1; tile /= 2) {
    bytes =
        sizeof(float) * (std::size_t(wide) * tile * std::size_t(size + 1) + std::size_t(square) * tile * (tile + 1) + 3 * tile);
    if (bytes <= shared_limit) return tile;
  }
  fail(Exit::usage, "attention: heads of {} are larger than the {} that fit on this GPU",
       {size, shared_limit / sizeof(float) / 6 - 4});
}

/// Launches `kernel` with a block for every tile of every head.
template <class T, class... A>
void launch(const Queue& q, Problem<T>& p, int wide, int square, void (*kernel)(Problem<T>, A...), A... outputs) {
  std::size_t bytes = 0;
  p.tile = choose_tile(p.s.size, wide, square, bytes);
  const int64_t heads = p.s.batch * p.s.heads;
  require(heads <= 65535, "attention: {} heads in a batch are more than the 65535 of one launch; use smaller batches", heads);
  dim3 grid(unsigned((p.s.length + p.tile - 1) / p.tile), unsigned(heads));
  kernel<<<grid, threads, bytes, q.stream>>>(p, outputs...);
  check(cudaGetLastError());
}

}  // namespace

void attention(const Queue& q, const AttentionShape& s, View y, View log_sum, View qkv, RandomKey key) {
  visit_float(qkv.dtype, [&]<class T>() {
    Problem<T> p{s, key, 0, qkv.as<T>(), nullptr, nullptr, nullptr};
    launch(q, p, 4, 1, forward<T>, y.as<T>(), log_sum.as<float>());
  });
}

void attention_backward(const Queue& q, const AttentionShape& s, View dqkv, View dy, View y, View log_sum, View qkv,
                        RandomKey key, View scratch) {
  visit_float(qkv.dtype, [&]<class T>() {
    auto* delta = static_cast<float*>(scratch.data);
    Problem<T> p{s, key, 0, qkv.as<T>(), dy.as<T>(), log_sum.as<float>(), delta};
    for_each(q, s.batch * s.length * s.heads, Delta<T>{p, y.as<T>(), delta});
    launch(q, p, 5, 2, backward_queries<T>, dqkv.as<T>());
    launch(q, p, 6, 2, backward_keys<T>, dqkv.as<T>());
  });
}

}  // namespace lockstep::kernels::cuda
