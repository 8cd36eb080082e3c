#include "io/convert.h"

#include <map>

#include "io/dataset.h"
#include "io/hdf5.h"
#include "tests/io/files.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;

TEST(WriteNpy, EveryTypeOrderAndArchive) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
np.random.seed(4)
types = ['?', 'i1', 'u1'] + [o + t for o in '<>' for t in ('i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f2', 'f4', 'f8')]
for i, t in enumerate(types): np.save('t%d.npy' % i, (np.random.randn(70, 3, 2) * 50).astype(t))
np.save('f.npy', np.asfortranarray(np.random.randn(9, 4, 5, 2))); np.save('one.npy', np.arange(100)); np.save('zero.npy', np.float32(4))
np.save('big.npy', np.random.randint(0, 256, (3000, 1000)).astype('u1'))
np.savez('a.npz', x_train=np.random.rand(50, 4), y_train=np.arange(50) % 3); np.savez_compressed('b.npz', x_test=np.random.rand(9, 4), y_test=np.arange(9) % 3)
)");
  std::vector<std::string> paths;
  for (int i = 0; i < 21; ++i) paths.push_back(folder / ("t" + std::to_string(i) + ".npy"));
  for (const char* name : {"f.npy", "one.npy", "zero.npy", "big.npy", "a.npz", "b.npz"}) paths.push_back(folder / name);
  write_npy(paths, {.out = folder / "all.h5"});
  EXPECT_EQ(python(folder, R"(
f, n = h5.File('all.h5'), 0
for k in f:
  if k in ('x_train', 'y_train', 'x_test', 'y_test'): a = np.load('a.npz' if 'train' in k else 'b.npz')[k]
  else: a = np.atleast_1d(np.load(k + '.npy'))
  assert np.array_equal(f[k][()].astype(a.dtype), a) and (f[k].dtype == a.dtype or a.dtype == bool), k
  n += 1
print(n, f['big'].chunks))"),
            "29 (262, 1000)\n");
  auto group = solo_group();
  const auto opened = open_dataset({.paths = {folder / "all.h5"}}, *group);
  EXPECT_EQ(opened.train->rows(), 50);
  EXPECT_EQ(opened.validation->rows(), 9);
}

TEST(WriteNpy, RowsHeldOutStayTogether) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, "np.save('x.npy', np.arange(600.).reshape(200, 3)); np.save('y.npy', 3 * np.arange(200))");
  write_npy({folder / "x.npy", folder / "y.npy"}, {.out = folder / "s.h5", .validation = 0.2, .shards = 2});
  EXPECT_EQ(python(folder, R"(
got = []
for s in range(2):
  f = h5.File('s-0000%d-of-00002.h5' % s)
  for p in ('train', 'validation'):
    x, y = f[p]['x'][()], f[p]['y'][()]
    print(len(x), (x[:, 0] == y).all())
    got += list(y)
print(sorted(got) == list(range(0, 600, 3))))"),
            "80 True\n20 True\n80 True\n20 True\nTrue\n");
}

TEST(WriteNpy, MalformedFilesAreRefused) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
def npy(name, header, values=bytes(24), version=1, more=b''):
  raw = header.encode(); size = struct.pack('<H' if version == 1 else '<I', len(raw))
  open(name, 'wb').write(b'\x93NUMPY' + bytes([version, 0]) + size + raw + values + more)
good = "{'descr': '<i4', 'fortran_order': False, 'shape': (3, 2), }"
npy('good.npy', good); npy('short.npy', good, bytes(23)); npy('long.npy', good, more=b'x')
npy('object.npy', good.replace('<i4', '|O')); npy('complex.npy', good.replace('<i4', '<c8')); npy('records.npy', good.replace("'<i4'", "[('a', '<i4')]"))
npy('twice.npy', good.replace('}', "'shape': (1,)}")); npy('key.npy', good.replace('}', "'other': 1}")); npy('tail.npy', good + ' import os')
npy('negative.npy', good.replace('3', '-3')); npy('huge.npy', good.replace('3', '9' * 15)); npy('sizes.npy', good.replace('3', '9' * 40))
npy('missing.npy', "{'descr': '<i4', 'shape': (3, 2)}"); npy('empty.npy', good.replace('3', '0')); npy('version.npy', good, version=9)
open('text.npy', 'w').write('hello, this is text'); open('none.npy', 'w'); open('bad.npz', 'wb').write(b'PK\3\4' + bytes(50))
import zipfile
with zipfile.ZipFile('other.npz', 'w') as z: z.writestr('readme.txt', 'hi')
np.savez('flip.npz', x=np.arange(1000)); raw = bytearray(open('flip.npz', 'rb').read()); raw[500] ^= 1; open('flip.npz', 'wb').write(raw))");
  for (const auto& [name, part] : std::map<std::string, std::string>{{"short.npy", "beyond the end"},
                                                                     {"long.npy", "there is more"},
                                                                     {"object.npy", "'|O'"},
                                                                     {"complex.npy", "'<c8'"},
                                                                     {"records.npy", "records"},
                                                                     {"twice.npy", "'shape' is there twice"},
                                                                     {"key.npy", "'other' is not known"},
                                                                     {"tail.npy", "more after it"},
                                                                     {"negative.npy", "no number"},
                                                                     {"huge.npy", "impossible"},
                                                                     {"sizes.npy", "no number"},
                                                                     {"missing.npy", "are needed"},
                                                                     {"empty.npy", "is empty"},
                                                                     {"version.npy", "version 9"},
                                                                     {"text.npy", "not an array"},
                                                                     {"none.npy", "none.npy"},
                                                                     {"bad.npz", "damaged"},
                                                                     {"other.npz", "'readme.txt' is not an array"},
                                                                     {"flip.npz", "damaged"}}) {
    SCOPED_TRACE(name);
    expect_error(Exit::bad_data, {name, part}, [&] { write_npy({folder / name}, {.out = folder / "out/x.h5"}); });
    EXPECT_TRUE(!std::filesystem::exists(folder / "out") || std::filesystem::is_empty(folder / "out"));
  }
}

}  // namespace
}  // namespace lockstep::io
