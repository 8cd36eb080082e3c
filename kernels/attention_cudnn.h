#pragma once

// Private to kernels/attention_*.

#include "kernels/attention.h"

namespace lockstep::kernels::cuda {

/// cuDNN's attention on tensor cores. False, with nothing done, where it has none: f32, dropout (its random numbers are not
/// ours), head sizes that are no multiple of 8 or too large, addresses that are not aligned to 16 bytes, and builds without
/// cuDNN's frontend. y and log_sum are those of our own kernel, up to rounding, so either may run backward.
bool cudnn_attention(const Queue&, const AttentionShape&, View y, View log_sum, View qkv);
bool cudnn_attention_backward(const Queue&, const AttentionShape&, View dqkv, View dy, View y, View log_sum, View qkv);

}  // namespace lockstep::kernels::cuda
