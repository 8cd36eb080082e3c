#include "core/nn/mlp.h"

namespace lockstep::nn {

Mlp::Mlp(ParameterSet& set, const Options& o) : options_(o) {
  auto widths = o.hidden;
  widths.push_back(o.outputs);
  std::int64_t in = o.inputs;
  for (std::size_t i = 0; i < widths.size(); ++i) {
    layers_.emplace_back(set, "layers." + std::to_string(i), in, widths[i]);
    in = widths[i];
  }
}

Tensor Mlp::forward(Tape& t, const Tensor& inputs) const {
  Tensor x = ops::reshape(t, inputs, {inputs.dim(0), inputs.size() / inputs.dim(0)});  // (batch, inputs)
  for (std::size_t i = 0; i + 1 < layers_.size(); ++i) {
    x = layers_[i](t, x, options_.activation);  // (batch, hidden[i])
    x = ops::dropout(t, x, options_.dropout, hash_name("layers." + std::to_string(i) + ".dropout"));
  }
  return layers_.back()(t, x);
}

double Mlp::flops_per_row() const {
  double flops = 0;
  for (auto& layer : layers_) flops += 6.0 * double(layer.weight.size());
  return flops;
}

}  // namespace lockstep::nn
