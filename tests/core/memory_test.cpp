#include "core/memory.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <set>

#include "core/device.h"
#include "kernels/base/check.h"

namespace lockstep {
namespace {

TEST(Arena, TheSameSequenceGetsTheSameAddresses) {
  Device device;
  auto run = [&] {
    std::vector<std::byte*> addresses;
    std::vector<Memory> held;
    for (std::size_t bytes : {100, 5000, 100, 70000, 300, 5000}) {
      held.push_back(device.arena().allocate(bytes));
      addresses.push_back(held.back().get());
      if (held.size() == 3) held.erase(held.begin());
    }
    return addresses;
  };
  run();
  auto first = run(), second = run(), third = run();
  EXPECT_EQ(second, third);
  EXPECT_EQ(std::set(first.begin(), first.end()).size(), std::set(second.begin(), second.end()).size());
}

TEST(Arena, CountsLiveAndPeak) {
  Device device;
  auto& arena = device.arena();
  {
    Memory a = arena.allocate(1000), b = arena.allocate(100000);
    EXPECT_GE(arena.live_bytes(), 101000u);
    EXPECT_LE(arena.live_bytes(), 120000u);
  }
  EXPECT_EQ(arena.live_bytes(), 0u);
  EXPECT_GE(arena.peak_bytes(), 101000u);
  arena.reset_peak();
  EXPECT_EQ(arena.peak_bytes(), 0u);
  Memory used = arena.allocate(1000);
  EXPECT_GE(arena.reserved_bytes(), 101000u);  // kept for tensors to come
  arena.release_unused();
  EXPECT_EQ(arena.reserved_bytes(), arena.live_bytes());
  EXPECT_GE(arena.live_bytes(), 1000u);
}

TEST(Arena, MemoryIsAlignedAndMayOutliveTheArena) {
  Memory kept;
  {
    Device device;
    for (std::size_t bytes : {0, 1, 255, 257, 4097, 100000, 1000003}) {
      kept = device.arena().allocate(bytes);
      EXPECT_EQ(std::uintptr_t(kept.get()) % 256, 0u);
      if (bytes) kept.get()[bytes - 1] = std::byte(1);
    }
  }
  kept.get()[1000002] = std::byte(2);
}

TEST(Arena, FullMemorySaysWhoOwnsWhat) {
  constexpr std::size_t mib = 1 << 20;
  std::size_t room = 20 * mib;
  Arena arena(
      {.allocate = [&](std::size_t bytes) -> std::byte* {
         if (bytes > room) return nullptr;
         room -= bytes;
         return static_cast<std::byte*>(std::malloc(bytes));
       },
       .release = [&](std::byte* data) { std::free(data); },
       .capacity =
           [&] {
             return Arena::Capacity{.name = "a GPU", .total = 100 * mib, .free = 9 * mib, .owners = {{"workspaces", 2 * mib}}};
           }});
  Memory tensors = arena.allocate(4 * mib);
  Memory gradients = arena.adopt("gradients", host_memory(3 * mib), 3 * mib);
  Memory more = arena.adopt("gradients", host_memory(2 * mib), 2 * mib);
  std::string said;
  try {
    arena.allocate(64 * mib);
  } catch (const Error& error) {
    said = error.what();
  }
  EXPECT_NE(said.find("64 MiB more were asked for"), std::string::npos) << said;
  for (const char* line : {"\n         4 MiB  tensors and optimizer state in use", "\n         5 MiB  gradients", "\n         2 MiB  workspaces",
                           "\n        80 MiB  all else", "\n         9 MiB  free, of 100 MiB on a GPU"})
    EXPECT_NE(said.find(line), std::string::npos) << line << " in" << said;
  gradients.reset();
  EXPECT_NE(arena.owners().find("\n         2 MiB  gradients"), std::string::npos) << arena.owners();
  more.reset();
  EXPECT_EQ(arena.owners().find("gradients"), std::string::npos) << arena.owners();
}

TEST(Arena, FullMemoryIsAnErrorAfterUnusedBlocksWereReturned) {
  std::size_t room = 100000;
  Arena arena({[&](std::size_t bytes) -> std::byte* {
                 if (bytes > room) return nullptr;
                 room -= bytes;
                 return static_cast<std::byte*>(std::malloc(bytes));
               },
               [&](std::byte* data) {
                 std::free(data);
                 room += 65536;
               }});
  { Memory a = arena.allocate(65536); }
  Memory b = arena.allocate(40000);  // fits only when the unused 64 KiB go back first
  EXPECT_THROW(arena.allocate(1 << 20), Error);
}

}  // namespace
}  // namespace lockstep
