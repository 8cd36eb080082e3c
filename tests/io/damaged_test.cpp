#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>

#include "io/dataset.h"
#include "tests/io/files.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;

/// Bytes changed, a piece cut out or the end cut off.
std::string garble(std::string bytes, std::mt19937& random) {
  const auto pick = [&](std::size_t below) { return std::size_t(random()) % below; };
  switch (pick(8)) {
    case 0: bytes.resize(pick(bytes.size())); break;
    case 1: bytes.erase(pick(bytes.size()), 1 + pick(64)); break;
    case 2: {  // the first kilobytes hold most of what the library trusts
      for (std::size_t i = 0, n = 1 + pick(6); i < n; ++i)
        bytes[pick(std::min<std::size_t>(bytes.size(), 4096))] = char(random());
      break;
    }
    default:
      for (std::size_t i = 0, n = 1 + pick(8); i < n; ++i) bytes[pick(bytes.size())] = char(random());
  }
  return bytes;
}

TEST(DamagedFiles, EndInASentenceOrAreRead) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
np.random.seed(5)
x, y = np.random.randint(0, 256, (40, 6, 6)).astype('u1'), np.arange(40) % 4
with h5.File('chunks.h5', 'w') as f:
  f.create_dataset('train/images', data=x, chunks=(8, 6, 6), compression='gzip', fletcher32=True)
  f['train/labels'] = y
  f['train/labels'].attrs['classes'] = ['a', 'b', 'c', 'd']
  f.attrs['licence'] = 'none'
with h5.File('plain.h5', 'w') as f: f['x'], f['y'] = np.random.randn(40, 3), y
with h5.File('newest.h5', 'w', libver='latest') as f:
  f.create_dataset('tokens', data=x.ravel(), chunks=(100,), maxshape=(None,))
)");
  // Other damage each time with --gtest_shuffle --gtest_repeat=N.
  std::mt19937 random(GTEST_FLAG_GET(shuffle) ? 77u + unsigned(testing::UnitTest::GetInstance()->random_seed()) : 77u);
  int refused = 0, read = 0;
  for (const char* name : {"chunks.h5", "plain.h5", "newest.h5"}) {
    const std::string good = read_file(folder / name), file = folder / "garbled.h5";
    validate_file(folder / name);
    for (int trial = 0; trial < 80; ++trial) {
      write_file(file, garble(good, random));
      try {
        validate_file(file);
        auto group = solo_group();
        const auto opened = open_dataset({.paths = {file}, .length = 8}, *group);
        const auto& info = opened.train->info();
        std::vector<std::int64_t> rows(std::size_t(std::min<std::int64_t>(opened.train->rows(), 30)));
        std::iota(rows.begin(), rows.end(), 0);
        const auto n = std::int64_t(rows.size());
        std::vector<std::int32_t> inputs(std::size_t(n * count(info.input))), targets(std::size_t(n * count(info.target)));
        opened.train->read(rows,
                           {inputs.data(), std::int64_t(inputs.size()), info.kind == DataKind::tokens ? DType::i32 : DType::f32},
                           {targets.data(), std::int64_t(targets.size()), info.target_dtype});
        ++read;
      } catch (const Error& e) {
        EXPECT_EQ(e.exit(), Exit::bad_data) << name << " " << trial << ": " << e.what();
        EXPECT_NE(std::string(e.what()).find("garbled.h5"), std::string::npos) << e.what();
        EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
        ++refused;
      }
    }
  }
  EXPECT_EQ(refused + read, 240);
  EXPECT_GT(refused, 60);
  EXPECT_GT(read, 20);
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
