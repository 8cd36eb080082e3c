#include "core/captured_step.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <set>

#include "core/nn/gpt.h"
#include "core/nn/resnet.h"
#include "core/ops.h"
#include "core/optim/adamw.h"
#include "core/optim/sgd.h"
#include "kernels/memory.h"
#include "tests/support/devices.h"
#include "tests/support/model.h"

// A step is captured on a GPU as a CUDA graph and on a CPU as a list of kernels; either must give what the same step gives call
// by call, as long as nothing but the contents of the device's memory changes.
namespace lockstep {
namespace {

using test::make_tensor;
using test::random_values;

/// A model in training, all of whose steps read the same memory.
struct Run {
  using Loss = std::function<Tensor(Tape&, const Tensor& inputs, const Tensor& targets)>;

  Run(Device& device, DType dtype) : device(device), set(device, dtype) {}
  /// After the model's parameters are in the set.
  void start(bool adam) {
    placed = std::make_unique<test::Placed>(set);
    if (adam)
      optimizer = std::make_unique<optim::AdamW>(set, placed->flat, placed->gradients, optim::AdamW::Options{});
    else
      optimizer = std::make_unique<optim::Sgd>(set, placed->flat, placed->gradients,
                                               optim::Sgd::Options{.momentum = 0.9f, .dampening = 0.5f});
    if (set.dtype() == DType::f16) optimizer->scale_loss(0x1p24f, {.interval = 2});
    upstream = make_tensor(device, {1}, {0});
    number = Tensor(device, {1}, DType::i32);
  }
  /// What changes from step to step.
  void prepare(int step) {
    const float mean = 1 / float(8 + step);
    kernels::store(device.queue(), upstream.view(), {&mean, 1});
    if (optimizer->scales_loss()) optimizer->scale_upstream(upstream.view());
    kernels::store(device.queue(), number.view(), step);
    optimizer->prepare(0.01f / float(step));
  }
  void work() {
    placed->clear();
    Tape tape(device, {.random = {.seed = 7, .step_at = number.view().as<std::int32_t>()}, .upstream = upstream});
    value = loss(tape, inputs, targets);
    tape.backward(value);
    optimizer->update(0.5f);
  }

  Device& device;
  ParameterSet set;
  std::unique_ptr<test::Placed> placed;
  std::unique_ptr<optim::Optimizer> optimizer;
  Tensor inputs, targets, upstream, number, value;
  Loss loss;
};

struct Case {
  bool adam;
  std::function<void(Run&)> build;
};

void build_gpt(Run& run, bool recompute) {
  auto model = std::make_shared<nn::Gpt>(
      run.set,
      nn::Gpt::Options{
          .vocabulary = 50, .length = 16, .layers = 2, .width = 32, .heads = 2, .dropout = 0.2f, .recompute = recompute});
  run.loss = [model](Tape& t, const Tensor& x, const Tensor& y) {
    return ops::cross_entropy(t, model->forward(t, x), y, {.label_smoothing = 0.1f});
  };
  run.inputs = Tensor(run.device, {2, 16}, DType::i32);
  run.targets = Tensor(run.device, {2, 16}, DType::i32);
}

void build_resnet(Run& run) {
  auto model = std::make_shared<nn::ResNet>(
      run.set, nn::ResNet::Options{.depth = 18, .height = 8, .width = 8, .channels = 2, .classes = 50, .small_stem = true});
  run.loss = [model](Tape& t, const Tensor& x, const Tensor& y) { return ops::cross_entropy(t, model->forward(t, x), y); };
  run.inputs = Tensor(run.device, {4, 8, 8, 2}, run.set.dtype());
  run.targets = Tensor(run.device, {4}, DType::i32);
}

/// Loss, norm and weights after each of ten steps; from the fourth on captured and replayed, or not.
std::vector<std::vector<float>> train(Device& device, DType dtype, const Case& c, bool captured) {
  Run run(device, dtype);
  c.build(run);
  run.start(c.adam);
  std::vector<std::vector<float>> all;
  CapturedStep step(device);
  for (int i = 1; i <= 10; ++i) {
    auto labels = [&](const Tensor& to, int seed) {
      std::vector<std::int32_t> values(std::size_t(to.size()));
      for (std::size_t k = 0; k < values.size(); ++k) values[k] = std::int32_t((k * 13 + std::size_t(seed * i) * 29) % 50);
      upload(device.queue(), to, values);
    };
    if (run.inputs.dtype() == DType::i32)
      labels(run.inputs, 1);
    else
      upload(device.queue(), run.inputs, random_values(run.inputs.size(), std::uint64_t(i)));
    labels(run.targets, 2);
    run.prepare(i);
    if (captured && i == 4) step.capture([&] { run.work(); });
    if (captured && i >= 4)
      step.replay();
    else
      run.work();
    all.push_back(download(device.queue(), run.value));
    const float norm = run.optimizer->gradient_norm();
    all.push_back({std::isfinite(norm) ? norm : -1});
    if (run.optimizer->scales_loss()) all.back().push_back(run.optimizer->loss_scale()[int(kernels::LossScale::scale)]);
    all.push_back(download(device.queue(), run.placed->flat.masters));
    // What others do between steps must not disturb it, nor it them.
    auto values = random_values(10000, std::uint64_t(i));
    EXPECT_EQ(download(device.queue(), make_tensor(device, {100, 100}, values)), values);
  }
  return all;
}

/// In training, a captured step gives what calls give.
void compare(const Case& c) {
  const int threads = omp_get_max_threads();
  omp_set_num_threads(1);  // bf16 products of oneDNN 2.6 on AMX are now and then other ones with two
  for (auto& device : test::devices())
    for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      SCOPED_TRACE(device->name() + " " + name_of(dtype));
      auto eager = train(*device, dtype, c, false), captured = train(*device, dtype, c, true);
      ASSERT_EQ(eager.size(), captured.size());
      for (std::size_t i = 0; i < eager.size(); ++i)
        ASSERT_TRUE(eager[i] == captured[i]) << eager[i][0] << " and " << captured[i][0] << ", "
                                             << "step " << i / 3 + 1 << ", "
                                             << (i % 3 == 0   ? "loss"
                                                 : i % 3 == 1 ? "norm"
                                                              : "weights");
      EXPECT_NE(eager[3], eager[27]) << "the loss moves";
      if (dtype == DType::f16) {  // both ways, while steps are replayed
        bool halved = false, doubled = false;
        for (std::size_t i = 13; i < eager.size(); i += 3) {
          halved |= eager[i][1] < eager[i - 3][1];
          doubled |= eager[i][1] > eager[i - 3][1];
        }
        EXPECT_TRUE(halved && doubled);
      }
      EXPECT_TRUE(std::isfinite(eager[27][0]));
    }
  omp_set_num_threads(threads);
}

TEST(CapturedStep, OfAGptWithDropout) {
  compare({true, [](auto& run) { build_gpt(run, false); }});
}
TEST(CapturedStep, OfAGptThatRecomputes) {
  compare({false, [](auto& run) { build_gpt(run, true); }});
}
TEST(CapturedStep, OfAResNet) {
  compare({false, build_resnet});
}

// What a step was told by value stays what it was: that is why its numbers lie in memory.
TEST(CapturedStep, ValuesAreThoseOfTheCapture) {
  for (auto& device : test::devices()) {
    Tensor y = make_tensor(*device, {3}, {0, 0, 0});
    float value = 2;
    CapturedStep step(*device);
    step.capture([&] { kernels::fill(device->queue(), y.view(), value); });
    EXPECT_EQ(download(device->queue(), y), (std::vector<float>{0, 0, 0})) << "captured, not run";
    value = 3;
    step.replay();
    EXPECT_EQ(download(device->queue(), y), (std::vector<float>{2, 2, 2}));
    EXPECT_EQ(step.kernels() > 0, device->kind() == DeviceKind::cpu);
    EXPECT_THROW(step.capture([] {}), Error) << "once";
  }
}

TEST(CapturedStep, WaitingAndFailingLeaveNothingBehind) {
  for (auto& device : test::devices()) {
    const Queue& q = device->queue();
    Tensor x = make_tensor(*device, {4, 4}, random_values(16, 1)), w = make_tensor(*device, {4, 4}, random_values(16, 2));
    w->wants_gradient = true;
    CapturedStep step(*device);
    EXPECT_THROW(step.capture([&] { download(q, x); }), Error) << "a read";
    EXPECT_THROW(step.capture([&] { kernels::synchronize(q); }), Error) << "a wait";
    EXPECT_THROW(step.capture([&] {
      Tape t(*device);
      ops::linear(t, x, w);
      throw Error("something else");
    }),
                 Error);
    EXPECT_FALSE(step);
    EXPECT_THROW(step.replay(), Error);
    EXPECT_EQ(w->pending_uses, 0) << "the tape is gone";
    // The device works as before, and can capture.
    Tensor y = make_tensor(*device, {1}, {0});
    auto work = [&] { kernels::sum_all(q, y.view(), x.view(), Write::accumulate); };
    work();
    float once = download(q, y)[0];
    step.capture(work);
    step.replay();
    step.replay();
    EXPECT_NEAR(download(q, y)[0], 3 * once, 1e-4);
  }
}

// Memory that a captured step was handed is nobody else's while the step lives, and free again afterwards.
TEST(CapturedStep, KeepsItsMemory) {
  for (auto& device : test::devices()) {
    const Queue& q = device->queue();
    auto all = [](float value) { return std::vector<float>(1000, value); };
    Tensor x = make_tensor(*device, {1000}, all(1)), y = make_tensor(*device, {1000}, all(0));
    std::set<const void*> used;
    auto work = [&] {  // through memory that lives in the step alone
      Tensor a(*device, {1000}), b(*device, {1000});
      used = {a.view().data, b.view().data};
      kernels::scale(q, a.view(), x.view(), 2);
      kernels::scale(q, b.view(), a.view(), 2);
      kernels::copy(q, y.view(), b.view());
    };
    work();
    const auto before = used;
    work();
    EXPECT_EQ(used, before) << "the same step gets the same addresses";
    const std::size_t live = device->arena().live_bytes();
    {
      CapturedStep step(*device);
      step.capture(work);
      EXPECT_EQ(used, before);
      EXPECT_EQ(device->arena().live_bytes(), live);
      std::vector<Tensor> others;
      for (int i = 0; i < 8; ++i) {
        others.push_back(make_tensor(*device, {1000}, all(float(i))));
        EXPECT_FALSE(used.contains(others.back().view().data)) << i;
      }
      step.replay();
      EXPECT_EQ(download(q, y), all(4));
      for (int i = 0; i < 8; ++i) EXPECT_EQ(download(q, others[std::size_t(i)]), all(float(i)));
      others.clear();
    }
    EXPECT_EQ(device->arena().live_bytes(), live);
    std::set<const void*> again;
    std::vector<Tensor> later;
    for (int i = 0; i < 16; ++i) again.insert(later.emplace_back(*device, Shape{1000}).view().data);
    for (const void* address : before) EXPECT_TRUE(again.contains(address)) << "given back";
  }
}

}  // namespace
}  // namespace lockstep
