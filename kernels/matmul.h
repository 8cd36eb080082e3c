#pragma once

#include <optional>
#include <string>

#include "kernels/base/queue.h"
#include "kernels/base/view.h"
#include "kernels/unary.h"

namespace lockstep::kernels {

struct MatmulOptions {
  bool transpose_a = false;  ///< a is stored (k, m) instead of (m, k)
  bool transpose_b = false;  ///< b is stored (n, k) instead of (k, n)
  std::int64_t batch = 1;    ///< independent products, stored one after another
  Write write = Write::overwrite;
  View bias = {};                        ///< (n), added to every row
  std::optional<Unary> activation = {};  ///< applied last
  View kept = {};                        ///< when present, receives what the activation's gradient needs (unary.h)
  std::optional<Slope> slope = {};       ///< y = (a b) * slope, in place of bias and activation; its views look like y
  /// Receives the gradient of a bias: with a slope (n), the sum of y's rows; without (m), the sums of a over k, where a, stored
  /// (k, m), is the gradient of a layer's result and the product that of its weight. batch is 1; f32 or y's dtype.
  View bias_gradient = {};
  Write write_bias_gradient = Write::overwrite;
};

/// y (m, n) (+)= activation(a (m, k) * b (k, n) + bias). a and b share a dtype; y has it too or is f32.
/// Through oneDNN on the CPU and cuBLASLt on a GPU. There these join the product, the rest takes a pass of its own:
/// * a bias of y's dtype, written or added to;
/// * gelu_tanh and its slope, in 16 bits, written, where n is a multiple of 8 if anything is kept or read for the gradient;
/// * a bias gradient that is written and has y's dtype; with a slope, if that joins too.
void matmul(const Queue&, View y, View a, View b, std::int64_t m, std::int64_t n, std::int64_t k, const MatmulOptions& = {});

/// How this processor multiplies matrices of f32, in words. Last digits depend on it.
std::string cpu_products();

}  // namespace lockstep::kernels
