#include "kernels/fingerprint.h"

#include "kernels/base/launch.h"

namespace lockstep::kernels {
namespace {

struct Sum {
  std::uint64_t* sums;
  const std::uint32_t* words;
  std::int64_t count;

  /// The finaliser of SplitMix64 (Steele et al. 2014), which maps no two numbers to one.
  HD static std::uint64_t mixed(std::uint64_t x) {
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
  }
  template <class Team>
  HD void operator()(Team team, std::int64_t block) const {
    constexpr std::int64_t most = fingerprint_block / 4;
    const std::int64_t begin = block * most, size = count - begin < most ? count - begin : most;
    const std::uint32_t* w = words + begin;
    const std::uint64_t total =
        team.sum_u64(size, [&](std::int64_t c) { return mixed(std::uint64_t(begin + c) * 0x9E3779B97F4A7C15u + w[c]); });
    if (team.first()) sums[block] = total;
  }
};

}  // namespace

void fingerprint(const Queue& q, View sums, View x) {
  require(x.bytes() % 4 == 0, "fingerprint: {} bytes are no multiple of 4", x.bytes());
  const std::int64_t blocks = fingerprint_blocks(x.bytes());
  require(sums.dtype == DType::u8 && sums.size == 8 * blocks, "fingerprint: {} bytes for {} sums", sums.size, blocks);
  for_each_row(
      q, blocks, fingerprint_block / 4,
      Sum{static_cast<std::uint64_t*>(sums.data), static_cast<const std::uint32_t*>(x.data), std::int64_t(x.bytes() / 4)});
}

}  // namespace lockstep::kernels
