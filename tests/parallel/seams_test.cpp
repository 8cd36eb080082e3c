#include <gtest/gtest.h>
#include <omp.h>

#include "core/nn/gpt.h"
#include "core/nn/layers.h"
#include "core/optim/adamw.h"
#include "core/optim/sgd.h"
#include "parallel/data_parallel.h"
#include "parallel/open_communicator.h"
#include "tests/support/devices.h"

// Programs that are not one model, one loss and one optimizer.
namespace lockstep {
namespace {

using parallel::DataParallel;

struct Net {
  Net(Device& device, std::int64_t in, std::int64_t out) : set(device), first(set, "first", in, 32), last(set, "last", 32, out) {}
  Tensor operator()(Tape& t, const Tensor& x) const { return last(t, first(t, x, Unary::tanh)); }
  ParameterSet set;
  nn::Linear first, last;
};

TEST(Seams, ASmallGanLearns) {
  // Two models, two optimizers and three backward passes a step: the generator learns to draw from normal(3, 0.5). The players
  // circle around their equilibrium, so the mean is taken over the last half of the steps.
  Device device;
  auto communicator = parallel::open_solo_communicator();
  auto group = solo_group();
  Net generator(device, 4, 1), discriminator(device, 1, 1);
  DataParallel::Options lanes{.lanes = 2};
  DataParallel for_generator(generator.set, *communicator, *group, lanes),
      for_discriminator(discriminator.set, *communicator, *group, lanes);
  generator.set.initialise(1);
  discriminator.set.initialise(2);
  optim::AdamW generator_step(generator.set, for_generator.flat(), for_generator.gradients(), {.beta1 = 0.5f, .decay = 0});
  optim::AdamW discriminator_step(discriminator.set, for_discriminator.flat(), for_discriminator.gradients(),
                                  {.beta1 = 0.5f, .decay = 0});

  const std::int64_t rows = 64;
  Tensor ones = test::make_tensor(device, {rows, 1}, std::vector<float>(rows, 1)),
         zeros = test::make_tensor(device, {rows, 1}, std::vector<float>(rows, 0));
  auto noise = [&](int step, int lane) {
    return test::make_tensor(device, {rows, 4}, test::random_values(rows * 4, std::uint64_t(step * 4 + lane)));
  };
  auto real = [&](int step, int lane) {
    auto values = test::random_values(rows, std::uint64_t(1000003 + step * 4 + lane), 0.5f);
    for (auto& v : values) v += 3;
    return test::make_tensor(device, {rows, 1}, values);
  };
  float seed = 1.f / float(2 * rows);
  double drawn_sum = 0, drawn_count = 0;
  for (int step = 0; step < 6000; ++step) {
    // The discriminator sees real rows and drawn ones: two backward passes, of which the last lets buckets go.
    for_discriminator.begin_step();
    for (int lane = 0; lane < 2; ++lane) {
      for_discriminator.begin_lane(lane, 2);
      Tape a(device, {.sink = &for_discriminator});
      a.backward(ops::binary_cross_entropy(a, discriminator(a, real(step, lane)), ones), seed);
      Tape quiet(device, {.recording = false});
      Tensor drawn = generator(quiet, noise(step, lane));
      if (step >= 600)
        for (float v : download(device.queue(), drawn)) drawn_sum += v, ++drawn_count;
      Tape b(device, {.sink = &for_discriminator});
      b.backward(ops::binary_cross_entropy(b, discriminator(b, drawn), zeros), seed);
    }
    for_discriminator.finish_step();
    discriminator_step.step(5e-3f);

    for_generator.begin_step();
    discriminator.set.want_gradients(false);
    for (int lane = 0; lane < 2; ++lane) {
      for_generator.begin_lane(lane);
      Tape t(device, {.sink = &for_generator});
      t.backward(ops::binary_cross_entropy(t, discriminator(t, generator(t, noise(step, lane))), ones), seed);
    }
    discriminator.set.want_gradients(true);
    for_generator.finish_step();
    generator_step.step(5e-3f);
  }
  EXPECT_NEAR(drawn_sum / drawn_count, 3, 0.3);
}

TEST(Seams, BackwardPassesOfOneStepAddUp) {
  Device device;
  auto communicator = parallel::open_solo_communicator();
  auto group = solo_group();
  Net net(device, 4, 1);
  DataParallel strategy(net.set, *communicator, *group, {.lanes = 2});
  net.set.initialise(1);
  auto loss = [&](Tape& t, std::uint64_t seed) {
    return ops::squared_error(t, net(t, test::make_tensor(device, {8, 4}, test::random_values(32, seed))),
                              test::make_tensor(device, {8, 1}, test::random_values(8, seed + 1)));
  };
  auto gradients = [&](const std::vector<std::vector<std::uint64_t>>& seeds) {
    strategy.begin_step();
    for (int lane = 0; lane < 2; ++lane) {
      auto& passes = seeds[std::size_t(lane)];
      strategy.begin_lane(lane, int(passes.size()));
      for (auto seed : passes) {
        Tape t(device, {.sink = &strategy});
        t.backward(loss(t, seed));
      }
    }
    strategy.finish_step();
    return download(device.queue(), strategy.gradients());
  };
  auto together = gradients({{1, 3, 5}, {7, 9}});
  auto a = gradients({{1}, {3}}), b = gradients({{5}, {7}}), c = gradients({{9}, {1}}), d = gradients({{1}, {1}});
  for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i] + c[i] - d[i] / 2;
  EXPECT_LT(test::relative_norm(together, a), 1e-6);
}

TEST(Seams, FineTuningTheHeadLeavesTheBodyUntouched) {
  Device device;
  auto communicator = parallel::open_solo_communicator();
  auto group = solo_group();
  Net net(device, 4, 1);
  net.set.freeze("first.");
  DataParallel strategy(net.set, *communicator, *group, {.lanes = 1});
  net.set.initialise(1);
  EXPECT_LE(strategy.gradients().size, 128);  // 33 elements and padding: frozen parameters own no gradient memory
  optim::Sgd sgd(net.set, strategy.flat(), strategy.gradients(), {.momentum = 0.9f});
  auto body = download(device.queue(), net.first.weight), head = download(device.queue(), net.last.weight);
  Tensor x = test::make_tensor(device, {16, 4}, test::random_values(64, 1)),
         y = test::make_tensor(device, {16, 1}, test::random_values(16, 2));
  float first = 0, last = 0;
  for (int step = 0; step < 50; ++step) {
    strategy.begin_step();
    strategy.begin_lane(0);
    Tape t(device, {.sink = &strategy});
    Tensor loss = ops::squared_error(t, net(t, x), y);
    last = download(device.queue(), loss)[0];
    if (step == 0) first = last;
    t.backward(loss, 1.f / 16);
    strategy.finish_step();
    sgd.step(0.05f);
  }
  EXPECT_LT(last, 0.5f * first);
  EXPECT_EQ(download(device.queue(), net.first.weight), body);
  EXPECT_NE(download(device.queue(), net.last.weight), head);
}

/// The loss after training a small GPT on a fixed text in one precision.
float trained_loss(DType compute, DType gradient, bool masters = true) {
  Device device;
  auto communicator = parallel::open_solo_communicator();
  auto group = solo_group();
  ParameterSet set(device, compute, masters);
  nn::Gpt model(set, nn::Gpt::size("nano"));
  DataParallel strategy(set, *communicator, *group, {.lanes = 2, .gradient = gradient});
  set.initialise(1);
  optim::AdamW adamw(set, strategy.flat(), strategy.gradients(), {.decay = 0.1f});
  if (compute == DType::f16) adamw.scale_loss(0x1p24f, {.interval = 10});
  Tensor upstream(device, {1});
  const std::string text = "In the beginning God created the heaven and the earth. And the earth was without form, and void; ";
  float loss = 0;
  auto skipped = [&] { return adamw.scales_loss() ? int(adamw.loss_scale()[int(kernels::LossScale::skipped)]) : 0; };
  for (int step = 0; step - skipped() < 60; ++step) {  // as many updates for all
    kernels::fill(device.queue(), upstream.view(), 1.f / 512);
    if (adamw.scales_loss()) adamw.scale_upstream(upstream.view());
    strategy.begin_step();
    loss = 0;
    for (int lane = 0; lane < 2; ++lane) {
      std::vector<std::int32_t> inputs, targets;
      for (int row = 0; row < 4; ++row)
        for (int i = 0; i < 64; ++i) {
          std::size_t at = std::size_t(step * 13 + lane * 29 + row * 7 + i);
          inputs.push_back(text[at % text.size()]);
          targets.push_back(text[(at + 1) % text.size()]);
        }
      strategy.begin_lane(lane);
      Tape t(device, {.sink = &strategy, .upstream = upstream});
      Tensor logits = model.forward(t, test::make_indices(device, {4, 64}, inputs));
      Tensor sum = ops::cross_entropy(t, logits, test::make_indices(device, {4, 64}, targets));
      loss += download(device.queue(), sum)[0] / 512;
      t.backward(sum);
    }
    strategy.finish_step();
    adamw.step(3e-3f, 1);
  }
  EXPECT_EQ(skipped() > 0, compute == DType::f16) << "a first scale that is too large";
  return loss;
}

/// What is left of the loss after fitting a linear map by updates that lie far below the last place of weights around 1.
double share_of_loss_left(DType dtype, bool masters) {
  Device device;
  ParameterSet set(device, dtype, masters);
  const std::int64_t rows = 64, inputs = 8, outputs = 4;
  Tensor w = set.add("w", {outputs, inputs}, Initial::normal(0, 1));
  auto communicator = parallel::open_solo_communicator();
  auto group = solo_group();
  DataParallel strategy(set, *communicator, *group, {});
  set.initialise(1);
  optim::AdamW adamw(set, strategy.flat(), strategy.gradients(), {});
  Tensor teacher = test::make_tensor(device, {outputs, inputs}, test::random_values(outputs * inputs, 2), dtype);
  double first = 0, last = 0;
  for (int step = 0; step < 6000; ++step) {
    strategy.begin_step();
    strategy.begin_lane(0);
    Tape t(device, {.sink = &strategy}), none(device, {.recording = false});
    Tensor x = test::make_tensor(device, {rows, inputs}, test::random_values(rows * inputs, std::uint64_t(100 + step)), dtype);
    auto f32 = [&](Tape& tape, const Tensor& y) { return dtype == DType::f32 ? y : ops::cast(tape, y, DType::f32); };
    Tensor loss = ops::squared_error(t, f32(t, ops::linear(t, x, w)), f32(none, ops::linear(none, x, teacher)));
    last = download(device.queue(), loss)[0];
    if (step == 0) first = last;
    t.backward(loss, 1.f / float(rows));
    strategy.finish_step();
    adamw.step(1e-3f);
  }
  return last / first;
}

// Rounded to the nearest, most of these updates would change nothing.
TEST(Seams, SmallUpdatesCountWithoutMasters) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);  // 6000 steps of next to no work
  EXPECT_LT(share_of_loss_left(DType::f32, true), 1e-3);
  EXPECT_LT(share_of_loss_left(DType::bf16, true), 1e-3);
  EXPECT_LT(share_of_loss_left(DType::bf16, false), 1e-3);  // to the nearest: 0.7
  EXPECT_LT(share_of_loss_left(DType::f16, false), 1e-3);   // to the nearest: 6e-3
  omp_set_num_threads(threads);
}

// Three standard deviations. Measured with the seeds 1 to 5, each against f32 with the same initial weights: bf16 without masters
// ends 0.1 % above f32 in the mean, with a standard deviation of 2.2 % from seed to seed. Masters, which are not rounded at
// random, make it no smaller (2.8 %), and f32 itself spreads by 4.5 %. f16 has skipped steps, and so other batches, behind it.
TEST(Seams, SixteenBitsWithoutMastersLearnAsF32Does) {
  float f32 = trained_loss(DType::f32, DType::f32);
  EXPECT_NEAR(trained_loss(DType::bf16, DType::f32, false), f32, 3 * 0.022f * f32);
  EXPECT_NEAR(trained_loss(DType::f16, DType::f32, false), f32, 0.1f * f32);
}

TEST(Seams, SixteenBitsWithF32MastersLearnAsF32Does) {
  float f32 = trained_loss(DType::f32, DType::f32);
  EXPECT_LT(f32, 1.5f);  // from 5.5: uniform over 256 bytes
  EXPECT_NEAR(trained_loss(DType::bf16, DType::f32), f32, 0.1f * f32);
  EXPECT_NEAR(trained_loss(DType::bf16, DType::bf16), f32, 0.1f * f32);
  EXPECT_NEAR(trained_loss(DType::f16, DType::f32), f32, 0.1f * f32);
  EXPECT_NEAR(trained_loss(DType::f16, DType::f16), f32, 0.1f * f32);
}

}  // namespace
}  // namespace lockstep
