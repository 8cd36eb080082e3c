#include "core/uploads.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <set>
#include <thread>

#include "kernels/memory.h"
#include "tests/support/devices.h"

namespace lockstep {
namespace {

void fill(Uploads::Slot& slot, std::int64_t n, float value) {
  auto* values = reinterpret_cast<float*>(Uploads::host(slot));
  for (std::int64_t i = 0; i < n; ++i) values[i] = value + float(i % 7);
}
Tensor tensor(const Memory& memory, std::int64_t n) {
  return Tensor({n}, View{memory.get(), n, DType::f32}, memory);
}

// One thread fills and sends, another takes; the queue's work on a piece is slow, and its memory is filled again right away.
TEST(Uploads, BringWhatWasFilledThoughMemoryIsUsedAgain) {
  for (auto& device : test::devices()) {
    const Queue& q = device->queue();
    const std::int64_t n = 1 << 16;
    const int pieces = 50;
    Uploads uploads(*device, "test");
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Uploads::Slot*> ready;
    std::thread filler([&] {
      for (int i = 0; i < pieces; ++i) {
        {
          std::unique_lock lock(mutex);
          changed.wait(lock, [&] { return ready.size() < 3; });
        }
        const std::int64_t size = i < 25 ? n / 2 : n;
        Uploads::Slot& slot = uploads.begin(std::size_t(size) * 4);
        fill(slot, size, float(i));
        uploads.send(slot, std::size_t(size) * 4);
        std::lock_guard lock(mutex);
        ready.push_back(&slot);
        changed.notify_all();
      }
    });
    std::set<std::byte*> addresses;
    std::vector<Tensor> sums;
    for (int i = 0; i < pieces; ++i) {
      Uploads::Slot* slot = nullptr;
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return !ready.empty(); });
        slot = ready.front();
        ready.pop_front();
      }
      changed.notify_all();
      const std::int64_t size = i < 25 ? n / 2 : n;
      const Memory memory = uploads.take(*slot);
      addresses.insert(memory.get());
      Tensor x = tensor(memory, size), sum = test::poisoned(*device, {size});
      kernels::fill(q, sum.view(), 0);
      for (int k = 0; k < 8; ++k) kernels::scale(q, sum.view(), x.view(), 1, Write::accumulate);
      sums.push_back(sum);
    }
    filler.join();
    for (int i = 0; i < pieces; ++i) {
      const auto values = download(q, sums[std::size_t(i)]);
      for (std::size_t k = 0; k < values.size(); ++k) ASSERT_EQ(values[k], 8 * (float(i) + float(k % 7))) << i;
    }
    EXPECT_LE(addresses.size(), 16u) << "memory is used again";
  }
}

TEST(Uploads, MemoryThatIsHeldIsNotFilledAgainAndOutlivesThem) {
  for (auto& device : test::devices()) {
    const Queue& q = device->queue();
    std::vector<Tensor> held;
    {
      Uploads uploads(*device, "test");
      std::byte* last = nullptr;
      for (int i = 0; i < 6; ++i) {
        Uploads::Slot& slot = uploads.begin(4000);
        fill(slot, 1000, float(100 * i));
        uploads.send(slot, 4000);
        const Memory memory = uploads.take(slot);
        if (i < 3) held.push_back(tensor(memory, 1000));
        if (i == 5) {
          EXPECT_EQ(memory.get(), last) << "given back, marked by the take() after that, filled again";
        }
        last = i == 3 ? memory.get() : last;
      }
      EXPECT_NE(device->arena().owners().find("MiB  test"), std::string::npos);
      EXPECT_THROW(uploads.send(uploads.begin(10), 1 << 20), Error);
    }
    for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(download(q, held[i])[8], 100 * float(i) + 1);
  }
}

}  // namespace
}  // namespace lockstep
