#include "core/nn/gpt.h"

#include <gtest/gtest.h>

#include "core/optim/adamw.h"
#include "tests/support/devices.h"
#include "tests/support/golden.h"
#include "tests/support/model.h"

namespace lockstep {
namespace {

struct Loaded {
  Loaded(Device& device, DType dtype, bool recompute, const test::GoldenCase& golden)
      : set(device, dtype),
        model(set, {.vocabulary = std::int64_t(golden.number("vocabulary")),
                    .length = std::int64_t(golden.number("length")),
                    .layers = std::int64_t(golden.number("layers")),
                    .width = std::int64_t(golden.number("width")),
                    .heads = std::int64_t(golden.number("heads")),
                    .recompute = recompute}),
        placed(set) {
    for (auto& p : set.all()) upload(device.queue(), Tensor(p->value.shape(), p->master), golden[p->name].values);
    refresh_weights(device.queue(), placed.flat);
  }
  ParameterSet set;
  nn::Gpt model;
  test::Placed placed;
};

/// Inputs or targets of one step: tokens (steps, batch, length + 1).
Tensor tokens_of(Device& device, const test::GoldenCase& golden, int step, int shift) {
  auto all = golden["tokens"].integers();
  std::int64_t batch = std::int64_t(golden.number("batch")), length = std::int64_t(golden.number("length"));
  std::vector<std::int32_t> part;
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t i = 0; i < length; ++i) part.push_back(all[std::size_t(((step * batch) + b) * (length + 1) + i + shift)]);
  return test::make_indices(device, {batch, length}, part);
}

TEST(Gpt, LogitsAndGradientsAreThoseOfPyTorch) {
  auto golden = test::read_golden("gpt").at(0);
  for (auto& device : test::devices())
    for (DType dtype : {DType::f32, DType::bf16, DType::f16})
      for (int way = 0; way < 4; ++way) {
        const bool recompute = way & 1, upstream = way & 2;  // without, logits are kept; with, they become their gradient
        Loaded gpt(*device, dtype, recompute, golden);
        const float mean = 1.f / float(golden.number("batch") * golden.number("length"));
        Tape t(*device, {.upstream = upstream ? test::make_tensor(*device, {1}, {mean}) : Tensor()});
        Tensor logits = gpt.model.forward(t, tokens_of(*device, golden, 0, 0));
        double tolerance = dtype == DType::f32 ? 1e-5 : 2e-2;
        EXPECT_LT(test::relative_norm(download(device->queue(), logits), golden["logits"].values), tolerance);
        Tensor targets = tokens_of(*device, golden, 0, 1);
        if (upstream)
          t.backward(ops::cross_entropy(t, std::move(logits), targets));
        else
          t.backward(ops::cross_entropy(t, logits, targets), mean);
        if (is_half(dtype)) continue;  // activations of 16 bits move single small gradients by more than a norm can say
        for (auto& p : gpt.set.all())
          EXPECT_LT(test::relative_norm(gpt.placed.gradient(p->name), golden["gradient." + p->name].values), 2e-5) << p->name;
      }
}

TEST(Gpt, TwentyAdamWStepsTrackPyTorch) {
  auto golden = test::read_golden("gpt").at(0);
  for (auto& device : test::devices()) {
    Loaded gpt(*device, DType::f32, false, golden);
    optim::AdamW adamw(gpt.set, gpt.placed.flat, gpt.placed.gradients, {.beta2 = 0.95f, .decay = 0.1f});
    float positions = float(golden.number("batch") * golden.number("length"));
    for (int step = 0; step < int(golden.number("steps")); ++step) {
      gpt.placed.clear();
      Tape t(*device);
      Tensor loss =
          ops::cross_entropy(t, gpt.model.forward(t, tokens_of(*device, golden, step, 0)), tokens_of(*device, golden, step, 1));
      float value = download(device->queue(), loss)[0] / positions;
      EXPECT_NEAR(value, golden["losses"].values[std::size_t(step)], 1e-4) << "step " << step;
      t.backward(loss, 1 / positions);
      adamw.step(1e-3f, 1);
      EXPECT_NEAR(adamw.gradient_norm(), golden["norms"].values[std::size_t(step)], 1e-4 * adamw.gradient_norm());
    }
    for (auto& p : gpt.set.all()) {
      auto ours = download(device->queue(), p->master), theirs = golden["final." + p->name].values;
      if (p->name.ends_with("c_attn.bias")) {
        // A bias of the keys moves every score of a row alike, so its gradient is zero but for rounding, which AdamW divides by
        // its own size: those elements are noise in any precision.
        auto third = std::ptrdiff_t(ours.size() / 3);
        ours.erase(ours.begin() + third, ours.begin() + 2 * third);
        theirs.erase(theirs.begin() + third, theirs.begin() + 2 * third);
      }
      EXPECT_LT(test::relative_norm(ours, theirs), 1e-4) << p->name;
    }
  }
}

TEST(Gpt, DropoutRepeatsWithItsKeyAlone) {
  Device device;
  ParameterSet set(device);
  auto options = nn::Gpt::size("nano");
  options.dropout = 0.2f;
  nn::Gpt model(set, options);
  test::Placed placed(set);
  std::vector<std::int32_t> tokens(128);
  for (int i = 0; i < 128; ++i) tokens[std::size_t(i)] = i * 7 % 256;
  auto logits = [&](Mode mode, std::uint64_t step) {
    Tape t(device, {.mode = mode, .random = {.seed = 1, .step = step}});
    return download(device.queue(), model.forward(t, test::make_indices(device, {2, 64}, tokens)));
  };
  EXPECT_EQ(logits(Mode::train, 1), logits(Mode::train, 1));
  EXPECT_NE(logits(Mode::train, 1), logits(Mode::train, 2));
  EXPECT_EQ(logits(Mode::evaluate, 1), logits(Mode::evaluate, 2));
}

}  // namespace
}  // namespace lockstep
