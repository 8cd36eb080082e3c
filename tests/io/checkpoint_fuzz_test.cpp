#include "tests/io/checkpoint_fuzz.h"

namespace lockstep::test {
namespace {

TEST(CheckpointFuzz, FiveHundredDamagedOnesAreRefusedOrHarmless) {
  const Fuzzed fuzzed = fuzz_checkpoints(500, 1);
  EXPECT_GT(fuzzed.refused, 400);
  EXPECT_LT(fuzzed.slowest, 5);
}

}  // namespace
}  // namespace lockstep::test
