#include "tests/io/damaged.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;

// 20,000 damaged files: no crash, no hang, and nothing wrong is read where there is a manifest.

TEST(DamagedFiles, ForeignOnesEndInASentenceOrAreRead) {
  NEEDS_H5PY();
  Folder folder;
  const Outcome outcome = damage_and_read(folder, 2000, 1, false);
  EXPECT_EQ(outcome.refused + outcome.read, 8000);
  EXPECT_LT(outcome.longest, 65);
}

TEST(DamagedFiles, WithAManifestNothingWrongIsRead) {
  NEEDS_H5PY();
  Folder folder;
  const Outcome outcome = damage_and_read(folder, 4000, 2, true);
  EXPECT_EQ(outcome.refused + outcome.read, 12000);
  EXPECT_EQ(outcome.wrong, 0);
  EXPECT_LT(outcome.longest, 10);
}

}  // namespace
}  // namespace lockstep::io
