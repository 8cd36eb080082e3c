#include "tests/io/checkpoint_fuzz.h"

namespace lockstep::test {
namespace {

TEST(CheckpointFuzz, FiveThousandDamagedOnesAreRefusedOrHarmless) {
  const Fuzzed fuzzed = fuzz_checkpoints(5000, 2);
  std::printf("%d refused, %d loaded what was saved, the slowest took %.3f s\n", fuzzed.refused, fuzzed.loaded, fuzzed.slowest);
  EXPECT_GT(fuzzed.refused, 4000);
  EXPECT_LT(fuzzed.slowest, 5);
}

}  // namespace
}  // namespace lockstep::test
