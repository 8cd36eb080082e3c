#include "io/rechunk.h"

#include "io/data_manifest.h"
#include "tests/io/files.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;

/// A file with everything that a copy could lose, and a comparison by h5py.
const char* const fixture = R"(
def make():
  np.random.seed(2)
  with h5.File('a.h5', 'w', track_order=True) as f:
    f.attrs['licence'] = 'CC0'; f.attrs['numbers'] = np.arange(6, dtype='>i2').reshape(2, 3)
    g = f.create_group('train'); g.attrs['words'] = ['one', 'two', 'drei']; g.attrs['empty'] = h5.Empty('f4')
    d = g.create_dataset('images', data=np.random.randint(0, 256, (500, 9, 7)).astype('u1'), chunks=(500, 3, 7), compression='gzip')
    d.attrs['mean'] = [0.5]; d.attrs['fixed'] = np.bytes_('abc')
    f['train/labels'] = np.arange(500, dtype='>i8'); f['train/halves'] = np.random.randn(40, 3).astype('f2')
    f['same'] = f['train/images']; f['soft'] = h5.SoftLink('/train/labels'); f['out'] = h5.ExternalLink('b.h5', '/x')
    f['names'] = np.array(['a', 'bc'], dtype=h5.string_dtype()); f['pair'] = np.array([(1, 2.5)], dtype=[('a', 'i4'), ('b', 'f8')])
    f['yes'] = np.array([True, False]); f['scalar'] = 3.5; f['none'] = np.zeros((0, 4)); f['grow'] = 1
    e = f.create_dataset('extend', (30, 2), 'i4', maxshape=(None, 2), chunks=(1, 1), fillvalue=7); e[3] = 1
    f['train/labels'].attrs['refers'] = d.ref
  with h5.File('b.h5', 'w') as f: f['x'] = np.arange(5)
def same(a, b):
  seen = []
  def visit(name, one):
    other = b[name]; seen.append(name)
    for key in one.attrs:
      if key == 'refers': assert key not in other.attrs; continue
      x, y = one.attrs[key], other.attrs[key]
      assert (x == y) if isinstance(x, (str, bytes, h5.Empty)) else (np.array_equal(x, y) and np.asarray(x).dtype == np.asarray(y).dtype), key
    if isinstance(one, h5.Dataset):
      assert one.dtype == other.dtype and one.shape == other.shape and one.maxshape == other.maxshape or CONTIGUOUS, name
      assert np.array_equal(one[()], other[()]), name
      assert one.fillvalue == other.fillvalue if one.dtype.kind in 'iuf' else True
  a.visititems(visit)
  for key in a.attrs: assert np.array_equal(a.attrs[key], b.attrs[key])
  assert b.get('soft', getlink=True).path == '/train/labels' and b.get('out', getlink=True).filename == 'b.h5'
  assert b['same'] == b['train/images']
  return len(seen)
)";

TEST(Rechunk, ValuesTypesAttributesAndLinksStay) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, std::string(fixture) + "make()");
  const auto report = rechunk_file({.path = folder / "a.h5"}, {.out = folder / "c.h5", .deflate = 3});
  EXPECT_NE(report.find(" (500, 9, 7): chunks of 500 rows"), std::string::npos) << report;
  EXPECT_NE(report.find("'refers' refers to other objects and was left out"), std::string::npos) << report;
  EXPECT_EQ(python(folder, std::string(fixture) + R"(
CONTIGUOUS = False
a, b = h5.File('a.h5'), h5.File('c.h5')
print(same(a, b) > 10, b['train/images'].chunks, b['train/images'].compression, b['train/images'].fletcher32, b['extend'].chunks))"),
            "True (500, 9, 7) gzip True (30, 2)\n");
  EXPECT_GT(DataManifest::load(folder / "c.h5")->check_all(), 3);

  // In place, with a chosen number of rows; one dataset only.
  rechunk_file({.path = folder / "c.h5", .rows = 64, .dataset = "train/images"}, {.out = folder / "c.h5"});
  EXPECT_EQ(python(folder, std::string(fixture) + R"(
CONTIGUOUS = False
a, b = h5.File('a.h5'), h5.File('c.h5')
print(same(a, b) > 10, b['train/images'].chunks, b['train/images'].compression, b['extend'].chunks))"),
            "True (64, 9, 7) None (30, 2)\n");
  EXPECT_GT(DataManifest::load(folder / "c.h5")->check_all(), 8);

  rechunk_file({.path = folder / "a.h5", .contiguous = true}, {.out = folder / "d.h5"});
  EXPECT_EQ(python(folder, std::string(fixture) + R"(
CONTIGUOUS = True
a, b = h5.File('a.h5'), h5.File('d.h5')
print(same(a, b) > 10, b['train/images'].chunks))"),
            "True None\n");
}

TEST(Rechunk, MistakesLeaveTheFileAlone) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, std::string(fixture) + "make()");
  const auto before = read_file(folder / "a.h5");
  expect_error(Exit::usage, {"a.h5: there is no dataset 'nothing'"},
               [&] { rechunk_file({.path = folder / "a.h5", .dataset = "nothing"}, {.out = folder / "a.h5"}); });
  expect_error(Exit::usage, {"contiguous data has no chunks"},
               [&] { rechunk_file({.path = folder / "a.h5", .contiguous = true}, {.out = folder / "a.h5", .deflate = 1}); });
  expect_error(Exit::bad_data, {"none.h5: no such file"},
               [&] { rechunk_file({.path = folder / "none.h5"}, {.out = folder / "x.h5"}); });
  ConvertOptions stops{.out = folder / "a.h5"};
  stops.progress = [](const Progress&) { throw std::runtime_error("stop"); };
  EXPECT_THROW(rechunk_file({.path = folder / "a.h5"}, stops), std::runtime_error);
  EXPECT_EQ(read_file(folder / "a.h5"), before);
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder.path)) ++files;
  EXPECT_EQ(files, 3u);  // a.h5, b.h5 and the script
}

}  // namespace
}  // namespace lockstep::io
