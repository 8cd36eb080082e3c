#pragma once

#include "kernels/base/queue.h"
#include "kernels/base/random.h"
#include "kernels/base/view.h"

namespace lockstep::kernels {

/// qkv is packed (batch, length, 3, heads, size): the rows that one product with (3 * heads * size) columns gives. Read in place.
struct AttentionShape {
  std::int64_t batch, length, heads, size;
  bool causal = true;
  float scale = 0;    ///< 0: 1 / sqrt(size)
  float dropout = 0;  ///< on the attention weights; element index ((batch * heads + head) * length + row) * length + column
  std::int64_t width() const { return heads * size; }
};

/// y (batch, length, heads, size) = softmax(q kᵀ * scale [masked]) v, in tiles: no length x length matrix is stored
/// (Dao et al. 2022). Heads have any size on the CPU, up to 512 numbers on a GPU. log_sum (f32, batch x heads x length) is kept
/// for backward.
void attention(const Queue&, const AttentionShape&, View y, View log_sum, View qkv, RandomKey key);
/// dqkv = gradient, overwritten (packed as qkv). `scratch` holds attention_scratch() bytes.
void attention_backward(const Queue&, const AttentionShape&, View dqkv, View dy, View y, View log_sum, View qkv, RandomKey key,
                        View scratch);
std::size_t attention_scratch(const AttentionShape&);

}  // namespace lockstep::kernels
