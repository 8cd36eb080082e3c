#include "kernels/attention.h"

#include <cmath>

#include "kernels/vendor.h"

namespace lockstep::kernels {
namespace {

AttentionShape checked(const AttentionShape& s, View y, View log_sum, View qkv) {
  require(s.batch >= 0 && s.length >= 0 && s.heads > 0 && s.size > 0, "attention: batch {}, length {}, heads {}, size {}",
          s.batch, s.length, s.heads, s.size);
  require(s.dropout >= 0 && s.dropout < 1, "attention: dropout {} is not in [0, 1)", s.dropout);
  std::int64_t rows = s.batch * s.length;
  require(y.size == rows * s.width(), "attention: y has {} elements, not {} x {}", y.size, rows, s.width());
  require(qkv.size == 3 * y.size, "attention: qkv has {} elements, not {} x {}", qkv.size, rows, 3 * s.width());
  require(log_sum.size == rows * s.heads && log_sum.dtype == DType::f32,
          "attention: log_sum must hold {} f32 values, it has {} {}", rows * s.heads, log_sum.size, name_of(log_sum.dtype));
  require(y.dtype == qkv.dtype, "attention: y is {}, qkv is {}", name_of(y.dtype), name_of(qkv.dtype));
  AttentionShape settled = s;
  if (settled.scale == 0) settled.scale = 1 / std::sqrt(float(s.size));
  return settled;
}

}  // namespace

void attention(const Queue& q, const AttentionShape& shape, View y, View log_sum, View qkv, RandomKey key) {
  if (q.recording) return q.recording->add([=](const Queue& then) { attention(then, shape, y, log_sum, qkv, key); });
  AttentionShape s = checked(shape, y, log_sum, qkv);
  if (y.size == 0) return;
  if (!q.on_gpu) key = key.settled();
  q.on_gpu ? cuda::attention(q, s, y, log_sum, qkv, key) : cpu::attention(q, s, y, log_sum, qkv, key);
}

void attention_backward(const Queue& q, const AttentionShape& shape, View dqkv, View dy, View y, View log_sum, View qkv,
                        RandomKey key, View scratch) {
  if (q.recording)
    return q.recording->add([=](const Queue& then) { attention_backward(then, shape, dqkv, dy, y, log_sum, qkv, key, scratch); });
  AttentionShape s = checked(shape, y, log_sum, qkv);
  require(dqkv.size == qkv.size && dqkv.dtype == qkv.dtype, "attention_backward: dqkv must look like qkv");
  require(dy.size == y.size && dy.dtype == y.dtype, "attention_backward: dy must look like y");
  require(scratch.bytes() >= attention_scratch(s), "attention_backward: {} bytes of scratch, not {}", scratch.bytes(),
          attention_scratch(s));
  if (y.size == 0) return;
  if (!q.on_gpu) key = key.settled();
  q.on_gpu ? cuda::attention_backward(q, s, dqkv, dy, y, log_sum, qkv, key, scratch)
           : cpu::attention_backward(q, s, dqkv, dy, y, log_sum, qkv, key, scratch);
}

// The sum of dy * y of every row and head; only the GPU stores it.
std::size_t attention_scratch(const AttentionShape& s) {
  return sizeof(float) * std::size_t(s.batch * s.length * s.heads);
}

}  // namespace lockstep::kernels
