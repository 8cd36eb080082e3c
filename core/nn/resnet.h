#pragma once

#include <optional>
#include <vector>

#include "core/nn/layers.h"
#include "core/nn/model.h"

namespace lockstep::nn {

/// ResNet-18 and -50 (He et al. 2016), v1.5: the stride of a bottleneck is in its 3 x 3 convolution. Parameter names are
/// torchvision's.
class ResNet final : public Model {
 public:
  struct Options {
    int depth = 50;  ///< 18 or 50
    std::int64_t height = 224, width = 224, channels = 3, classes = 1000;
    bool small_stem = false;  ///< for images of 64 or less: a 3 x 3 convolution of stride 1 and no pooling first
    bool zero_last = true;    ///< each block's last scale starts at 0 (Goyal et al. 2017)
  };
  ResNet(ParameterSet&, const Options&);
  Tensor forward(Tape&, const Tensor& images) const override;  // (batch, height, width, channels) -> (batch, classes)
  double flops_per_row() const override { return flops_; }

 private:
  struct Unit {
    Convolution convolution;
    BatchNorm norm;
  };
  struct Block {
    std::vector<Unit> units;
    std::optional<Unit> shortcut;
  };
  Unit unit(ParameterSet&, const std::string& path, const std::string& convolution, const std::string& norm, std::int64_t in,
            std::int64_t out, std::int64_t kernel, std::int64_t stride, float initial_weight = 1);

  Options options_;
  double flops_ = 0;
  std::int64_t height_, width_;  // of the images as they shrink, while building
  std::vector<Unit> stem_;
  std::vector<Block> blocks_;
  std::vector<Linear> head_;
};

}  // namespace lockstep::nn
