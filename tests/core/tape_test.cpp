#include "core/tape.h"

#include <gtest/gtest.h>

#include "core/ops.h"
#include "core/parameter.h"
#include "tests/support/devices.h"
#include "tests/support/model.h"

namespace lockstep {
namespace {

using test::make_tensor;
using test::random_values;

/// Notes the order in which parameters become final.
struct Recorder final : GradientSink {
  std::vector<std::string> names;
  int ends = 0, progressed = 0;
  void ready(const Queue&, Parameter& p) override { names.push_back(p.name); }
  void progress(const Queue&) override { ++progressed; }
  void backward_ended(const Queue&) override { ++ends; }
};

TEST(Tape, GradientsBecomeFinalInReverseOrderOfUse) {
  Device device;
  ParameterSet set(device);
  Tensor a = set.add("a", {4, 4}, Initial::normal(0, 1)), b = set.add("b", {4, 4}, Initial::normal(0, 1));
  test::Placed placed(set);
  Recorder sink;
  Tape t(device, {.sink = &sink});
  Tensor x = make_tensor(device, {2, 4}, random_values(8, 1));
  Tensor y = ops::linear(t, ops::linear(t, x, a), b);
  t.backward(ops::sum(t, y));
  EXPECT_EQ(sink.names, (std::vector<std::string>{"b", "a"}));
  EXPECT_EQ(sink.ends, 1);
  EXPECT_GE(sink.progressed, 3);
}

TEST(Tape, TiedWeightIsReadyOnceAfterBothUses) {
  Device device;
  ParameterSet set(device);
  Tensor w = set.add("w", {4, 4}, Initial::normal(0, 1)), v = set.add("v", {4, 4}, Initial::normal(0, 1));
  test::Placed placed(set);
  Recorder sink;
  Tensor x = make_tensor(device, {3, 4}, random_values(12, 2));
  auto loss = [&](Tape& t) { return ops::sum(t, ops::tanh(t, ops::linear(t, ops::linear(t, ops::linear(t, x, w), v), w))); };
  Tape t(device, {.sink = &sink});
  t.backward(loss(t));
  EXPECT_EQ(sink.names, (std::vector<std::string>{"v", "w"}));
  placed.clear();
  EXPECT_LT(test::directional_error(device, {w}, loss), 1e-3);
}

TEST(Tape, TiedWeightUnderRecomputationIsReadyOnceAndEqualToTheBit) {
  Device device;
  ParameterSet set(device);
  Tensor w = set.add("w", {6, 6}, Initial::normal(0, 0.5f));
  test::Placed placed(set);
  Tensor x = make_tensor(device, {5, 6}, random_values(30, 3));
  auto block = [&](Tape& t, const Tensor& in) {
    return ops::dropout(t, ops::linear(t, ops::tanh(t, ops::linear(t, in, w)), w), 0.3f, hash_name("block"));
  };
  std::vector<float> gradients[2];
  for (bool again : {false, true}) {
    placed.clear();
    Recorder sink;
    Tape t(device, {.random = {.seed = 7, .step = 3}, .sink = &sink});
    Tensor h = x;
    for (int i = 0; i < 3; ++i) h = again ? ops::recompute(t, h, {w}, block) : block(t, h);
    t.backward(ops::sum(t, ops::multiply(t, h, h)));
    EXPECT_EQ(sink.names, std::vector<std::string>{"w"});
    EXPECT_EQ(sink.ends, 1);
    gradients[again] = placed.gradient("w");
  }
  EXPECT_EQ(gradients[0], gradients[1]);
}

TEST(Tape, RecomputationKeepsLessMemory) {
  Device device;
  ParameterSet set(device);
  Tensor w = set.add("w", {64, 64}, Initial::normal(0, 0.1f));
  test::Placed placed(set);
  Tensor x = make_tensor(device, {512, 64}, random_values(512 * 64, 4));
  std::size_t peak[2];
  for (bool again : {false, true}) {
    placed.clear();
    device.arena().reset_peak();
    Tape t(device);
    Tensor h = x;
    for (int i = 0; i < 8; ++i) {
      auto block = [&](Tape& t, const Tensor& in) { return ops::tanh(t, ops::gelu(t, ops::sigmoid(t, ops::linear(t, in, w)))); };
      h = again ? ops::recompute(t, h, {w}, block) : block(t, h);
    }
    t.backward(ops::sum(t, h));
    peak[again] = device.arena().peak_bytes();
  }
  EXPECT_LT(double(peak[1]), 0.6 * double(peak[0]));
}

TEST(Tape, ResidualGradientsAreSharedButNeverMixed) {
  // Both inputs of an addition share one gradient; adding to one must not change what the other reads.
  Device device;
  Tensor x = make_tensor(device, {4, 8}, random_values(32, 5));
  auto loss = [&](Tape& t) {
    Tensor a = ops::tanh(t, x);
    Tensor b = ops::add(t, ops::add(t, a, x), ops::sigmoid(t, a));
    return ops::sum(t, ops::multiply(t, ops::add(t, b, b), ops::add(t, a, b)));
  };
  EXPECT_LT(test::directional_error(device, {x}, loss), 1e-3);
}

TEST(Tape, InferenceKeepsNothing) {
  Device device;
  Tensor w = make_tensor(device, {64, 64}, random_values(4096, 6));
  w->wants_gradient = true;
  Tensor x = make_tensor(device, {64, 64}, random_values(4096, 7));
  auto before = device.arena().live_bytes();
  Tape t(device, {.mode = Mode::evaluate, .recording = false});
  {
    Tensor y = x;
    for (int i = 0; i < 10; ++i) y = ops::dropout(t, ops::tanh(t, ops::linear(t, y, w)), 0.5f, 1);
    EXPECT_EQ(device.arena().live_bytes(), before + 64 * 64 * 4);
    EXPECT_FALSE(y->wants_gradient);
  }
  EXPECT_EQ(device.arena().live_bytes(), before);
  EXPECT_THROW(t.backward(make_tensor(device, {1}, {1})), Error);
}

TEST(Tape, FrozenParametersGetNoGradientAndStopTheirBranch) {
  Device device;
  ParameterSet set(device);
  Tensor a = set.add("body.w", {4, 4}, Initial::normal(0, 1)), b = set.add("head.w", {4, 4}, Initial::normal(0, 1));
  set.freeze("body.");
  test::Placed placed(set);
  Recorder sink;
  Tape t(device, {.sink = &sink});
  Tensor hidden = ops::linear(t, make_tensor(device, {2, 4}, random_values(8, 8)), a);
  EXPECT_FALSE(hidden->wants_gradient);
  t.backward(ops::sum(t, ops::linear(t, hidden, b)));
  EXPECT_EQ(sink.names, std::vector<std::string>{"head.w"});
  EXPECT_FALSE(a->gradient);
  EXPECT_THROW(set.freeze("nothing"), Error);
}

TEST(Tape, MarksRunInReverseAmongTheOps) {
  Device device;
  Tensor x = make_tensor(device, {2, 2}, {1, 2, 3, 4});
  x->wants_gradient = true;
  std::string order;
  Tape t(device);
  t.mark([&] { order += "a"; });
  Tensor y = ops::tanh(t, x);
  t.mark([&] { order += "b"; });
  t.backward(ops::sum(t, y));
  EXPECT_EQ(order, "ba");
}

TEST(Tape, BackwardOfManyElementsIsRefused) {
  Device device;
  Tensor x = make_tensor(device, {2, 2}, {1, 2, 3, 4});
  x->wants_gradient = true;
  Tape t(device);
  Tensor y = ops::tanh(t, x);
  EXPECT_THROW(t.backward(y), Error);
}

TEST(Tape, TwentyThousandOpsNeedNoRecursion) {
  Device device;
  Tensor x = make_tensor(device, {1}, {0.5f});
  x->wants_gradient = true;
  Tape t(device);
  Tensor y = x;
  for (int i = 0; i < 20000; ++i) y = ops::scale(t, y, 1);
  t.backward(y);
  EXPECT_EQ(download(device.queue(), x->gradient)[0], 1);
}

}  // namespace
}  // namespace lockstep
