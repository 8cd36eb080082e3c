#include "tests/io/damaged.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;

// 20,000 damaged files with a manifest: no crash, no hang, nothing wrong is read.
TEST(DamagedFiles, WithAManifestNothingWrongIsRead) {
  NEEDS_H5PY();
  Folder folder;
  const Outcome outcome = damage_and_read(folder, 5025, 2, true);
  EXPECT_EQ(outcome.refused + outcome.read, 20100);
  EXPECT_EQ(outcome.wrong, 0);
  EXPECT_LT(outcome.longest, 10);
}

// As many without: a crash in this process would end the test. Texts, shapes and names are those that the checking child sent.
TEST(DamagedFiles, ForeignOnesEndInASentenceOrAreRead) {
  NEEDS_H5PY();
  Folder folder;
  const Outcome outcome = damage_and_read(folder, 5000, 3, false);
  EXPECT_EQ(outcome.refused + outcome.read, 20000);
  EXPECT_GT(outcome.read, 2000);
  EXPECT_LT(outcome.longest, 65);
}

}  // namespace
}  // namespace lockstep::io
