#include "core/nn/layers.h"

#include <cmath>

namespace lockstep::nn {

std::string join(const std::string& path, const std::string& name) {
  return path.empty() ? name : path + "." + name;
}

Linear::Linear(ParameterSet& set, const std::string& path, std::int64_t in, std::int64_t out, Options o) {
  weight = set.add(join(path, "weight"), {out, in}, o.weight.value_or(Initial::kaiming_uniform(in)));
  float bound = 1 / std::sqrt(float(in));
  if (o.bias) bias = set.add(join(path, "bias"), {out}, o.offset.value_or(Initial::uniform(-bound, bound)), false);
}

Tensor Linear::operator()(Tape& t, const Tensor& x, std::optional<Unary> activation) const {
  return ops::linear(t, x, weight, bias, activation);
}

Norm::Norm(ParameterSet& set, const std::string& path, std::int64_t width, kernels::Norm kind, float epsilon)
    : kind(kind), epsilon(epsilon) {
  weight = set.add(join(path, "weight"), {width}, Initial::constant(1), false);
  if (kind == kernels::Norm::layer) bias = set.add(join(path, "bias"), {width}, Initial::constant(0), false);
}

Tensor Norm::operator()(Tape& t, const Tensor& x) const {
  return ops::norm(t, kind, x, weight, bias, epsilon);
}

ops::Normed Norm::operator()(Tape& t, const Tensor& x, const Tensor& residual) const {
  return ops::add_norm(t, kind, x, residual, weight, bias, epsilon);
}

Embedding::Embedding(ParameterSet& set, const std::string& path, std::int64_t rows, std::int64_t width, float deviation)
    : weight(set.add(join(path, "weight"), {rows, width}, Initial::normal(0, deviation))) {}

Tensor Embedding::operator()(Tape& t, const Tensor& tokens) const {
  return ops::embedding(t, tokens, weight);
}

Convolution::Convolution(ParameterSet& set, const std::string& path, std::int64_t in, std::int64_t out, std::int64_t kernel,
                         Options o)
    : shape(o.shape) {
  require(in % shape.groups == 0 && out % shape.groups == 0, "convolution \"{}\": {} in and {} out channels in {} groups", path,
          in, out, shape.groups);
  std::int64_t fan_in = kernel * kernel * in / shape.groups;
  weight = set.add(join(path, "weight"), {out, kernel, kernel, in / shape.groups},
                   o.weight.value_or(Initial::kaiming_uniform(fan_in)));
  float bound = 1 / std::sqrt(float(fan_in));
  if (o.bias) bias = set.add(join(path, "bias"), {out}, Initial::uniform(-bound, bound), false);
}

Tensor Convolution::operator()(Tape& t, const Tensor& x) const {
  return ops::convolution(t, x, weight, bias, shape);
}

BatchNorm::BatchNorm(ParameterSet& set, const std::string& path, std::int64_t channels, float initial_weight) {
  tensors.weight = set.add(join(path, "weight"), {channels}, Initial::constant(initial_weight), false);
  tensors.bias = set.add(join(path, "bias"), {channels}, Initial::constant(0), false);
  tensors.running_mean = set.buffer(join(path, "running_mean"), {channels}, 0, 0.1f);
  tensors.running_variance = set.buffer(join(path, "running_var"), {channels}, 1, 0.1f);
}

Tensor BatchNorm::operator()(Tape& t, const Tensor& x, bool relu) const {
  return ops::batch_norm(t, x, tensors, relu);
}

Tensor BatchNorm::after(const Convolution& convolution, Tape& t, const Tensor& x, bool relu, const Tensor& residual) const {
  require(!convolution.bias, "BatchNorm::after: the convolution has a bias, which normalisation would take away again");
  return ops::convolution_batch_norm(t, x, convolution.weight, convolution.shape, tensors, relu, residual);
}

}  // namespace lockstep::nn
