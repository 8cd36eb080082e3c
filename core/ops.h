#pragma once

#include <optional>

#include "core/tape.h"
#include "kernels/attention.h"
#include "kernels/binary.h"
#include "kernels/convolution.h"
#include "kernels/cross_entropy.h"
#include "kernels/norm.h"
#include "kernels/pooling.h"
#include "kernels/reduce.h"
#include "kernels/unary_math.h"

/// Differentiable operations: free functions that compute at once and record their gradient on the tape. Shapes are named
/// (batch, length, …); "rows" are all axes but the last.
namespace lockstep::ops {

// ---- element by element (core/ops/elementwise.cpp)
Tensor unary(Tape&, Unary, const Tensor& x);
inline Tensor relu(Tape& t, const Tensor& x) {
  return unary(t, Unary::relu, x);
}
inline Tensor gelu(Tape& t, const Tensor& x) {
  return unary(t, Unary::gelu, x);
}
inline Tensor gelu_tanh(Tape& t, const Tensor& x) {
  return unary(t, Unary::gelu_tanh, x);
}
inline Tensor sigmoid(Tape& t, const Tensor& x) {
  return unary(t, Unary::sigmoid, x);
}
inline Tensor tanh(Tape& t, const Tensor& x) {
  return unary(t, Unary::tanh, x);
}
inline Tensor silu(Tape& t, const Tensor& x) {
  return unary(t, Unary::silu, x);
}
/// b has a's shape, or is a row: the last axes of a.
Tensor binary(Tape&, kernels::Binary, const Tensor& a, const Tensor& b);
inline Tensor add(Tape& t, const Tensor& a, const Tensor& b) {
  return binary(t, kernels::Binary::add, a, b);
}
inline Tensor subtract(Tape& t, const Tensor& a, const Tensor& b) {
  return binary(t, kernels::Binary::subtract, a, b);
}
inline Tensor multiply(Tape& t, const Tensor& a, const Tensor& b) {
  return binary(t, kernels::Binary::multiply, a, b);
}
inline Tensor divide(Tape& t, const Tensor& a, const Tensor& b) {
  return binary(t, kernels::Binary::divide, a, b);
}
Tensor scale(Tape&, const Tensor& x, float factor);
Tensor cast(Tape&, const Tensor& x, DType);
/// Zeroes elements with probability p while training and divides the rest by 1 - p. `site`: hash_name of the module's path.
Tensor dropout(Tape&, const Tensor& x, float p, std::uint32_t site);

// ---- shape (core/ops/shape.cpp)
/// The same values under another shape of equal count; no copy.
Tensor reshape(Tape&, const Tensor& x, Shape);
/// The values, cut off from the tape: no gradient passes.
Tensor detach(const Tensor& x);

// ---- reductions (core/ops/reduction.cpp)
/// Over the last axis: (…, n) -> (…).
Tensor reduce(Tape&, kernels::Reduction, const Tensor& x);
/// Sum of everything: (1), f32. A mean is scale(sum(x), 1 / n).
Tensor sum(Tape&, const Tensor& x);
Tensor softmax(Tape&, const Tensor& x);

// ---- products (core/ops/product.cpp)
/// x (…, k) times b (k, n), or several of each: (batch, m, k) x (batch, k, n).
Tensor matmul(Tape&, const Tensor& a, const Tensor& b);
/// activation(x (…, in) * wᵀ + bias): w is (out, in); bias (out) and activation may be absent. Bias and activation are fused into
/// the product where the library can.
Tensor linear(Tape&, const Tensor& x, const Tensor& w, const Tensor& bias = {}, std::optional<Unary> activation = {});
/// linear(linear(x (…, in), w1 (hidden, in), b1, activation), w2 (out, hidden), b2), whose biases may be absent: the MLP of a
/// transformer. What it gains is backward: the product with w2 multiplies by the activation's slope too.
Tensor feed_forward(Tape&, const Tensor& x, const Tensor& w1, const Tensor& b1, Unary activation, const Tensor& w2,
                    const Tensor& b2);
struct ConvolutionOptions {
  std::int64_t stride = 1, padding = 0, dilation = 1, groups = 1;
};
/// x (batch, height, width, in), w (out, kernel_height, kernel_width, in / groups), bias (out) or absent.
Tensor convolution(Tape&, const Tensor& x, const Tensor& w, const Tensor& bias, ConvolutionOptions = {});
/// qkv (batch, length, 3 * heads * size) -> (batch, length, heads * size); softmax(q kᵀ / sqrt(size)) v, causal or full.
struct AttentionOptions {
  std::int64_t heads = 1;
  bool causal = true;
  float dropout = 0;
  std::uint32_t site = 0;
};
Tensor attention(Tape&, const Tensor& qkv, AttentionOptions);

// ---- normalisation (core/ops/normalisation.cpp)
/// Over the last axis; b absent for rms.
Tensor norm(Tape&, kernels::Norm, const Tensor& x, const Tensor& w, const Tensor& b, float epsilon = 1e-5f);
struct Normed {
  Tensor sum, y;
};
/// sum = x + residual and y = norm(sum) in one pass.
Normed add_norm(Tape&, kernels::Norm, const Tensor& x, const Tensor& residual, const Tensor& w, const Tensor& b,
                float epsilon = 1e-5f);
/// Scale and shift, and the running averages (f32 buffers) that training gives its statistics to.
struct BatchNormTensors {
  Tensor weight, bias, running_mean, running_variance;
};
/// x (…, channels). While training the batch's own statistics are used and given to the running averages; in evaluate mode the
/// running averages are used. relu: fused.
Tensor batch_norm(Tape&, const Tensor& x, const BatchNormTensors&, bool relu, float epsilon = 1e-5f);
/// relu(batch_norm(convolution(x, w)) + residual), where relu and residual may be absent: what residual networks are made of
/// (core/ops/convolution.cpp). The same bits as the four ops one by one where statistics are not summed inside the convolution
/// (kernels::convolution_statistics), with fewer passes over memory.
Tensor convolution_batch_norm(Tape&, const Tensor& x, const Tensor& w, ConvolutionOptions, const BatchNormTensors&, bool relu,
                              const Tensor& residual = {}, float epsilon = 1e-5f);

// ---- images (core/ops/image.cpp)
Tensor pool(Tape&, kernels::Pooling, const Tensor& x, std::int64_t window, std::int64_t stride, std::int64_t padding = 0);
/// (batch, height, width, channels) -> (batch, channels)
Tensor global_average_pool(Tape&, const Tensor& x);

// ---- tokens and losses (core/ops/loss.cpp)
/// table (rows, width), tokens (batch, length) i32 -> (batch, length, width); plus positions (length or more, width) when
/// present.
Tensor embedding(Tape&, const Tensor& tokens, const Tensor& table, const Tensor& positions = {});
/// Sum over rows of the cross-entropy of logits (…, classes) against targets (i32): (1), f32. Divide by the step's global weight
/// with the seed of Tape::backward, never by a lane's own count.
Tensor cross_entropy(Tape&, const Tensor& logits, const Tensor& targets, kernels::CrossEntropyOptions = {});
/// The same from logits that the caller gives away (a temporary, or std::move): their memory becomes that of their gradient where
/// nobody else reads them, at once where the tape knows the upstream gradient, else in backward. The same bits.
Tensor cross_entropy(Tape&, Tensor&& logits, const Tensor& targets, kernels::CrossEntropyOptions = {});
/// Sum over elements of (x - target)²: (1), f32.
Tensor squared_error(Tape&, const Tensor& x, const Tensor& target);
/// Sum over elements of binary cross-entropy of logits against targets in [0, 1]: (1), f32.
Tensor binary_cross_entropy(Tape&, const Tensor& logits, const Tensor& targets);
/// Rows whose largest logit is the target: a host number; waits.
std::int64_t count_correct(Tape&, const Tensor& logits, const Tensor& targets);

/// Runs `block` without keeping what it computes inside, and once more during backward: memory for time (Chen et al. 2016).
/// Random numbers repeat. `parameters` are those that the block uses, declared so that they are not called ready too soon.
Tensor recompute(Tape&, const Tensor& x, const std::vector<Tensor>& parameters,
                 std::function<Tensor(Tape&, const Tensor&)> block);

}  // namespace lockstep::ops
