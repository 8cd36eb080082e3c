#pragma once

// Private to kernels/: the two halves of the operations that have no shared source: oneDNN or our own tiles on the CPU, cuBLASLt,
// cuDNN or our own tiles on a GPU. kernels/<operation>.cpp checks the arguments once and picks the half; sizes are then known to
// be right and not empty. Without CUDA the second half is kernels/no_cuda.cpp.

#include <string>

#include "kernels/attention.h"
#include "kernels/convolution.h"
#include "kernels/matmul.h"
#include "kernels/product_choices.h"

namespace lockstep::kernels {
/// Scratch memory of the queue, for one kernel at a time: what is in it lasts until the next call.
float* workspace(const Queue&, std::int64_t floats);
}  // namespace lockstep::kernels

namespace lockstep::kernels::cpu {
float* workspace(const Queue&, std::int64_t floats);
void matmul(const Queue&, View y, View a, View b, std::int64_t m, std::int64_t n, std::int64_t k, const MatmulOptions&);
void convolution(const Queue&, const ConvolutionShape&, View y, View x, View w, View bias);
void convolution_backward_data(const Queue&, const ConvolutionShape&, View dx, View dy, View w, Write);
void convolution_backward_weights(const Queue&, const ConvolutionShape&, View dw, View dy, View x, Write);
void attention(const Queue&, const AttentionShape&, View y, View log_sum, View qkv, RandomKey key);
void attention_backward(const Queue&, const AttentionShape&, View dqkv, View dy, View y, View log_sum, View qkv, RandomKey key,
                        View scratch);
}  // namespace lockstep::kernels::cpu

namespace lockstep::kernels::cuda {
float* workspace(const Queue&, std::int64_t floats);
void matmul(const Queue&, View y, View a, View b, std::int64_t m, std::int64_t n, std::int64_t k, const MatmulOptions&);
void convolution(const Queue&, const ConvolutionShape&, View y, View x, View w, View bias);
/// y = conv(x, w) and f32 sums of y's channels and of their squares. False, with nothing done, where cuDNN has no such engine.
bool convolution_sums(const Queue&, const ConvolutionShape&, View y, View sum, View squares, View x, View w);
std::string convolution_choices(const Queue&);
void convolution_backward_data(const Queue&, const ConvolutionShape&, View dx, View dy, View w, Write);
void convolution_backward_weights(const Queue&, const ConvolutionShape&, View dw, View dy, View x, Write);
void attention(const Queue&, const AttentionShape&, View y, View log_sum, View qkv, RandomKey key);
void attention_backward(const Queue&, const AttentionShape&, View dqkv, View dy, View y, View log_sum, View qkv, RandomKey key,
                        View scratch);
void search_products(const Queue&, bool search);
ProductChoices& product_choices(const Queue&);
std::string product_library();
}  // namespace lockstep::kernels::cuda
