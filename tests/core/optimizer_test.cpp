#include "core/optim/optimizer.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/ops.h"
#include "core/optim/adamw.h"
#include "core/optim/sgd.h"
#include "kernels/memory.h"
#include "tests/support/devices.h"
#include "tests/support/model.h"

namespace lockstep {
namespace {

struct TwoLayers {
  explicit TwoLayers(Device& device) : set(device) {
    set.add("body.weight", {5, 4}, Initial::normal(0, 1));
    set.add("body.bias", {5}, Initial::normal(0, 1), false);
    set.add("head.weight", {3, 5}, Initial::normal(0, 1));
  }
  ParameterSet set;
};

std::vector<float> values(ParameterSet& set, const char* name) {
  return download(set.device().queue(), set.find(name).master);
}

TEST(Optimizer, GroupsHaveTheirOwnRateAndDecay) {
  Device device;
  TwoLayers model(device);
  test::Placed placed(model.set);
  auto before = values(model.set, "body.weight"), head = values(model.set, "head.weight"), bias = values(model.set, "body.bias");
  kernels::fill(device.queue(), placed.gradients, 1);
  optim::Sgd sgd(model.set, placed.flat, placed.gradients,
                 {.decay = 0.5f, .groups = {{.prefix = "head.", .rate_scale = 0.1f, .decay = 0}}});
  sgd.step(0.01f);
  auto after = values(model.set, "body.weight"), head_after = values(model.set, "head.weight"),
       bias_after = values(model.set, "body.bias");
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_NEAR(after[i], before[i] - 0.01f * (1 + 0.5f * before[i]), 1e-6);
  for (std::size_t i = 0; i < head.size(); ++i) EXPECT_NEAR(head_after[i], head[i] - 0.001f, 1e-6);
  for (std::size_t i = 0; i < bias.size(); ++i) EXPECT_NEAR(bias_after[i], bias[i] - 0.01f, 1e-6);  // biases see no decay
  EXPECT_THROW(optim::Sgd(model.set, placed.flat, placed.gradients, {.groups = {{.prefix = "tail."}}}), Error);
  EXPECT_THROW(optim::Sgd(model.set, placed.flat, placed.gradients, {.nesterov = true}), Error);
}

TEST(Optimizer, ClipsByTheGlobalNormAndReportsIt) {
  Device device;
  TwoLayers model(device);
  test::Placed placed(model.set);
  auto before = values(model.set, "head.weight");
  kernels::fill(device.queue(), placed.gradients, 0);
  upload(device.queue(), Tensor({3, 5}, model.set.find("head.weight").value->gradient), test::random_values(15, 3));
  double norm = 0;
  for (float g : placed.gradient("head.weight")) norm += double(g) * g;
  norm = std::sqrt(norm);
  optim::Sgd sgd(model.set, placed.flat, placed.gradients, {});
  sgd.step(1, 0.5f);
  EXPECT_NEAR(sgd.gradient_norm(), norm, 1e-5 * norm);
  auto after = values(model.set, "head.weight"), gradient = placed.gradient("head.weight");
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_NEAR(before[i] - after[i], gradient[i] * 0.5 / norm, 1e-6);
}

TEST(Optimizer, AGradientThatIsNotFiniteChangesNothing) {
  Device device;
  TwoLayers model(device);
  test::Placed placed(model.set);
  optim::AdamW adamw(model.set, placed.flat, placed.gradients, {.decay = 0});
  auto before = values(model.set, "body.weight");
  kernels::fill(device.queue(), placed.gradients, NAN);
  adamw.step(0.1f, 1);
  EXPECT_FALSE(std::isfinite(adamw.gradient_norm()));
  EXPECT_EQ(values(model.set, "body.weight"), before);
}

TEST(Optimizer, StateIsNamedByParameter) {
  Device device;
  TwoLayers model(device);
  model.set.freeze("body.bias");
  test::Placed placed(model.set);
  optim::AdamW adamw(model.set, placed.flat, placed.gradients, {});
  std::vector<std::string> names;
  for (auto& s : adamw.state()) names.push_back(s.name);
  EXPECT_EQ(names, (std::vector<std::string>{"adamw.m/body.weight", "adamw.m/head.weight", "adamw.v/body.weight",
                                             "adamw.v/head.weight"}));
}

}  // namespace
}  // namespace lockstep
