#include "core/downloads.h"

#include <gtest/gtest.h>

#include <thread>

#include "core/captured_step.h"
#include "kernels/memory.h"
#include "kernels/unary.h"
#include "tests/support/devices.h"

namespace lockstep {
namespace {

/// A tensor of a GPU, and host memory for two copies of its first and its second half each.
struct Halves {
  static constexpr std::int64_t size = 1 << 14;
  const Queue& q;
  Tensor x;
  Memory memory;

  explicit Halves(Device& device) : q(device.queue()), x(device, {size}, DType::f32) {
    const Arena::Source source = host_source(q);
    memory = Memory(source.allocate(size * sizeof(float)), source.release);
  }
  std::vector<Downloads::Copy> copies() const {
    const View to{memory.get(), size, DType::f32};
    return {{to.slice(size / 2, size / 2), x.view().slice(size / 2, size / 2)},
            {to.slice(0, size / 2), x.view().slice(0, size / 2)}};
  }
  void expect(float value, int step) const {
    const auto* values = reinterpret_cast<const float*>(memory.get());
    for (std::int64_t i = 0; i < size; ++i) ASSERT_EQ(values[i], value) << "step " << step;
  }
};

TEST(Downloads, ProcessorsNeedNone) {
  EXPECT_EQ(open_downloads(Device().queue()), nullptr);
}

TEST(Downloads, BringWhatTheQueueMadeAndOverwritesBehindHold) {
  for (auto& device : test::devices()) {
    auto downloads = open_downloads(device->queue());
    if (!downloads) continue;
    const Halves halves(*device);
    for (int step = 0; step < 40; ++step) {
      kernels::fill(halves.q, halves.x.view(), float(step));
      downloads->start(halves.copies());
      downloads->hold();
      kernels::fill(halves.q, halves.x.view(), -1);
      std::thread([&] { downloads->finish(); }).join();
      halves.expect(float(step), step);
    }
  }
}

// A replay waits for the copies that were started before it, though none were when it was captured.
TEST(Downloads, HoldInACapturedStep) {
  for (auto& device : test::devices()) {
    auto downloads = open_downloads(device->queue());
    if (!downloads) continue;
    const Halves halves(*device);
    const View x = halves.x.view();
    kernels::fill(halves.q, x, 1);
    CapturedStep step(*device);
    step.capture([&] {
      downloads->hold();
      kernels::scale(halves.q, x, x, 1, Write::accumulate);
    });
    float value = 1;
    for (int i = 0; i < 40; ++i) {
      const bool copies = i % 3 != 0;
      if (copies) downloads->start(halves.copies());
      step.replay();
      if (copies) {
        downloads->finish();
        halves.expect(value, i);
      }
      value *= 2;
    }
  }
}

}  // namespace
}  // namespace lockstep
