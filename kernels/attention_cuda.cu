// Attention in tiles on a GPU (Dao et al. 2022, Dao 2023). A block owns a tile of queries, or of keys, of one head and walks over
// the tiles of the other side in shared memory; each thread keeps its part of the sums in registers. Every sum has one owner and
// one order, so results repeat. Tiles and arithmetic are f32 whatever the storage.

#include "kernels/attention_cudnn.h"
#include "kernels/base/launch.h"
#include "kernels/vendor.h"

namespace lockstep::kernels::cuda {
namespace {

using std::int64_t;

/// A block has side x side threads. Thread (x, y) works on rows y, y + side, … of its tile.
constexpr int side = 16;

/// Heads of up to `width` numbers in tiles of `per_thread` rows a thread.
template <int width, int per_thread>
struct Tiling {
  static constexpr int columns = width, per = per_thread, rows = side * per;
  static constexpr int fours = columns / (4 * side);  ///< groups of four columns of a row that a thread adds up
  // Rows lie four floats further apart than they are long, so that 16 bytes of eight neighbouring rows are in different banks.
  static constexpr int pitch = columns + 4, weights_pitch = rows + 4;
  static constexpr std::size_t tile_floats = std::size_t(rows) * pitch, weights_floats = std::size_t(rows) * weights_pitch;
  static constexpr std::size_t bytes(int tiles) { return sizeof(float) * (std::size_t(tiles) * tile_floats + weights_floats); }
};
constexpr int widest = 512;

template <class T>
struct alignas(4 * sizeof(T)) Four {
  T v[4];
};

/// The rows of q, k, v, y or dy (or gradients) that belong to one head: row i begins at data + i * stride.
template <class T>
struct Rows {
  T* data;
  int64_t stride, count;
  int size;      ///< numbers in a row
  bool aligned;  ///< four at a time
};

/// What all kernels share. `head` counts (batch, head).
struct Problem {
  AttentionShape s;
  RandomKey key;
  int64_t tiles;  ///< in the length
  bool aligned;

  __device__ int64_t width() const { return s.heads * s.size; }
  /// q (part 0), k (1) or v (2) in the packed rows.
  template <class T>
  __device__ Rows<T> packed(T* qkv, int64_t head, int64_t part) const {
    int64_t stride = 3 * width();
    return {qkv + head / s.heads * s.length * stride + part * width() + head % s.heads * s.size, stride, s.length, int(s.size),
            aligned};
  }
  template <class T>
  __device__ Rows<T> plain(T* y, int64_t head) const {
    return {y + head / s.heads * s.length * width() + head % s.heads * s.size, width(), s.length, int(s.size), aligned};
  }
  __device__ bool visible(int64_t query, int64_t key) const {
    return query < s.length && key < s.length && (!s.causal || key <= query);
  }
  /// 0 or 1 / (1 - p) for one attention weight.
  __device__ float dropped(int64_t head, int64_t query, int64_t key_row) const {
    if (s.dropout == 0) return 1;
    auto element = std::uint64_t((head * s.length + query) * s.length + key_row);
    return to_uniform(random_word(key.settled(), element)) < s.dropout ? 0.f : 1 / (1 - s.dropout);
  }
};

/// Rows [first, first + Tiles::rows) times `factor`; zero where there are none. By all threads of the block.
template <class Tiles, class T>
__device__ void load(float* tile, Rows<const T> from, int64_t first, float factor = 1) {
  constexpr int groups = Tiles::columns / 4;
  for (int i = threadIdx.y * side + threadIdx.x; i < Tiles::rows * groups; i += side * side) {
    const int row = i / groups, column = i % groups * 4;
    float4 values{0, 0, 0, 0};
    if (first + row < from.count && column < from.size) {
      const T* at = from.data + (first + row) * from.stride + column;
      Four<T> four{};
      if (from.aligned)
        four = *reinterpret_cast<const Four<T>*>(at);
      else
        for (int c = 0; c < 4; ++c) four.v[c] = column + c < from.size ? at[c] : T(0.f);
      values = {float(four.v[0]) * factor, float(four.v[1]) * factor, float(four.v[2]) * factor, float(four.v[3]) * factor};
    }
    *reinterpret_cast<float4*>(tile + row * Tiles::pitch + column) = values;
  }
}

/// A thread's part of sums over rows: rows y + side * i, columns 4 * (x + side * g) and the three behind.
template <class Tiles>
struct Sums4 {
  float4 v[Tiles::per][Tiles::fours] = {};

  __device__ void scale_row(int i, float factor) {
#pragma unroll
    for (float4& s : v[i]) s = {s.x * factor, s.y * factor, s.z * factor, s.w * factor};
  }
  /// += weights (rows x rows) times tile (rows x columns).
  __device__ void add_product(const float* weights, const float* tile) {
#pragma unroll 2
    for (int k = 0; k < Tiles::rows; k += 4) {
      float w[Tiles::per][4];
#pragma unroll
      for (int i = 0; i < Tiles::per; ++i) {
        float4 four = *reinterpret_cast<const float4*>(weights + (threadIdx.y + side * i) * Tiles::weights_pitch + k);
        w[i][0] = four.x, w[i][1] = four.y, w[i][2] = four.z, w[i][3] = four.w;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int g = 0; g < Tiles::fours; ++g) {
          float4 t = *reinterpret_cast<const float4*>(tile + (k + j) * Tiles::pitch + 4 * (threadIdx.x + side * g));
#pragma unroll
          for (int i = 0; i < Tiles::per; ++i) {
            float4& s = v[i][g];
            s = {s.x + w[i][j] * t.x, s.y + w[i][j] * t.y, s.z + w[i][j] * t.z, s.w + w[i][j] * t.w};
          }
        }
    }
  }
  /// Writes row i times `factor` to row `row`, which may lie beyond the last.
  template <class T>
  __device__ void store(Rows<T> to, int i, int64_t row, float factor) const {
    if (row >= to.count) return;
    for (int g = 0; g < Tiles::fours; ++g) {
      const int column = 4 * (threadIdx.x + side * g);
      if (column >= to.size) return;
      const float4& s = v[i][g];
      Four<T> four{{T(s.x * factor), T(s.y * factor), T(s.z * factor), T(s.w * factor)}};
      T* at = to.data + row * to.stride + column;
      if (to.aligned)
        *reinterpret_cast<Four<T>*>(at) = four;
      else
        for (int c = 0; c < 4 && column + c < to.size; ++c) at[c] = four.v[c];
    }
  }
};

/// A thread's scores: (i, j) is row y + side * i of tile a times row x + side * j of tile b.
template <class Tiles>
struct Scores {
  float v[Tiles::per][Tiles::per] = {};

  __device__ Scores(const float* a, const float* b, int size) {
#pragma unroll 2
    for (int d = 0; d < size; d += 4) {
      float4 from_b[Tiles::per];
#pragma unroll
      for (int j = 0; j < Tiles::per; ++j)
        from_b[j] = *reinterpret_cast<const float4*>(b + (threadIdx.x + side * j) * Tiles::pitch + d);
#pragma unroll
      for (int i = 0; i < Tiles::per; ++i) {
        const float4 from_a = *reinterpret_cast<const float4*>(a + (threadIdx.y + side * i) * Tiles::pitch + d);
#pragma unroll
        for (int j = 0; j < Tiles::per; ++j)
          v[i][j] += from_a.x * from_b[j].x + from_a.y * from_b[j].y + from_a.z * from_b[j].z + from_a.w * from_b[j].w;
      }
    }
  }
  /// Makes them readable as weights. Rows belong to half a warp, which is all that must wait.
  __device__ void share(float* weights) const {
    __syncwarp();  // earlier ones have been read
#pragma unroll
    for (int i = 0; i < Tiles::per; ++i)
#pragma unroll
      for (int j = 0; j < Tiles::per; ++j)
        weights[(threadIdx.y + side * i) * Tiles::weights_pitch + threadIdx.x + side * j] = v[i][j];
    __syncwarp();
  }
};

/// Over the threads that share a row.
template <class Combine>
__device__ float over_row(float v, Combine combine) {
  for (int o = side / 2; o; o /= 2) v = combine(v, __shfl_xor_sync(~0u, v, o));
  return v;
}

template <class T, class Tiles>
__global__ void __launch_bounds__(side* side) forward(Problem p, T* y, float* log_sum, const T* qkv) {
  float* q = reinterpret_cast<float*>(dynamic_memory());
  float *k = q + Tiles::tile_floats, *v = k + Tiles::tile_floats, *weights = v + Tiles::tile_floats;
  // The last queries see the most keys: they begin first.
  const int64_t head = blockIdx.x / p.tiles, q0 = (p.tiles - 1 - blockIdx.x % p.tiles) * Tiles::rows;
  load<Tiles>(q, p.packed(qkv, head, 0), q0, p.s.scale);

  Sums4<Tiles> out;
  float most[Tiles::per], total[Tiles::per] = {};
  for (float& m : most) m = -INFINITY;
  const int64_t end = p.s.causal && q0 + Tiles::rows < p.s.length ? q0 + Tiles::rows : p.s.length;
  for (int64_t k0 = 0; k0 < end; k0 += Tiles::rows) {
    __syncthreads();  // the tiles before these have been read
    load<Tiles>(k, p.packed(qkv, head, 1), k0);
    load<Tiles>(v, p.packed(qkv, head, 2), k0);
    __syncthreads();
    Scores<Tiles> w(q, k, int(p.s.size));
#pragma unroll
    for (int i = 0; i < Tiles::per; ++i) {
      // A row beyond the length computes what the last one does, for no one.
      const int64_t row = q0 + threadIdx.y + side * i, query = row < p.s.length ? row : p.s.length - 1;
      const float before = most[i];
      float largest = before, sum = 0;
#pragma unroll
      for (int j = 0; j < Tiles::per; ++j)
        if (p.visible(query, k0 + threadIdx.x + side * j)) largest = fmaxf(largest, w.v[i][j]);
      most[i] = over_row(largest, [](float a, float b) { return fmaxf(a, b); });
#pragma unroll
      for (int j = 0; j < Tiles::per; ++j) {
        const int64_t key_row = k0 + threadIdx.x + side * j;
        const float e = p.visible(query, key_row) ? math::exp_nonpositive(w.v[i][j] - most[i]) : 0.f;
        sum += e;
        w.v[i][j] = e * p.dropped(head, query, key_row);
      }
      const float correction = math::exp_nonpositive(before - most[i]);
      total[i] = total[i] * correction + over_row(sum, [](float a, float b) { return a + b; });
      out.scale_row(i, correction);
    }
    w.share(weights);
    out.add_product(weights, v);
  }
#pragma unroll
  for (int i = 0; i < Tiles::per; ++i) {
    const int64_t row = q0 + threadIdx.y + side * i;
    out.store(p.plain(y, head), i, row, 1 / total[i]);
    if (threadIdx.x == 0 && row < p.s.length) log_sum[head * p.s.length + row] = most[i] + math::log(total[i]);
  }
}

/// delta = sum of dy * y over a row of a head; rows are (batch, length, head), deltas (batch, head, length).
template <class T>
struct Delta {
  AttentionShape s;
  const T* dy;
  const T* y;
  float* delta;
  template <class Team>
  HD void operator()(Team team, int64_t row) const {
    const T *up = dy + row * s.size, *out = y + row * s.size;
    float sum = team.sum(s.size, [=](int64_t d) { return float(up[d]) * float(out[d]); });
    const int64_t head = row % s.heads, i = row / s.heads % s.length, batch = row / s.heads / s.length;
    if (team.first()) delta[(batch * s.heads + head) * s.length + i] = sum;
  }
};

/// What backward knows of a query: its log_sum and its delta.
struct Statistics {
  const float* log_sum;
  const float* delta;
};

/// From a score and the gradient of its weight after dropout: the weight after dropout, and the gradient of the score.
__device__ inline void differentiate(const Problem& p, const Statistics& known, int64_t head, int64_t query, int64_t key_row,
                                     float& score, float& gradient) {
  if (!p.visible(query, key_row)) {
    score = gradient = 0;
    return;
  }
  const int64_t at = head * p.s.length + query;
  const float probability = math::exp_nonpositive(score - known.log_sum[at]), factor = p.dropped(head, query, key_row);
  score = probability * factor;
  gradient = probability * (gradient * factor - known.delta[at]);
}

template <class T, class Tiles>
__global__ void __launch_bounds__(side* side) backward_queries(Problem p, T* dqkv, const T* dy, const T* qkv, Statistics known) {
  float* q = reinterpret_cast<float*>(dynamic_memory());
  float *up = q + Tiles::tile_floats, *k = up + Tiles::tile_floats, *v = k + Tiles::tile_floats,
        *weights = v + Tiles::tile_floats;
  const int64_t head = blockIdx.x / p.tiles, q0 = (p.tiles - 1 - blockIdx.x % p.tiles) * Tiles::rows;
  load<Tiles>(q, p.packed(qkv, head, 0), q0, p.s.scale);
  load<Tiles>(up, p.plain(dy, head), q0);

  Sums4<Tiles> dq;
  const int64_t end = p.s.causal && q0 + Tiles::rows < p.s.length ? q0 + Tiles::rows : p.s.length;
  for (int64_t k0 = 0; k0 < end; k0 += Tiles::rows) {
    __syncthreads();  // the tiles before these have been read
    load<Tiles>(k, p.packed(qkv, head, 1), k0);
    load<Tiles>(v, p.packed(qkv, head, 2), k0);
    __syncthreads();
    Scores<Tiles> w(q, k, int(p.s.size)), g(up, v, int(p.s.size));
#pragma unroll
    for (int i = 0; i < Tiles::per; ++i)
#pragma unroll
      for (int j = 0; j < Tiles::per; ++j)
        differentiate(p, known, head, q0 + threadIdx.y + side * i, k0 + threadIdx.x + side * j, w.v[i][j], g.v[i][j]);
    g.share(weights);
    dq.add_product(weights, k);
  }
#pragma unroll
  for (int i = 0; i < Tiles::per; ++i) dq.store(p.packed(dqkv, head, 0), i, q0 + threadIdx.y + side * i, p.s.scale);
}

template <class T, class Tiles>
__global__ void __launch_bounds__(side* side) backward_keys(Problem p, T* dqkv, const T* dy, const T* qkv, Statistics known) {
  float* q = reinterpret_cast<float*>(dynamic_memory());
  float *up = q + Tiles::tile_floats, *k = up + Tiles::tile_floats, *v = k + Tiles::tile_floats,
        *weights = v + Tiles::tile_floats;
  const int64_t head = blockIdx.x / p.tiles, k0 = blockIdx.x % p.tiles * Tiles::rows;
  load<Tiles>(k, p.packed(qkv, head, 1), k0);
  load<Tiles>(v, p.packed(qkv, head, 2), k0);

  Sums4<Tiles> dk, dv;
  for (int64_t q0 = p.s.causal ? k0 : 0; q0 < p.s.length; q0 += Tiles::rows) {
    __syncthreads();  // the tiles before these have been read
    load<Tiles>(q, p.packed(qkv, head, 0), q0, p.s.scale);
    load<Tiles>(up, p.plain(dy, head), q0);
    __syncthreads();
    Scores<Tiles> w(k, q, int(p.s.size)), g(v, up, int(p.s.size));  // rows are keys here, columns queries
#pragma unroll
    for (int i = 0; i < Tiles::per; ++i)
#pragma unroll
      for (int j = 0; j < Tiles::per; ++j)
        differentiate(p, known, head, q0 + threadIdx.x + side * j, k0 + threadIdx.y + side * i, w.v[i][j], g.v[i][j]);
    w.share(weights);
    dv.add_product(weights, up);
    g.share(weights);
    dk.add_product(weights, q);
  }
#pragma unroll
  for (int i = 0; i < Tiles::per; ++i) {
    const int64_t row = k0 + threadIdx.y + side * i;
    dk.store(p.packed(dqkv, head, 1), i, row, 1);
    dv.store(p.packed(dqkv, head, 2), i, row, 1);
  }
}

/// Calls f.operator()<Tiling>() with the largest tiles of which `tiles` fit into the GPU's shared memory.
template <class F>
void visit_tiling(int64_t size, int tiles, F&& f) {
  int device = 0, most = 0;
  check(cudaGetDevice(&device));
  check(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  auto fits = [&]<class Tiles>() { return size <= Tiles::columns && Tiles::bytes(tiles) <= std::size_t(most); };
  auto with = [&]<class Tiles>() {
    bool fit = fits.template operator()<Tiles>();
    if (fit) f.template operator()<Tiles>();
    return fit;
  };
  bool done = with.template operator()<Tiling<64, 4>>() || with.template operator()<Tiling<128, 4>>() ||
              with.template operator()<Tiling<128, 2>>() || with.template operator()<Tiling<256, 2>>() ||
              with.template operator()<Tiling<256, 1>>() || with.template operator()<Tiling<widest, 1>>();
  require(Exit::usage, done,
          "attention: heads of {} numbers do not fit into this GPU's shared memory; use more and smaller heads, up to {}", size,
          std::size_t(most) >= Tiling<widest, 1>::bytes(tiles) ? widest : 256);
}

template <class Tiles, class... P, class... A>
void launch(const Queue& q, Problem p, int tiles, void (*kernel)(Problem, P...), A... arguments) {
  const std::size_t bytes = Tiles::bytes(tiles);
  p.tiles = (p.s.length + Tiles::rows - 1) / Tiles::rows;
  const int64_t blocks = p.tiles * p.s.batch * p.s.heads;
  require(blocks <= INT32_MAX, "attention: {} rows in {} heads are more than one launch can take; use smaller batches",
          p.s.length, p.s.batch * p.s.heads);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)));
  start_kernel(q, unsigned(blocks), dim3(side, side), bytes, kernel, p, arguments...);
}

/// Whether rows may be read four numbers at a time.
bool aligned(const AttentionShape& s, std::initializer_list<const void*> addresses) {
  std::uintptr_t bits = 0;
  for (const void* address : addresses) bits |= reinterpret_cast<std::uintptr_t>(address);
  return s.size % 4 == 0 && bits % 16 == 0;
}

}  // namespace

void attention(const Queue& q, const AttentionShape& s, View y, View log_sum, View qkv, RandomKey key) {
  if (cudnn_attention(q, s, y, log_sum, qkv)) return;
  Problem p{s, key, 0, aligned(s, {y.data, qkv.data})};
  visit_float(qkv.dtype, [&]<class T>() {
    visit_tiling(s.size, 3, [&]<class Tiles>() {
      launch<Tiles>(q, p, 3, forward<T, Tiles>, y.as<T>(), log_sum.as<float>(), qkv.as<const T>());
    });
  });
}

void attention_backward(const Queue& q, const AttentionShape& s, View dqkv, View dy, View y, View log_sum, View qkv,
                        RandomKey key, View scratch) {
  if (cudnn_attention_backward(q, s, dqkv, dy, y, log_sum, qkv)) return;
  Problem p{s, key, 0, aligned(s, {dqkv.data, dy.data, qkv.data})};
  visit_float(qkv.dtype, [&]<class T>() {
    auto* delta = static_cast<float*>(scratch.data);
    Statistics known{log_sum.as<float>(), delta};
    for_each_row(q, s.batch * s.length * s.heads, s.size, Delta<T>{s, dy.as<const T>(), y.as<const T>(), delta});
    visit_tiling(s.size, 4, [&]<class Tiles>() {
      launch<Tiles>(q, p, 4, backward_queries<T, Tiles>, dqkv.as<T>(), dy.as<const T>(), qkv.as<const T>(), known);
      launch<Tiles>(q, p, 4, backward_keys<T, Tiles>, dqkv.as<T>(), dy.as<const T>(), qkv.as<const T>(), known);
    });
  });
}

}  // namespace lockstep::kernels::cuda
