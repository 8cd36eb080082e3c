#pragma once

#include <optional>

#include "kernels/base/queue.h"
#include "kernels/base/view.h"
#include "kernels/unary_math.h"

namespace lockstep::kernels {

struct MatmulOptions {
  bool transpose_a = false;           ///< a is stored (k, m) instead of (m, k)
  bool transpose_b = false;           ///< b is stored (n, k) instead of (k, n)
  std::int64_t batch = 1;             ///< independent products, stored one after another
  Write write = Write::overwrite;
  View bias = {};                     ///< (n), added to every row
  std::optional<Unary> activation = {};  ///< applied last
  View pre_activation = {};           ///< when present, receives the value before the activation (for its gradient)
};

/// y (m, n) (+)= activation(a (m, k) * b (k, n) + bias). a and b share a dtype; y has it too or is f32.
/// Through oneDNN on the CPU and cuBLASLt on a GPU.
void matmul(const Queue&, View y, View a, View b, std::int64_t m, std::int64_t n, std::int64_t k,
            const MatmulOptions& = {});

}  // namespace lockstep::kernels
