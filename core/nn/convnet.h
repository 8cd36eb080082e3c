#pragma once

#include <vector>

#include "core/nn/layers.h"
#include "core/nn/model.h"

namespace lockstep::nn {

/// A network of LeNet's size: for each entry of `features` a convolution, ReLU and 2 x 2 max pooling, then one hidden layer.
class ConvNet final : public Model {
 public:
  struct Options {
    std::int64_t height = 28, width = 28, channels = 1, classes = 10;
    std::vector<std::int64_t> features = {32, 64};
    std::int64_t kernel = 5;  ///< odd; images keep their size until pooled
    std::int64_t hidden = 128;
    float dropout = 0;  ///< before the last layer
  };
  ConvNet(ParameterSet&, const Options&);
  Tensor forward(Tape&, const Tensor& images) const override;  // (batch, height, width, channels) -> (batch, classes)
  double flops_per_row() const override { return flops_; }

 private:
  Options options_;
  std::vector<Convolution> convolutions_;
  std::vector<Linear> linears_;
  double flops_ = 0;
};

}  // namespace lockstep::nn
