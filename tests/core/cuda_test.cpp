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

TEST_F(Cuda, CopiesBothWays) {
  for (std::int64_t n : {1, 3, 1000003}) {
    auto values = random_values(n, 5);
    Tensor there = make_tensor(*device, {n}, values), again = poisoned(*device, {n});
    kernels::copy(queue(), again.view(), there.view());
    EXPECT_EQ(download(queue(), there), values);
    EXPECT_EQ(download(queue(), again), values);
  }
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
