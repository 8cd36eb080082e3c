#include "parallel/bucket_sizes.h"

#include <gtest/gtest.h>

#include <chrono>

#include "core/device.h"
#include "parallel/open_communicator.h"

namespace lockstep::parallel {
namespace {

TEST(BucketSizesOfRanks, AreAgreedAndSoonKnown) {
  Device device;
  auto communicator = open_mpi_communicator();
  auto group = open_mpi_group();
  for (DType dtype : {DType::f32, DType::bf16})
    for (std::int64_t most : {std::int64_t(1000), std::int64_t(200'000), std::int64_t(1) << 40}) {
      const auto began = std::chrono::steady_clock::now();
      const auto times = time_all_reduce(*communicator, *group, device.queue(), dtype, most);
      const double took = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
      EXPECT_LT(took, 5) << "half a second where nobody else is at work";
      ASSERT_FALSE(times.empty());
      std::string mine;
      for (std::size_t i = 0; i < times.size(); ++i) {
        EXPECT_EQ(times[i].bytes, std::int64_t(16 << 10) << i);
        EXPECT_LE(times[i].bytes, std::max<std::int64_t>(most, 16 << 10));
        EXPECT_GT(times[i].seconds, 0);
        mine += std::to_string(times[i].seconds) + " ";
      }
      const BucketOptions sizes = bucket_sizes(times, 50 << 20);
      for (const std::string& theirs : group->gather(mine)) EXPECT_EQ(theirs, mine);
      EXPECT_GT(sizes.head, 0);
      EXPECT_LE(sizes.head, sizes.middle);
    }
}

}  // namespace
}  // namespace lockstep::parallel
