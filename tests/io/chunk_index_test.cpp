#include "io/chunk_index.h"

#include <chrono>
#include <cstring>
#include <random>

#include "io/rows.h"
#include "tests/io/files.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;
using hdf5::Element;

TEST(ChunkIndex, Lookup3) {
  // The values that its author gives with the algorithm.
  auto of = [](const std::string& text) { return lookup3(reinterpret_cast<const unsigned char*>(text.data()), text.size()); };
  EXPECT_EQ(of(""), 0xdeadbeefu);
  EXPECT_EQ(of("Four score and seven years ago"), 0x17770551u);
}

// Arrays of several levels with pages, and trees three nodes deep; some chunks were never written.
TEST(ChunkIndex, LargeOnesOfEveryKind) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
def make(name, n, maxshape, **more):
  with h5.File(name + '.h5', 'w', **more) as f:
    d = f.create_dataset('x', n, 'u4', chunks=(1,) * len(n), maxshape=maxshape, fillvalue=7)
    a = np.arange(np.prod(n), dtype='u4').reshape(n); d[:n[0] // 2] = a[:n[0] // 2]; d[n[0] - 9:] = a[n[0] - 9:]
new = dict(libver='latest')
make('tree', (30000,), None)
make('fixed', (30000,), (31000,), **new)
make('extensible', (150000,), (None,), **new)
make('newer tree', (150, 120), (None, None), **new)
)");
  for (const char* name : {"tree", "fixed", "extensible", "newer tree"}) {
    auto file = std::make_shared<const hdf5::File>(hdf5::File::open(folder / (std::string(name) + ".h5")));
    const auto places = find_places(FileBytes(file->path()), file->dataset("x"));
    EXPECT_EQ(places.unknown, "");
    const Shape shape = file->dataset("x").info().shape;
    const std::int64_t across = shape.size() == 2 ? shape[1] : 1, written = shape[0] / 2 * across, last = (shape[0] - 9) * across;
    ASSERT_EQ(std::int64_t(places.pieces.size()), count(shape));
    const FileBytes bytes(file->path());
    for (std::int64_t i = 0; i < count(shape); ++i) {
      const auto& place = places.pieces[std::size_t(i)];
      ASSERT_EQ(place.bytes, i < written || i >= last ? 4u : 0u) << name << " " << i;
      std::uint32_t value = 0;
      if (place.bytes > 0) bytes.read(place.offset, &value, 4, "a chunk");
      ASSERT_EQ(value, place.bytes > 0 ? std::uint32_t(i) : 0u) << name << " " << i;
    }
  }
}

// The library reads the good file; the index is read from a damaged copy. Nothing but a sentence or places inside the file.
TEST(ChunkIndex, DamageEndsInASentence) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
a = np.arange(3000, dtype='u2').reshape(60, 50)
for name, more in dict(old={}, new=dict(libver='latest')).items():
  with h5.File(name + '.h5', 'w', **more) as f:
    for k, m in enumerate([(60, 50), (90, 51), (None, 60), (64, None), (None, None)]):
      f.create_dataset('plain%d' % k, data=a, chunks=(3, 2), maxshape=m)
      f.create_dataset('filtered%d' % k, data=a, chunks=(7, 4), maxshape=m, compression='gzip', fletcher32=True)
)");
  std::mt19937 random(4);
  int refused = 0, found = 0;
  double longest = 0;
  for (const char* name : {"old.h5", "new.h5"}) {
    const auto library = hdf5::File::open(folder / name);
    const std::string good = read_file(folder / name), path = folder / "bad.h5";
    std::vector<std::size_t> heads;  // of blocks with a checksum, and their bytes
    for (const auto& [signature, bytes] : {std::pair{"EAHD", 72}, {"FAHD", 28}, {"BTHD", 38}})
      for (auto at = good.find(signature); at != std::string::npos; at = good.find(signature, at + 1))
        heads.push_back(at), heads.push_back(std::size_t(bytes));
    std::vector<std::size_t> nodes;
    for (auto at = good.find("TREE"); at != std::string::npos; at = good.find("TREE", at + 1)) nodes.push_back(at);
    for (int trial = 0; trial < 1500; ++trial) {
      std::string bad = good;
      if (trial % 4 == 0) {
        bad.resize(random() % bad.size());
      } else if (!heads.empty()) {  // the checksum is made to match
        const std::size_t i = random() % (heads.size() / 2) * 2, at = heads[i], bytes = heads[i + 1];
        for (int k = 0; k < 2; ++k) bad[at + 4 + random() % (bytes - 8)] = char(random() % 3 ? random() : 255);
        const std::uint32_t sum = lookup3(reinterpret_cast<const unsigned char*>(bad.data() + at), bytes - 4);
        std::memcpy(bad.data() + at + bytes - 4, &sum, 4);
      } else {
        for (int k = 0; k < 4; ++k) bad[nodes[random() % nodes.size()] + random() % 2048] = char(random());
        // A child that is another node: trees that meet again, and circles.
        const std::size_t to = nodes[random() % nodes.size()];
        std::memcpy(bad.data() + nodes[random() % nodes.size()] + 24 + 32, &to, 8);
      }
      std::filesystem::remove(path);
      write_file(path, bad);
      const auto begin = std::chrono::steady_clock::now();
      for (const auto& info : {"plain" + std::to_string(trial % 5), "filtered" + std::to_string(trial % 5)}) {
        try {
          const FileBytes file(path);
          const auto places = find_places(file, library.dataset(info));
          for (const auto& place : places.pieces) {
            ASSERT_LE(place.offset, bad.size());
            ASSERT_LE(place.bytes, bad.size() - place.offset);
          }
          ++found;
        } catch (const Error& e) {
          EXPECT_EQ(e.exit(), Exit::bad_data) << e.what();
          EXPECT_NE(std::string(e.what()).find("bad.h5"), std::string::npos) << e.what();
          ++refused;
        }
      }
      longest = std::max(longest, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
  }
  EXPECT_GT(refused, 1000);
  EXPECT_GT(found, 1000);
  EXPECT_LT(longest, 2);
}

// Another program writes to an open file, against its lock, so that chunks move and others come where they were: what is read is
// what was, what is there, or an error.
TEST(ChunkIndex, AFileThatChangesIsLeftToTheLibrary) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
with h5.File('a.h5', 'w') as f: f.create_dataset('x', data=np.full((64, 2048), 1, 'u4'), chunks=(4, 2048), compression='gzip')
)");
  auto file = std::make_shared<const hdf5::File>(hdf5::File::open(folder / "a.h5"));
  const Rows rows(file, "x", Element::i32, std::make_shared<Engine>(1 << 20));
  Scratch scratch;
  auto first = [&](std::int64_t row) { return *reinterpret_cast<const std::int32_t*>(rows.get(row, 1, scratch).data); };
  EXPECT_EQ(first(0), 1);
  setenv("HDF5_USE_FILE_LOCKING", "FALSE", 1);
  python(folder, R"(
with h5.File('a.h5', 'r+') as f:
  a = np.random.randint(0, 2**32, (64, 2048), dtype='u4'); a[:, 0] = 2; a[40:, 1:] = 5
  f['x'][...] = a
)");
  unsetenv("HDF5_USE_FILE_LOCKING");
  int news = 0;
  for (std::int64_t row = 4; row < 64; row += 3) {
    try {
      const int value = first(row);
      news += value == 2;
      EXPECT_TRUE(value == 1 || value == 2) << value << " in row " << row;
    } catch (const Error& e) {
      EXPECT_EQ(e.exit(), Exit::bad_data) << e.what();
    }
  }
  EXPECT_GT(news, 0);
}

}  // namespace
}  // namespace lockstep::io
