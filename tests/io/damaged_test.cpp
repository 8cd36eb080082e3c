#include "tests/io/damaged.h"

#include "io/dataset.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;

/// Other damage each time with --gtest_shuffle --gtest_repeat=N.
unsigned seed() {
  return GTEST_FLAG_GET(shuffle) ? 77u + unsigned(testing::UnitTest::GetInstance()->random_seed()) : 77u;
}

TEST(DamagedFiles, EndInASentenceOrAreRead) {
  NEEDS_H5PY();
  Folder folder;
  const Outcome outcome = damage_and_read(folder, 100, seed(), false);
  EXPECT_EQ(outcome.refused + outcome.read, 400);
  EXPECT_GT(outcome.refused, 100);
  EXPECT_GT(outcome.read, 30);
  EXPECT_LT(outcome.longest, 65);
}

TEST(DamagedFiles, WithAManifestNothingWrongIsRead) {
  NEEDS_H5PY();
  Folder folder;
  const Outcome outcome = damage_and_read(folder, 500, seed() + 1, true);
  EXPECT_EQ(outcome.refused + outcome.read, 1500);
  EXPECT_EQ(outcome.wrong, 0);
  EXPECT_GT(outcome.refused, 1400);  // the others changed nothing
  EXPECT_LT(outcome.longest, 10);
}

TEST(DamagedFiles, ChecksumsAreCompared) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
x = np.arange(4096, dtype='u2').view('u1').reshape(128, 8, 8)
with h5.File('a.h5', 'w') as f:
  f.create_dataset('images', data=x, chunks=(16, 8, 8), fletcher32=True)
  f['labels'] = np.zeros(128, 'i4')
  print(f['images'].id.get_chunk_info(3).byte_offset))");
  auto bytes = read_file(folder / "a.h5");
  const auto offset =
      std::size_t(numbers(python(folder, "print(h5.File('a.h5')['images'].id.get_chunk_info(3).byte_offset)"))[0]);
  bytes[offset + 100] = char(bytes[offset + 100] ^ 1);
  write_file(folder / "a.h5", bytes);
  expect_error(Exit::bad_data, {"a.h5", "'images'", "rows", "Fletcher32"}, [&] { validate_file(folder / "a.h5"); });
}

TEST(DamagedFiles, MissingAndForeign) {
  Folder folder;
  expect_error(Exit::bad_data, {"none.h5: no such file"}, [&] { validate_file(folder / "none.h5"); });
  expect_error(Exit::bad_data, {"not a file"}, [&] { validate_file(folder.path); });
  write_file(folder / "a.txt", std::string(5000, 'x'));
  expect_error(Exit::bad_data, {"not an HDF5 file"}, [&] { validate_file(folder / "a.txt"); });
}

}  // namespace
}  // namespace lockstep::io
