#include "io/rows.h"

#include <cstring>
#include <random>

#include "tests/io/files.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;
using hdf5::Element;

/// Python: put(name, dataset) notes what h5py itself reads from a dataset: as f32 and, for integers, as i32.
const std::string start = R"(
np.random.seed(6)
out, names = open('expected.bin', 'wb'), open('names.txt', 'w')
files = {}
def put(file, name):
  a = files[file][name][...]
  whole = a.dtype.kind in 'iub'
  out.write(a.astype('<f4').tobytes())
  if whole: out.write((a if a.dtype.kind == 'b' else np.clip(a, max(-2**31, np.iinfo(a.dtype).min), min(2**31 - 1, np.iinfo(a.dtype).max))).astype('<i4').tobytes())
  print(file, name, a.size, int(whole), file=names)
def values(type, shape):
  if type == 'bool': return np.random.rand(*shape) > 0.5
  t = np.dtype(type)
  if t.kind == 'f': return (np.random.randn(*shape) * 10.0 ** np.random.randint(-6, 5, shape)).astype(t)
  i = np.iinfo(t)
  return np.random.randint(i.min, i.max, shape, dtype=t.newbyteorder('=')).astype(t)
)";

template <class T>
void expect_rows(const Rows& rows, const T* expected, std::mt19937& random) {
  Scratch scratch;
  const auto bytes = std::size_t(rows.row_bytes());
  auto compare = [&](std::int64_t first, std::int64_t n) {
    const auto block = rows.get(first, n, scratch);
    const auto* want = expected + first * rows.width();
    ASSERT_EQ(std::memcmp(block.data, want, std::size_t(n) * bytes), 0)
        << rows.where() << " rows " << first << " to " << first + n - 1 << ": first values "
        << float(reinterpret_cast<const T*>(block.data)[0]) << " and " << float(want[0]);
  };
  compare(0, rows.count());
  for (int i = 0; i < 3; ++i) {
    const auto first = std::int64_t(random() % std::uint64_t(rows.count()));
    compare(first, 1 + std::int64_t(random() % std::uint64_t(rows.count() - first)));
  }
}

/// Reads every dataset that the script noted, from the file and kept, and compares all bits with what h5py read.
int expect_all(const Folder& folder) {
  const std::string expected = read_file(folder / "expected.bin");
  std::istringstream names(read_file(folder / "names.txt"));
  std::mt19937 random(8);
  const char* at = expected.data();
  std::string file, name;
  std::int64_t size = 0;
  int whole = 0, compared = 0;
  while (names >> file >> name >> size >> whole) {
    auto opened = std::make_shared<const hdf5::File>(hdf5::File::open(folder / file));
    for (Element element : {Element::f32, Element::i32}) {
      if (element == Element::i32 && !whole) continue;
      for (std::size_t cache : {0, 1 << 20})
        for (bool keep : {false, true}) {
          Rows rows(opened, name, element, std::make_shared<Engine>(cache));
          EXPECT_EQ(rows.count() * rows.width(), size) << name;
          if (keep) rows.keep();
          if (element == Element::f32)
            expect_rows(rows, reinterpret_cast<const float*>(at), random);
          else
            expect_rows(rows, reinterpret_cast<const std::int32_t*>(at), random);
        }
      at += size * 4;
      ++compared;
    }
  }
  EXPECT_EQ(at, expected.data() + expected.size());
  return compared;
}

TEST(Rows, LayoutsFiltersTypesAndEdges) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, start + R"(
types = 'u1 i1 <u2 >u2 <i2 >i2 <u4 >u4 <i4 >i4 <u8 >u8 <i8 >i8 <f2 >f2 <f4 >f4 <f8 >f8 bool'.split()
filters = dict(none={}, gzip=dict(compression='gzip'), lzf=dict(compression='lzf'), sum=dict(fletcher32=True),
               all=dict(compression='gzip', compression_opts=1, shuffle=True, fletcher32=True),
               lzfall=dict(compression='lzf', shuffle=True, fletcher32=True), shuffle=dict(shuffle=True))
chunks = dict(whole=(5, 6, 7), rows=(3, 6, 7), parts=(4, 4, 3), single=(1, 1, 1))
for file, options in dict(old=dict(userblock_size=1024), new=dict(libver='latest')).items():
  file += '.h5'
  f = files[file] = h5.File(file, 'w', **options)
  for t in types:
    a = values(t, (10, 6, 7))
    f['contiguous' + t] = a; put(file, 'contiguous' + t)
    for c in chunks:
      for k in filters:
        if c == 'single' and k not in ('none', 'all'): continue
        name = t + c + k
        f.create_dataset(name, data=a, chunks=chunks[c], **filters[k]); put(file, name)
  f.close()
)");
  EXPECT_GT(expect_all(folder), 1500);
}

TEST(Rows, WhatWasNeverWrittenAndOtherOddities) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, start + R"(
for file, options in dict(old={}, new=dict(libver='latest')).items():
  file += '.h5'
  f = files[file] = h5.File(file, 'w', **options)
  def make(name, *args, **more):
    d = f.create_dataset(name, *args, **more)
    return d
  # Chunks that are not there, with and without a fill value, big-endian too; indexes of every kind under libver=latest.
  for i, more in enumerate([{}, dict(maxshape=(None, 8)), dict(maxshape=(None, None)), dict(maxshape=(40, 8))]):
    for t in ('u1', '>i2', '<f4', '>f8'):
      for fill in (None, 3):
        for k in ({}, dict(compression='gzip', fletcher32=True)):
          name = 'holes%d%s%s%d' % (i, t, fill, len(k))
          d = make(name, (37, 8), t, chunks=(5, 3), fillvalue=fill, **more, **k)
          d[10:17, 2:5] = values(t, (7, 3)); d[36, 7] = 9
          put(file, name)
  make('never', (9, 4), 'f4', fillvalue=-2.5); put(file, 'never')
  make('neverchunks', (9, 4), 'i4', chunks=(2, 2), fillvalue=11); put(file, 'neverchunks')
  make('one', data=values('u1', (200,)), chunks=(7,), compression='lzf'); put(file, 'one')
  make('fives', data=values('i2', (6, 3, 2, 4, 2)), chunks=(4, 2, 2, 3, 1), compression='gzip', shuffle=True); put(file, 'fives')
  make('scale', data=values('i2', (20, 5)), chunks=(6, 5), scaleoffset=0); put(file, 'scale')
  make('repeat', data=np.repeat(values('u1', (4,)), 3000).reshape(40, 300), chunks=(7, 300), compression='lzf'); put(file, 'repeat')
  # Chunks on which some filters were not used.
  d = make('masks', (12, 10), '<i4', chunks=(4, 10), compression='gzip', shuffle=True)
  a = values('<i4', (12, 10))
  import zlib
  shuffled = lambda b: np.frombuffer(b, 'u1').reshape(-1, 4).T.tobytes()
  d.id.write_direct_chunk((0, 0), a[0:4].tobytes(), 3)
  d.id.write_direct_chunk((4, 0), zlib.compress(a[4:8].tobytes()), 1)
  d.id.write_direct_chunk((8, 0), shuffled(a[8:12].tobytes()), 2)
  assert (d[...] == a).all()
  put(file, 'masks')
  # Layouts and types of low-level calls.
  space = h5.h5s.create_simple((6, 4))
  p = h5.h5p.create(h5.h5p.DATASET_CREATE); p.set_layout(h5.h5d.COMPACT)
  h5.h5d.create(f.id, b'compact', h5.h5t.STD_I32BE, space, p).write(h5.h5s.ALL, h5.h5s.ALL, np.arange(24, dtype='i4').reshape(6, 4)); put(file, 'compact')
  p = h5.h5p.create(h5.h5p.DATASET_CREATE); p.set_external((__import__('os').getcwd() + '/' + file + '.raw').encode(), 0, 96)
  h5.h5d.create(f.id, b'external', h5.h5t.STD_I32LE, space, p).write(h5.h5s.ALL, h5.h5s.ALL, np.arange(24, dtype='i4').reshape(6, 4)); put(file, 'external')
  t = h5.h5t.STD_U16LE.copy(); t.set_precision(11)
  p = h5.h5p.create(h5.h5p.DATASET_CREATE); p.set_chunk((4, 4)); p.set_filter(h5.h5z.FILTER_NBIT) if not hasattr(p, 'set_nbit') else p.set_nbit()
  h5.h5d.create(f.id, b'nbit', t, space, p).write(h5.h5s.ALL, h5.h5s.ALL, np.arange(24, dtype='u2').reshape(6, 4) * 77); put(file, 'nbit')
  # In another file.
  with h5.File('aside_' + file, 'w') as o: o['x'] = a; o.create_dataset('c', data=a, chunks=(5, 4), compression='gzip')
  f['link'] = h5.ExternalLink('aside_' + file, 'x'); put(file, 'link')
  f['linkc'] = h5.ExternalLink('aside_' + file, 'c'); put(file, 'linkc')
  layout = h5.VirtualLayout((24, 10), '<i4')
  for i in range(2): layout[12 * i:12 * i + 12] = h5.VirtualSource('aside_' + file, 'xc'[i], (12, 10))
  f.create_virtual_dataset('virtual', layout); put(file, 'virtual')
  f.close()
)");
  EXPECT_GT(expect_all(folder), 150);
}

TEST(Rows, DamageIsNamed) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
x = np.random.randint(0, 256, (40, 50)).astype('u1')
for name, more in dict(sum=dict(fletcher32=True), both=dict(fletcher32=True, compression='gzip'), gzip=dict(compression='gzip')).items():
  with h5.File(name + '.h5', 'w') as f:
    d = f.create_dataset('x', data=x, chunks=(8, 25), **more)
    info = d.id.get_chunk_info_by_coord((16, 25))
  with open(name + '.h5', 'r+b') as f:
    f.seek(info.byte_offset + info.size // 2); b = f.read(20)
    f.seek(info.byte_offset + info.size // 2); f.write(bytes(255 - v for v in b))
with h5.File('short.h5', 'w') as f: f['x'] = x; at = f['x'].id.get_offset()
)");
  for (const char* name : {"sum", "both", "gzip"}) {
    auto file = std::make_shared<const hdf5::File>(hdf5::File::open(folder / (std::string(name) + ".h5")));
    for (bool keep : {false, true}) {
      Rows rows(file, "x", Element::u8, std::make_shared<Engine>(1 << 20));
      if (keep) rows.keep();
      Scratch scratch;
      EXPECT_NO_THROW(rows.get(0, 16, scratch));
      for (int again = 0; again < 2; ++again)
        expect_error(Exit::bad_data, {std::string(name) + ".h5:/x: chunk (2, 1) is damaged", name[0] == 's' ? "Fletcher32" : ""},
                     [&] { rows.get(15, 3, scratch); });
      EXPECT_NO_THROW(rows.get(24, 16, scratch));
    }
  }
  // A file cut off after it was opened.
  auto file = std::make_shared<const hdf5::File>(hdf5::File::open(folder / "short.h5"));
  Rows rows(file, "x", Element::u8, std::make_shared<Engine>(1 << 20));
  std::filesystem::resize_file(folder / "short.h5", std::filesystem::file_size(folder / "short.h5") - 60);
  Scratch scratch;
  expect_error(Exit::bad_data, {"short.h5:/x", "ends before"}, [&] { rows.get(30, 10, scratch); });
}

TEST(Rows, WithAManifestEveryPieceIsCompared) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, start + R"(
f = files['good.h5'] = h5.File('good.h5', 'w', userblock_size=512)
f['plain'] = values('u1', (7000, 30)); f['double'] = values('>f8', (300, 100)); f['wide'] = values('f4', (3, 40000))
f.create_dataset('chunks', data=values('>i2', (37, 11, 5)), chunks=(8, 4, 5))
f.create_dataset('deflate', data=values('u1', (40, 50)), chunks=(8, 50), compression='gzip', fletcher32=True)
f.create_dataset('holes', (64, 3), 'f4', chunks=(8, 2), fillvalue=5)[20:30, 1] = 7
for n in f: put('good.h5', n)
f.close()
)");
  const std::string path = folder / "good.h5";
  write_manifest(path, DataManifest::path_of(path));
  const std::string good = read_file(path), expected = read_file(folder / "expected.bin");
  const auto manifest = std::make_shared<const DataManifest>(*DataManifest::load(path));
  std::istringstream names(read_file(folder / "names.txt"));
  std::mt19937 random(12);
  const char* at = expected.data();
  std::string file, name;
  std::int64_t size = 0;
  int whole = 0;
  for (int sets = 0; names >> file >> name >> size >> whole; at += size * (whole ? 8 : 4), ++sets) {
    const auto& listed = *manifest->find(name);
    for (bool keep : {false, true}) {
      {
        Rows rows(std::make_shared<const hdf5::File>(hdf5::File::open(path)), name, Element::f32,
                  std::make_shared<Engine>(1 << 20), manifest);
        if (keep) rows.keep();
        expect_rows(rows, reinterpret_cast<const float*>(at), random);
      }
      // One bit of each piece in turn: reading everything is an error that names the dataset.
      for (const auto& piece : manifest->pieces(listed)) {
        if (piece.bytes == 0) continue;
        std::string bad = good;
        bad[piece.offset + random() % piece.bytes] ^= char(1 << random() % 8);
        write_file(path, bad);
        Rows rows(std::make_shared<const hdf5::File>(hdf5::File::open(path)), name, Element::f32,
                  std::make_shared<Engine>(1 << 20), manifest);
        if (keep) rows.keep();
        Scratch scratch;
        expect_error(Exit::bad_data, {"good.h5:/" + name, "is not what was written"},
                     [&] { rows.get(0, rows.count(), scratch); });
        write_file(path, good);
        if (keep && random() % 4) break;
      }
    }
    ASSERT_LT(sets, 6);
  }
  EXPECT_EQ(at, expected.data() + expected.size());
}

TEST(Rows, ACacheTheSizeOfTheWindowDecodesEachChunkOnce) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
with h5.File('data.h5', 'w') as f: f.create_dataset('x', data=np.arange(6400, dtype='f4').reshape(640, 10), chunks=(16, 10), compression='gzip'))");
  auto file = std::make_shared<const hdf5::File>(hdf5::File::open(folder / "data.h5"));
  const auto engine = std::make_shared<Engine>(8 * 16 * 40);  // eight bands
  const Rows rows(file, "x", Element::f32, engine);
  Scratch scratch;
  std::mt19937 random(3);
  for (int window = 0; window < 5; ++window) {
    std::vector<std::int64_t> order(128);
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = window * 128 + std::int64_t(i);
    std::shuffle(order.begin(), order.end(), random);
    for (std::int64_t row : order) ASSERT_EQ(*reinterpret_cast<const float*>(rows.get(row, 1, scratch).data), float(row * 10));
  }
  EXPECT_EQ(engine->cache.made(), 40);
  // Beyond its capacity the one used longest ago goes: from the last band back, eight are there and the ninth is not.
  for (int band = 39; band >= 32; --band) rows.get(band * 16, 1, scratch);
  EXPECT_EQ(engine->cache.made(), 40);
  rows.get(31 * 16, 1, scratch);
  EXPECT_EQ(engine->cache.made(), 41);
  rows.expect(0, 32);
  engine->pool.forget();  // drops what is not begun; what is asked for is there all the same
  EXPECT_EQ(*reinterpret_cast<const float*>(rows.get(31, 1, scratch).data), 310.f);
}

TEST(Decode, Fletcher32IsTheLibrarys) {
  // Computed by HDF5 1.10.8: the last four bytes of chunks with this filter alone (written by h5py, read as stored).
  NEEDS_H5PY();
  Folder folder;
  const auto stored = numbers(python(folder, R"(
np.random.seed(9)
with h5.File('x.h5', 'w') as f:
  for n in (1, 2, 3, 255, 512, 513, 721, 4096, 100001):
    for k in range(3):
      a = [np.zeros, np.ones, lambda n, t: np.random.randint(0, 256, n).astype(t)][k](n, 'u1') * (255 if k == 1 else 1)
      d = f.create_dataset('%d %d' % (n, k), data=a, chunks=(n,), fletcher32=True)
      d.id.flush() if hasattr(d.id, 'flush') else f.flush()
      raw = d.id.read_direct_chunk((0,))[1]
      a.tofile('%d %d' % (n, k))
      print(n, k, struct.unpack('<I', raw[-4:])[0])
)"));
  ASSERT_EQ(stored.size(), 81u);
  for (std::size_t i = 0; i < stored.size(); i += 3) {
    const std::string bytes = read_file(folder / (std::to_string(int(stored[i])) + " " + std::to_string(int(stored[i + 1]))));
    EXPECT_EQ(fletcher32(std::as_bytes(std::span(bytes))), std::uint32_t(stored[i + 2])) << stored[i] << " " << stored[i + 1];
  }
}

TEST(Decode, BrokenStreamsEndInASentence) {
  std::mt19937 random(10);
  const std::vector<hdf5::Filter> lzf = {{lzf_filter, {}}}, deflate = {{deflate_filter, {}}}, sum = {{fletcher32_filter, {}}},
                                  shuffle = {{shuffle_filter, {4}}};
  std::vector<std::byte> out(100);
  int bad = 0;
  for (int trial = 0; trial < 20000; ++trial) {
    std::vector<std::byte> raw(random() % 64);
    for (auto& b : raw) b = std::byte(random());
    for (const auto& filters : {lzf, deflate, sum, shuffle}) bad += !decode(filters, 0, raw, out).empty();
  }
  EXPECT_GT(bad, 79000);
}

}  // namespace
}  // namespace lockstep::io
