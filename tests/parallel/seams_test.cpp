#include <gtest/gtest.h>

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
  // Two models, two optimizers and three backward passes a step: the generator learns to draw from normal(3, 0.5).
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
  for (int step = 0; step < 600; ++step) {
    // The discriminator sees real rows and drawn ones: two backward passes, of which the last lets buckets go.
    for_discriminator.begin_step();
    for (int lane = 0; lane < 2; ++lane) {
      for_discriminator.begin_lane(lane, 2);
      Tape a(device, {.sink = &for_discriminator});
      a.backward(ops::binary_cross_entropy(a, discriminator(a, real(step, lane)), ones), seed);
      Tape quiet(device, {.recording = false});
      Tensor drawn = generator(quiet, noise(step, lane));
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
  Tape t(device, {.mode = Mode::evaluate, .recording = false});
  double sum = 0;
  for (int i = 0; i < 8; ++i)
    for (float v : download(device.queue(), generator(t, noise(100000 + i, 0)))) sum += v;
  EXPECT_NEAR(sum / double(8 * rows), 3, 0.5);
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

}  // namespace
}  // namespace lockstep
