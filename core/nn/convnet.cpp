#include "core/nn/convnet.h"

namespace lockstep::nn {

ConvNet::ConvNet(ParameterSet& set, const Options& o) : options_(o) {
  require(Exit::usage, o.kernel % 2 == 1, "convnet: the kernel {} must be odd, so that images keep their size", o.kernel);
  std::int64_t height = o.height, width = o.width, in = o.channels;
  for (std::size_t i = 0; i < o.features.size(); ++i) {
    require(Exit::usage, height >= 2 && width >= 2, "convnet: images of {} x {} are too small for {} poolings", o.height, o.width,
            o.features.size());
    std::int64_t out = o.features[i];
    convolutions_.emplace_back(set, "conv" + std::to_string(i + 1), in, out, o.kernel,
                               Convolution::Options{.shape = {.padding = o.kernel / 2}});
    flops_ += 6.0 * double(height * width * in * out * o.kernel * o.kernel);
    height /= 2, width /= 2, in = out;
  }
  linears_.emplace_back(set, "fc1", height * width * in, o.hidden);
  linears_.emplace_back(set, "fc2", o.hidden, o.classes);
  for (auto& linear : linears_) flops_ += 6.0 * double(linear.weight.size());
}

Tensor ConvNet::forward(Tape& t, const Tensor& images) const {
  Tensor x = images;
  for (auto& convolution : convolutions_)  // the largest of what ReLU leaves is what ReLU leaves of the largest: a quarter of it
    x = ops::relu(t, ops::pool(t, kernels::Pooling::max, convolution(t, x), 2, 2));  // (batch, height / 2, width / 2, features)
  x = ops::reshape(t, x, {x.dim(0), x.size() / x.dim(0)});
  x = linears_[0](t, x, Unary::relu);  // (batch, hidden)
  x = ops::dropout(t, x, options_.dropout, hash_name("dropout"));
  return linears_[1](t, x);  // (batch, classes)
}

}  // namespace lockstep::nn
