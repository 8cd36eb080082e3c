#include "core/nn/resnet.h"

namespace lockstep::nn {

ResNet::Unit ResNet::unit(ParameterSet& set, const std::string& path, const std::string& convolution, const std::string& norm,
                          std::int64_t in, std::int64_t out, std::int64_t kernel, std::int64_t stride, float initial_weight) {
  auto out_height = (height_ + stride - 1) / stride, out_width = (width_ + stride - 1) / stride;
  flops_ += 6.0 * double(out_height * out_width * in * out * kernel * kernel);
  return {Convolution(set, join(path, convolution), in, out, kernel,
                      {.shape = {.stride = stride, .padding = kernel / 2},
                       .bias = false,
                       .weight = Initial::kaiming_normal(out * kernel * kernel)}),
          BatchNorm(set, join(path, norm), out, initial_weight)};
}

ResNet::ResNet(ParameterSet& set, const Options& o) : options_(o), height_(o.height), width_(o.width) {
  require(Exit::usage, o.depth == 18 || o.depth == 50, "resnet: depth {} is not known; 18 and 50 are", o.depth);
  bool bottleneck = o.depth == 50;
  const std::vector<int> counts = bottleneck ? std::vector{3, 4, 6, 3} : std::vector{2, 2, 2, 2};
  stem_.push_back(unit(set, "", "conv1", "bn1", o.channels, 64, o.small_stem ? 3 : 7, o.small_stem ? 1 : 2));
  auto shrink = [&] { height_ = (height_ + 1) / 2, width_ = (width_ + 1) / 2; };
  if (!o.small_stem) shrink(), shrink();

  std::int64_t in = 64;
  for (int stage = 0; stage < 4; ++stage)
    for (int i = 0; i < counts[std::size_t(stage)]; ++i) {
      std::string path = "layer" + std::to_string(stage + 1) + "." + std::to_string(i);
      std::int64_t width = 64ll << stage, out = bottleneck ? 4 * width : width, stride = stage > 0 && i == 0 ? 2 : 1;
      float last = o.zero_last ? 0.f : 1.f;
      Block block;
      if (bottleneck) {
        block.units.push_back(unit(set, path, "conv1", "bn1", in, width, 1, 1));
        block.units.push_back(unit(set, path, "conv2", "bn2", width, width, 3, stride));
      } else {
        block.units.push_back(unit(set, path, "conv1", "bn1", in, width, 3, stride));
      }
      if (in != out || stride != 1) block.shortcut = unit(set, path, "downsample.0", "downsample.1", in, out, 1, stride);
      if (stride == 2) shrink();
      if (bottleneck)
        block.units.push_back(unit(set, path, "conv3", "bn3", width, out, 1, 1, last));
      else
        block.units.push_back(unit(set, path, "conv2", "bn2", width, out, 3, 1, last));
      blocks_.push_back(std::move(block));
      in = out;
    }
  head_.emplace_back(set, "fc", in, o.classes);
  flops_ += 6.0 * double(in * o.classes);
}

Tensor ResNet::forward(Tape& t, const Tensor& images) const {
  auto run = [&](const Unit& u, const Tensor& x, bool relu, const Tensor& residual = {}) {
    return u.norm.after(u.convolution, t, x, relu, residual);
  };
  Tensor x = run(stem_[0], images, true);
  if (!options_.small_stem) x = ops::pool(t, kernels::Pooling::max, x, 3, 2, 1);
  for (auto& block : blocks_) {
    Tensor y = x;
    for (std::size_t i = 0; i + 1 < block.units.size(); ++i) y = run(block.units[i], y, true);
    Tensor shortcut = block.shortcut ? run(*block.shortcut, x, false) : x;
    x = run(block.units.back(), y, true, shortcut);  // (batch, height, width, out)
  }
  return head_[0](t, ops::global_average_pool(t, x));  // (batch, classes)
}

}  // namespace lockstep::nn
