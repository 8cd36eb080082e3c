#include "io/data_manifest.h"

#include <map>

#include "tests/io/files.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;

/// What h5py says of every chunk that is there: its number in the grid, bytes, filter mask and a sum of its stored bytes.
const char* const chunk_list = R"(
def show(path, name):
  d = h5.File(path)[name]
  for i, place in enumerate(np.ndindex(*[-(-n // c) for n, c in zip(d.shape, d.chunks)])):
    try: mask, stored = d.id.read_direct_chunk(tuple(p * c for p, c in zip(place, d.chunks)))
    except RuntimeError: continue
    stored = np.frombuffer(stored, 'u1')
    print(i, len(stored), mask, (stored * np.arange(1.0, len(stored) + 1)).sum())
)";

double sum_of(const std::vector<unsigned char>& bytes) {
  double sum = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) sum += double(bytes[i]) * double(i + 1);
  return sum;
}

TEST(Places, AreThoseOfTheLibrary) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
np.random.seed(1)
with h5.File('a.h5', 'w') as f:
  f.create_dataset('deep/many', data=np.arange(9000, dtype='i2'), chunks=(3,))
  f.create_dataset('cube', data=np.random.randint(0, 9, (50, 41, 33)), chunks=(7, 6, 5), compression='gzip', shuffle=True)
  d = f.create_dataset('holes', (1000,), 'f4', chunks=(10,), fletcher32=True); d[500:505] = 1; d[77] = 2
  m = f.create_dataset('mask', (40,), 'u1', chunks=(8,), compression='gzip')
  for i in range(5): m.id.write_direct_chunk((8 * i,), bytes(8), filter_mask=1)
with h5.File('block.h5', 'w', userblock_size=1024) as f: f.create_dataset('x', data=np.arange(400).reshape(100, 4), chunks=(9, 3))
with h5.File('new.h5', 'w', track_order=True) as f:
  g = f.create_group('g', track_order=True)
  d = g.create_dataset('x', data=np.arange(4000), chunks=(16,), track_order=True)
  for i in range(60): d.attrs['a%d' % i] = i
with h5.File('latest.h5', 'w', libver='latest', userblock_size=512) as f:
  a = np.random.randint(0, 9, (60, 50))
  def make(name, chunks, maxshape=None, **more):
    d = f.create_dataset(name, (60, 50), 'i8', chunks=chunks, maxshape=maxshape, fillvalue=3, **more)
    if name.endswith('part'): d[13:40, 20:] = a[13:40, 20:]
    else: d[...] = a
  for k, more in dict(plain={}, filtered=dict(compression='gzip', fletcher32=True)).items():
    make('single ' + k, (60, 50), **more)
    for part in ('', ' part'):
      make('array ' + k + part, (7, 4), (100, 70), **more)
      make('pages ' + k + part, (1, 2), (90, 51), **more)
      make('rows ' + k + part, (3, 7), (None, 60), **more)
      make('columns ' + k + part, (3, 1), (64, None), **more)
      make('tree ' + k + part, (2, 3), (None, None), **more)
  p = h5.h5p.create(h5.h5p.DATASET_CREATE); p.set_chunk((7, 4)); p.set_alloc_time(h5.h5d.ALLOC_TIME_EARLY)
  h5.h5d.create(f.id, b'implicit', h5.h5t.STD_I64LE, h5.h5s.create_simple((60, 50), (90, 80)), p).write(h5.h5s.ALL, h5.h5s.ALL, a)
f = h5.File('shrunk.h5', 'w'); d = f.create_dataset('x', data=np.arange(100), chunks=(10,), maxshape=(None,)); d.resize((35,)); f.close()
)");
  std::vector<std::pair<std::string, std::string>> all = {{"a.h5", "deep/many"}, {"a.h5", "cube"},  {"a.h5", "holes"},
                                                          {"a.h5", "mask"},      {"block.h5", "x"}, {"new.h5", "g/x"},
                                                          {"shrunk.h5", "x"}};
  for (const auto& info : hdf5::File::open(folder / "latest.h5").datasets()) all.push_back({"latest.h5", info.name});
  EXPECT_EQ(all.size(), 7u + 23u);
  for (const auto& [path, name] : all) {
    SCOPED_TRACE(path + " " + name);
    const auto expected = numbers(python(folder, std::string(chunk_list) + "show('" + path + "', '" + name + "')"));
    const FileBytes file(folder / path);
    const auto library = hdf5::File::open(folder / path);
    const auto places = find_places(file, library.dataset(name));
    ASSERT_FALSE(expected.empty());
    EXPECT_EQ(places.unknown, "");
    std::map<std::size_t, std::vector<double>> of_chunk;
    for (std::size_t i = 0; i < expected.size(); i += 4)
      of_chunk[std::size_t(expected[i])] = {expected[i + 1], expected[i + 2], expected[i + 3]};
    for (std::size_t i = 0; i < places.pieces.size(); ++i) {
      const auto& piece = places.pieces[i];
      std::vector<unsigned char> stored(piece.bytes);
      file.read(piece.offset, stored.data(), stored.size(), "a chunk");
      if (of_chunk.count(i))
        EXPECT_EQ((std::vector<double>{double(piece.bytes), double(piece.filter_mask), sum_of(stored)}), of_chunk[i]) << i;
      else
        EXPECT_EQ(piece.bytes, 0u) << i;
    }
    EXPECT_LE(of_chunk.rbegin()->first, places.pieces.size());
  }
}

TEST(Places, ContiguousDataIsCutIntoRows) {
  NEEDS_H5PY();
  Folder folder;
  const auto offset = numbers(python(folder, R"(
with h5.File('a.h5', 'w') as f: f['x'] = np.arange(100 * 3000, dtype='f4').reshape(100, 3000)
print(h5.File('a.h5')['x'].id.get_offset()))"))[0];
  const FileBytes file(folder / "a.h5");
  const auto library = hdf5::File::open(folder / "a.h5");
  const auto places = find_places(file, library.dataset("x"));
  EXPECT_EQ(places.block, 5 * 12000);
  ASSERT_EQ(places.pieces.size(), 20u);
  for (std::size_t i = 0; i < 20; ++i) {
    EXPECT_EQ(double(places.pieces[i].offset), offset + 60000.0 * double(i));
    EXPECT_EQ(places.pieces[i].bytes, 60000u);
  }
}

TEST(Places, WhatIsNotKnownIsNamed) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
with h5.File('latest.h5', 'w', libver='latest') as f: f.create_dataset('x', data=np.arange(100), chunks=(10,))
with h5.File('virtual.h5', 'w') as f:
  v = h5.VirtualLayout((100,), 'i8'); v[:] = h5.VirtualSource('latest.h5', 'x', (100,)); f.create_virtual_dataset('v', v))");
  const FileBytes file(folder / "virtual.h5");
  const auto library = hdf5::File::open(folder / "virtual.h5");
  const auto places = find_places(file, library.dataset("v"));
  EXPECT_TRUE(places.pieces.empty());
  EXPECT_NE(places.unknown.find("virtual.h5:/v"), std::string::npos) << places.unknown;
  EXPECT_NE(places.unknown.find("other files"), std::string::npos) << places.unknown;
}

/// Changes one bit of a byte of the file, and back again.
void flip(const std::string& path, std::size_t at) {
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekg(std::streamoff(at));
  const char byte = char(file.get() ^ (1 << at % 8));
  file.seekp(std::streamoff(at));
  file.put(byte);
}

/// Loads the manifest and checks every piece against the file.
void check_all(const std::string& path) {
  const auto manifest = DataManifest::load(path);
  ASSERT_TRUE(manifest);
  const FileBytes file(path);
  for (const auto& dataset : manifest->datasets())
    for (std::int64_t i = 0; i < dataset.count; ++i) {
      const auto& piece = manifest->pieces(dataset)[std::size_t(i)];
      std::vector<std::byte> stored(piece.bytes);
      file.read(piece.offset, stored.data(), stored.size(), "a piece");
      manifest->check(dataset, i, stored);
    }
}

TEST(DataManifest, EveryChangedByteIsSeen) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
with h5.File('a.h5', 'w', userblock_size=512) as f:
  f.create_dataset('x', data=np.arange(600, dtype='u2').reshape(60, 10), chunks=(16, 10), compression='gzip', fletcher32=True)
  f['y'] = np.arange(60) % 3
  f['y'].attrs['classes'] = ['a', 'b', 'c']
  f['names'] = np.array(['one', 'two'], dtype=h5.string_dtype()))");
  const std::string path = folder / "a.h5";
  EXPECT_FALSE(DataManifest::load(path));
  write_manifest(path, DataManifest::path_of(path));
  check_all(path);
  const auto manifest = DataManifest::load(path);
  ASSERT_NE(manifest->find("/x"), nullptr);
  EXPECT_EQ(manifest->find("x")->chunk, (Shape{16, 10}));
  EXPECT_EQ(manifest->find("x")->count, 4);
  EXPECT_EQ(manifest->find("z"), nullptr);

  const std::string good = read_file(path), manifest_text = read_file(DataManifest::path_of(path));
  for (std::size_t i = 0; i < good.size(); ++i) {
    flip(path, i);
    EXPECT_THROW(check_all(path), Error) << "byte " << i;
    flip(path, i);
  }
  write_file(path, good + "x");
  expect_error(Exit::bad_data, {"a.h5: its size is not", "data manifest"}, [&] { DataManifest::load(path); });
  write_file(path, good.substr(0, good.size() - 1));
  expect_error(Exit::bad_data, {"a.h5: its size is not"}, [&] { DataManifest::load(path); });
  write_file(path, good);
  check_all(path);
  for (std::size_t i = 0; i < manifest_text.size(); ++i) {
    flip(DataManifest::path_of(path), i);
    expect_error(Exit::bad_data, {"a.h5.manifest: the manifest is damaged"}, [&] { DataManifest::load(path); });
    flip(DataManifest::path_of(path), i);
    if (i % 50 != 0) continue;
    write_file(DataManifest::path_of(path), manifest_text.substr(0, i));
    expect_error(Exit::bad_data, {"a.h5.manifest"}, [&] { DataManifest::load(path); });
    write_file(DataManifest::path_of(path), manifest_text);
  }
}

TEST(DataManifest, ADamagedPieceIsNamed) {
  NEEDS_H5PY();
  Folder folder;
  const auto offset = numbers(python(folder, R"(
with h5.File('a.h5', 'w') as f: f.create_dataset('g/x', data=np.arange(600), chunks=(100,)); f['c'] = np.arange(30000)
print(h5.File('a.h5')['g/x'].id.get_chunk_info(3).byte_offset, h5.File('a.h5')['c'].id.get_offset()))"));
  const std::string path = folder / "a.h5";
  write_manifest(path, DataManifest::path_of(path));
  std::string good = read_file(path), bad = good;
  bad[std::size_t(offset[0]) + 799] = 'x';
  write_file(path, bad);
  expect_error(Exit::bad_data, {"a.h5:/g/x: chunk 3, 800 bytes at", "damaged"}, [&] { check_all(path); });
  bad = good;
  bad[std::size_t(offset[1]) + 100000] = 'x';
  write_file(path, bad);
  expect_error(Exit::bad_data, {"a.h5:/c: block 1"}, [&] { check_all(path); });
}

}  // namespace
}  // namespace lockstep::io
