#include "tests/io/damaged.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;

// 20,000 damaged files with a manifest: no crash, no hang, nothing wrong is read. Without a manifest HDF5 1.10.8 can still crash
// later on a file that the checking child survived (H5HG_read on a damaged text attribute: once in some thousand files), because
// what lies beyond a block differs between processes.
TEST(DamagedFiles, WithAManifestNothingWrongIsRead) {
  NEEDS_H5PY();
  Folder folder;
  const Outcome outcome = damage_and_read(folder, 6700, 2, true);
  EXPECT_EQ(outcome.refused + outcome.read, 20100);
  EXPECT_EQ(outcome.wrong, 0);
  EXPECT_LT(outcome.longest, 10);
}

}  // namespace
}  // namespace lockstep::io
