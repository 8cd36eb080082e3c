#pragma once

#include <cstring>

#include "core/ops.h"
#include "core/tape.h"
#include "parallel/data_parallel.h"
#include "parallel/open_communicator.h"
#include "tests/support/devices.h"

namespace lockstep::test {

/// A small model with what strategies stumble over: odd sizes, a weight used twice, one that is never used, one under
/// recomputation.
struct Net {
  struct Options {
    bool tied = false, unused = false, recomputed = false;
    DType dtype = DType::f32;
    std::int64_t width = 61;
    bool masters = true;
  };
  Device& device;
  Options options;
  ParameterSet set;
  Tensor w1, b1, lonely, w2, b2, w3, b3, head;

  static constexpr std::int64_t inputs = 7, outputs = 3, rows = 5;

  Net(Device& device, Options o, const std::string& prefix = "") : device(device), options(o), set(device, o.dtype, o.masters) {
    auto width = o.width;
    auto spread = Initial::normal(0, 0.3f);
    w1 = set.add(prefix + "w1", {width, inputs}, spread);
    b1 = set.add(prefix + "b1", {width}, spread);
    if (o.unused) lonely = set.add(prefix + "lonely", {width, 3}, spread);
    w2 = set.add(prefix + "w2", {width, width}, Initial::normal(0, 0.1f));
    b2 = set.add(prefix + "b2", {width}, spread);
    w3 = set.add(prefix + "w3", {width, width}, Initial::normal(0, 0.1f));
    b3 = set.add(prefix + "b3", {width}, spread);
    head = set.add(prefix + "head", {outputs, width}, spread);
  }

  Tensor forward(Tape& t, const Tensor& x) const {
    Tensor h = ops::gelu(t, ops::linear(t, x, w1, b1));
    auto middle = [this](Tape& t, const Tensor& h) {
      Tensor y = ops::gelu(t, ops::linear(t, h, w2, b2));
      return options.tied ? ops::gelu(t, ops::linear(t, y, w2, b2)) : y;
    };
    h = options.recomputed ? ops::recompute(t, h, {w2, b2}, middle) : middle(t, h);
    h = ops::linear(t, h, w3, b3);
    if (options.tied) h = ops::linear(t, ops::gelu(t, h), w3);
    return ops::linear(t, h, head);
  }
  /// The sum of squared errors of lane `lane` of step `step`.
  Tensor loss(Tape& t, int lane, int step = 0) const {
    auto seed = std::uint64_t(1000 + 100 * step + lane);
    Tensor x = make_tensor(device, {rows, inputs}, random_values(rows * inputs, seed), options.dtype);
    Tensor target = make_tensor(device, {rows, outputs}, random_values(rows * outputs, seed + 5000));
    Tensor y = forward(t, x);
    if (y.dtype() != DType::f32) y = ops::cast(t, y, DType::f32);
    return ops::squared_error(t, y, target);
  }
  /// Forward and backward of one lane.
  void backward(GradientSink* sink, int lane, int lanes, int step = 0) const {
    Tape t(device, {.sink = sink});
    t.backward(loss(t, lane, step), 1.f / float(lanes * rows));
  }
};

/// Gradients of every parameter in creation order; absent ones are zeros.
inline std::vector<float> gradients(const Net& net) {
  std::vector<float> all;
  for (auto& p : net.set.all()) {
    auto values = p->value->has_gradient ? download(net.device.queue(), p->value->gradient)
                                         : std::vector<float>(std::size_t(p->value.size()), 0.f);
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

/// The gradients of some lanes without any strategy: the tape alone, one lane after another.
inline std::vector<float> serial_gradients(Device& device, Net::Options options, int first, int count, int lanes, int step = 0) {
  Net net(device, options);
  Flat flat = place(net.set, simple_layout(net.set), host_memory);
  net.set.initialise(1);
  for (int lane = first; lane < first + count; ++lane) net.backward(nullptr, lane, lanes, step);
  return gradients(net);
}

/// A whole step of `strategy`; `strategy` has been made for `net`.
inline void run_step(const Net& net, parallel::DataParallel& strategy, int lanes, int step = 0) {
  strategy.begin_step();
  for (int i = 0; i < strategy.lanes().count; ++i) {
    strategy.begin_lane(i);
    net.backward(&strategy, strategy.lanes().first + i, lanes, step);
  }
  strategy.finish_step();
}

}  // namespace lockstep::test
