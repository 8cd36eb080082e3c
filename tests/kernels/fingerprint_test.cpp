#include "kernels/fingerprint.h"

#include <gtest/gtest.h>

#include <numeric>
#include <set>

#include "kernels/memory.h"
#include "tests/support/kernel_checks.h"

namespace lockstep {
namespace {

using namespace test;

/// The total of the sums over blocks.
std::uint64_t of(Device& device, const Tensor& x) {
  const std::int64_t blocks = kernels::fingerprint_blocks(x.view().bytes());
  Tensor sums(device, {8 * blocks}, DType::u8);
  std::vector<std::uint64_t> host(static_cast<std::size_t>(blocks));
  kernels::fingerprint(device.queue(), sums.view(), x.view());
  kernels::copy(device.queue(), {host.data(), 8 * blocks, DType::u8}, sums.view());
  kernels::synchronize(device.queue());
  return std::accumulate(host.begin(), host.end(), std::uint64_t(0));
}

/// The definition, word by word.
std::uint64_t expected(const std::vector<std::int32_t>& words) {
  std::uint64_t total = 0;
  for (std::size_t i = 0; i < words.size(); ++i) {
    std::uint64_t x = i * 0x9E3779B97F4A7C15u + std::uint32_t(words[i]);
    x ^= x >> 30, x *= 0xBF58476D1CE4E5B9u;
    x ^= x >> 27, x *= 0x94D049BB133111EBu;
    total += x ^ (x >> 31);
  }
  return total;
}

TEST(Fingerprint, IsTheSameOnEveryDeviceAndWithAnyThreads) {
  for (auto& device : devices())
    for (std::int64_t n : {1, 2, 1000, 16384, 16385, 300007}) {
      std::vector<std::int32_t> words(static_cast<std::size_t>(n));
      for (std::int64_t i = 0; i < n; ++i) words[std::size_t(i)] = std::int32_t(std::uint64_t(i * i) * 2654435761u + std::uint64_t(n));
      Tensor x = make_indices(*device, {n}, words);
      const std::uint64_t first = of(*device, x);
      EXPECT_EQ(first, expected(words)) << n;
      auto result = [&] {
        const std::uint64_t sum = of(*device, x);
        return std::vector<float>{float(sum & 0xffffff), float(sum >> 24 & 0xffffff), float(sum >> 48)};
      };
      expect_same_for_any_threads(result, "fingerprint");
    }
}

TEST(Fingerprint, SeesWhatStandsWhere) {
  Device device;
  const std::int64_t n = 40000;
  std::vector<std::int32_t> words(static_cast<std::size_t>(n));
  std::set<std::uint64_t> all = {of(device, make_indices(device, {n}, words))};
  for (std::int64_t i : {0, 1, 16383, 16384, 39999})
    for (std::int32_t value : {1, -1, 1 << 30}) {
      auto changed = words;
      changed[std::size_t(i)] = value;
      all.insert(of(device, make_indices(device, {n}, changed)));
    }
  EXPECT_EQ(all.size(), 16u);
  Tensor odd(device, {3}, DType::bf16);
  EXPECT_THROW(of(device, odd), Error);
}

}  // namespace
}  // namespace lockstep
