#pragma once

#include <string>

#include "core/ops.h"
#include "core/parameter.h"

/// Layers are small structs: the constructor adds their parameters to a set under a module path, the call runs the op.
namespace lockstep::nn {

/// "path.name", or name alone when the path is empty.
std::string join(const std::string& path, const std::string& name);

/// y = activation(x wᵀ + b): weight (out, in), PyTorch's default initial values unless given.
struct Linear {
  struct Options {
    bool bias = true;
    std::optional<Initial> weight = {};  ///< default: kaiming_uniform(in)
    std::optional<Initial> offset = {};  ///< default: uniform ±1/sqrt(in)
  };
  Linear(ParameterSet&, const std::string& path, std::int64_t in, std::int64_t out, Options);
  Linear(ParameterSet& set, const std::string& path, std::int64_t in, std::int64_t out) : Linear(set, path, in, out, Options{}) {}
  Tensor operator()(Tape&, const Tensor& x, std::optional<Unary> activation = {}) const;  // (…, in) -> (…, out)
  Tensor weight, bias;
};

/// LayerNorm or RMSNorm over the last axis. No weight decay.
struct Norm {
  Norm(ParameterSet&, const std::string& path, std::int64_t width, kernels::Norm kind = kernels::Norm::layer,
       float epsilon = 1e-5f);
  Tensor operator()(Tape&, const Tensor& x) const;
  /// sum = x + residual, y = norm(sum), in one pass.
  ops::Normed operator()(Tape&, const Tensor& x, const Tensor& residual) const;
  kernels::Norm kind;
  float epsilon;
  Tensor weight, bias;
};

/// Rows of a table (rows, width), normal(0, deviation) at first.
struct Embedding {
  Embedding(ParameterSet&, const std::string& path, std::int64_t rows, std::int64_t width, float deviation = 1);
  Tensor operator()(Tape&, const Tensor& tokens) const;  // (batch, length) -> (batch, length, width)
  Tensor weight;
};

/// 2-d convolution, NHWC; weight (out, kernel, kernel, in / groups).
struct Convolution {
  struct Options {
    ops::ConvolutionOptions shape = {};
    bool bias = true;
    std::optional<Initial> weight = {};  ///< default: kaiming_uniform(fan in), as PyTorch
  };
  Convolution(ParameterSet&, const std::string& path, std::int64_t in, std::int64_t out, std::int64_t kernel, Options);
  Tensor operator()(Tape&, const Tensor& x) const;  // (batch, height, width, in) -> (batch, height', width', out)
  ops::ConvolutionOptions shape;
  Tensor weight, bias;
};

/// BatchNorm over all axes but the last, with running averages (momentum 0.1, as PyTorch) and an optional fused ReLU.
struct BatchNorm {
  BatchNorm(ParameterSet&, const std::string& path, std::int64_t channels, float initial_weight = 1);
  Tensor operator()(Tape&, const Tensor& x, bool relu = false) const;
  /// relu(norm(convolution(x)) + residual), in fewer passes; the convolution has no bias.
  Tensor after(const Convolution&, Tape&, const Tensor& x, bool relu, const Tensor& residual = {}) const;
  ops::BatchNormTensors tensors;
};

}  // namespace lockstep::nn
