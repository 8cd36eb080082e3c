// What only a GPU has. Every other test runs on all devices present; these say why they were skipped.

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/matmul.h"
#include "kernels/memory.h"
#include "kernels/version.h"
#include "tests/support/devices.h"

namespace lockstep {
namespace {

using namespace test;

bool built_with_cuda() {
  auto versions = kernels::versions();
  return std::any_of(versions.begin(), versions.end(), [](const Version& v) { return v.name == "CUDA" && !v.built.empty(); });
}

/// The message of the Error that work() throws, or nothing.
template <class Work>
std::string error_of(Work work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class Cuda : public testing::Test {
 protected:
  void SetUp() override {
    if (!built_with_cuda()) GTEST_SKIP() << "built without CUDA";
    if (Device::cuda_count() == 0) GTEST_SKIP() << "no GPU is visible to this process";
    device = std::make_unique<Device>(DeviceKind::cuda);
  }
  const Queue& queue() { return device->queue(); }
  std::unique_ptr<Device> device;
};

TEST(WithoutCuda, AskingForAGpuSaysWhatIsMissing) {
  if (Device::cuda_count() > 0) GTEST_SKIP() << "this machine has a GPU";
  std::string said = error_of([] { Device device(DeviceKind::cuda); });
  EXPECT_NE(said.find(built_with_cuda() ? "this process sees 0 GPUs" : "built without CUDA"), std::string::npos) << said;
}

TEST_F(Cuda, Opens) {
  EXPECT_EQ(device->kind(), DeviceKind::cuda);
  EXPECT_FALSE(device->name().empty());
  EXPECT_TRUE(queue().on_gpu);
  EXPECT_NE(queue().stream, nullptr) << "the default stream cannot be captured";
  EXPECT_TRUE(queue().cuda && queue().cpu);
  std::string missing = error_of([] { Device none(DeviceKind::cuda, Device::cuda_count()); });
  EXPECT_NE(missing.find("cuda:" + std::to_string(Device::cuda_count())), std::string::npos) << missing;
}

TEST_F(Cuda, ArenaGivesTheSameAddressesAgain) {
  auto run = [&] {
    Memory a = device->arena().allocate(1000), b = device->arena().allocate(70000);
    EXPECT_EQ(std::uintptr_t(a.get()) % 256, 0u);
    EXPECT_EQ(std::uintptr_t(b.get()) % 256, 0u);
    return std::pair{a.get(), b.get()};
  };
  auto first = run();
  EXPECT_EQ(run(), first);
  EXPECT_EQ(device->arena().live_bytes(), 0u);
  EXPECT_GE(device->arena().reserved_bytes(), 71000u);
}

// At the sizes of GPT-2's MLP, where cuBLASLt fuses, against the CPU; twice, for the same bits. The last form adds to the bias
// gradient, which no epilogue does.
TEST_F(Cuda, EpiloguesOfProductsAreThoseOfTheCpu) {
  const std::int64_t rows = 256, width = 768, hidden = 3072;
  using kernels::matmul;
  for (DType bias : {DType::bf16, DType::f32})
    for (Write write : {Write::overwrite, Write::accumulate}) {
      auto results = [&](Device& on) {
        const Queue& q = on.queue();
        auto made = [&](Shape shape, std::uint64_t seed, float deviation = 1) {
          return make_tensor(on, shape, random_values(count(shape), seed, deviation), DType::bf16);
        };
        Tensor x = made({rows, width}, 1), w1 = made({hidden, width}, 2, 0.03f), b1 = made({hidden}, 3);
        Tensor w2 = made({width, hidden}, 4, 0.03f), dy = made({rows, width}, 5);
        Tensor h = poisoned(on, {rows, hidden}, DType::bf16), kept = poisoned(on, {rows, hidden}, DType::bf16);
        Tensor d = poisoned(on, {rows, hidden}, DType::bf16), dw = poisoned(on, {width, hidden}, bias);
        Tensor db1 = make_tensor(on, {hidden}, random_values(hidden, 6), bias);
        Tensor db2 = make_tensor(on, {width}, random_values(width, 7), bias);
        matmul(q, h.view(), x.view(), w1.view(), rows, hidden, width,
               {.transpose_b = true, .bias = b1.view(), .activation = Unary::gelu_tanh, .kept = kept.view()});
        matmul(q, d.view(), dy.view(), w2.view(), rows, hidden, width,
               {.slope = kernels::Slope{Unary::gelu_tanh, kept.view(), h.view()},
                .bias_gradient = db1.view(),
                .write_bias_gradient = write});
        matmul(q, dw.view(), dy.view(), h.view(), width, hidden, rows,
               {.transpose_a = true, .bias_gradient = db2.view(), .write_bias_gradient = write});
        std::vector<std::vector<float>> all;
        for (auto& one : {h, d, dw, db1, db2}) all.push_back(download(q, one));
        return all;
      };
      Device cpu;
      auto expected = results(cpu), first = results(*device), second = results(*device);
      EXPECT_EQ(first, second);
      for (std::size_t i = 0; i < expected.size(); ++i) EXPECT_LT(relative_norm(first[i], expected[i]), 1e-2) << i;
    }
}

TEST_F(Cuda, CopiesBothWays) {
  for (std::int64_t n : {1, 3, 1000003}) {
    auto values = random_values(n, 5);
    Tensor there = make_tensor(*device, {n}, values), again = poisoned(*device, {n});
    kernels::copy(queue(), again.view(), there.view());
    EXPECT_EQ(download(queue(), there), values);
    EXPECT_EQ(download(queue(), again), values);
  }
  Arena pinned(host_source(queue()));
  Memory host = pinned.allocate(4000);
  const View floats{host.get(), 1000, DType::f32};
  for (int i = 0; i < 1000; ++i) floats.as<float>()[i] = float(i);
  Tensor there = poisoned(*device, {1000});
  kernels::copy(queue(), there.view(), floats);
  kernels::scale(queue(), there.view(), there.view(), 2, Write::overwrite);
  kernels::copy(queue(), floats, there.view());
  kernels::synchronize(queue());
  for (int i = 0; i < 1000; ++i) ASSERT_EQ(floats.as<float>()[i], float(2 * i));
  Tensor indices = make_indices(*device, {3}, {7, -1, 1 << 30});
  EXPECT_EQ(download(queue(), indices), (std::vector<float>{7, -1, float(1 << 30)}));
}

TEST_F(Cuda, FullMemoryIsOneSentenceAndTheDeviceGoesOn) {
  std::string said = error_of([&] { device->arena().allocate(std::size_t(1) << 50); });
  EXPECT_NE(said.find("out of memory: 1073741824 MiB more were asked for"), std::string::npos) << said;
  EXPECT_NE(said.find("rows_per_lane"), std::string::npos) << said;
  Tensor a = make_tensor(*device, {2, 2}, {1, 2, 3, 4}), y = poisoned(*device, {2, 2});
  kernels::matmul(queue(), y.view(), a.view(), a.view(), 2, 2, 2);
  EXPECT_EQ(download(queue(), y), (std::vector<float>{7, 10, 15, 22}));
}

}  // namespace
}  // namespace lockstep
