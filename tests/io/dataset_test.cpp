#include "io/dataset.h"

#include <cmath>
#include <map>
#include <numeric>
#include <thread>

#include "tests/io/files.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;

struct Values {
  std::vector<float> inputs, targets;
};

/// All rows of a dataset in order, as f32, in batches of `size`.
Values read_all(const Dataset& dataset, std::int64_t size = 7, bool backwards = false) {
  const auto& info = dataset.info();
  const std::int64_t n = count(info.input), m = count(info.target), all = dataset.rows();
  const bool tokens = info.kind == DataKind::tokens;
  Values values{std::vector<float>(std::size_t(all * n)), std::vector<float>(std::size_t(all * m))};
  std::vector<std::int32_t> whole(std::size_t(size * n)), labels(std::size_t(size * m));
  for (std::int64_t begin = 0; begin < all; begin += size) {
    std::vector<std::int64_t> rows(std::size_t(std::min(size, all - begin)));
    std::iota(rows.begin(), rows.end(), begin);
    if (backwards) std::reverse(rows.begin(), rows.end());
    std::vector<float> inputs(rows.size() * std::size_t(n)), targets(rows.size() * std::size_t(m));
    const View in =
        tokens ? View{whole.data(), std::int64_t(inputs.size()), DType::i32} : View{inputs.data(), std::int64_t(inputs.size())};
    const bool classes = info.target_dtype == DType::i32;
    const View out = classes ? View{labels.data(), std::int64_t(targets.size()), DType::i32}
                             : View{targets.data(), std::int64_t(targets.size())};
    dataset.read(rows, in, out);
    if (tokens) std::copy_n(whole.begin(), inputs.size(), inputs.begin());
    if (classes) std::copy_n(labels.begin(), targets.size(), targets.begin());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      std::copy_n(inputs.begin() + std::int64_t(i) * n, n, values.inputs.begin() + rows[i] * n);
      std::copy_n(targets.begin() + std::int64_t(i) * m, m, values.targets.begin() + rows[i] * m);
    }
  }
  return values;
}

void expect_near(const std::vector<float>& got, const std::vector<double>& expected, double tolerance = 2e-6) {
  ASSERT_EQ(got.size(), expected.size());
  for (std::size_t i = 0; i < got.size(); ++i)
    ASSERT_NEAR(got[i], float(expected[i]), tolerance * (1 + std::abs(expected[i]))) << "at " << i;
}

Datasets open(const DatasetOptions& options) {
  auto group = solo_group();
  return open_dataset(options, *group);
}

/// Opens `data.h5` in memory and by rows from the file, reads it forwards, backwards and in batches of one, and compares with
/// what Python computed: inputs, a line end, targets.
void expect_reads(const Folder& folder, DatasetOptions options, const std::string& expected) {
  const auto middle = expected.find('\n');
  const auto inputs = numbers(expected.substr(0, middle)), targets = numbers(expected.substr(middle));
  options.paths = {folder / "data.h5"};
  for (std::size_t limit : {std::size_t(1) << 30, std::size_t(0)}) {
    options.memory_limit = limit;
    const auto opened = open(options);
    for (std::int64_t size : {1, 7, 1000})
      for (bool backwards : {false, true}) {
        const auto values = read_all(*opened.train, size, backwards);
        expect_near(values.inputs, inputs);
        expect_near(values.targets, targets, 0);
      }
  }
}

const std::string print = "\nshow = lambda a: print(*['%.9g' % v for v in np.asarray(a, dtype=np.float64).ravel()])\n";

TEST(Dataset, ImagesOfBytes) {
  NEEDS_H5PY();
  Folder folder;
  const auto expected = python(folder, print + R"(
np.random.seed(1)
x, y = np.random.randint(0, 256, (23, 5, 6, 3)).astype('u1'), np.random.randint(0, 4, 23)
f = h5.File('data.h5', 'w')
f.create_dataset('train/images', data=x, chunks=(4, 5, 6, 3), compression='gzip', shuffle=True, fletcher32=True)
f['train/labels'] = y
f['train/labels'].attrs['classes'] = ['a', 'b', 'c', 'd']
f['train/images'].attrs['mean'] = [0.1, 0.2, 0.3]
f['train'].attrs['std'] = [0.5, 0.6, 0.7]
f.close()
show((x / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.6, 0.7]); show(y))");
  expect_reads(folder, {}, expected);
  const auto opened = open({.paths = {folder / "data.h5"}});
  EXPECT_EQ(opened.train->info().kind, DataKind::images);
  EXPECT_EQ(opened.train->info().input, (Shape{5, 6, 3}));
  EXPECT_EQ(opened.train->info().classes, 4);
  EXPECT_EQ(opened.train->info().class_names[3], "d");
  EXPECT_FALSE(opened.validation);
}

TEST(Dataset, ImagesInManyForms) {
  NEEDS_H5PY();
  const std::string start = print + "np.random.seed(2)\nf = h5.File('data.h5', 'w', userblock_size=512)\n";
  {
    SCOPED_TRACE("one channel, no statistics, labels (n, 1), names in Keras's way");
    Folder folder;
    expect_reads(folder, {}, python(folder, start + R"(
x, y = np.random.randint(0, 256, (9, 4, 3)).astype('u1'), np.random.randint(0, 3, (9, 1)).astype('>i8')
f['x_train'], f['y_train'], f['x_test'], f['y_test'] = x, y, x, y
f.close(); show(x / 255); show(y))"));
  }
  {
    SCOPED_TRACE("16 bits big-endian, statistics of the configuration, one label set as floats");
    Folder folder;
    expect_reads(folder, {.classes = 5, .mean = {0.5f}, .deviation = {0.25f}}, python(folder, start + R"(
x, y = np.random.randint(0, 65536, (9, 4, 3, 2)).astype('>u2'), np.random.randint(0, 3, 9).astype('f4')
f['image'], f['label'] = x, y
f.close(); show((x / 65535 - 0.5) / 0.25); show(y))"));
  }
  {
    SCOPED_TRACE("channels first, mean in units of the pixels");
    Folder folder;
    expect_reads(folder, {.channels_first = true}, python(folder, start + R"(
x, y = np.random.randint(0, 256, (9, 3, 5, 4)).astype('u1'), np.random.randint(0, 3, 9)
f['data'], f['label'] = x, y
f['data'].attrs['mean'], f['data'].attrs['std'] = [100., 120., 130.], [60., 61., 62.]
f.close(); show((x.transpose(0, 2, 3, 1) - [100., 120., 130.]) / [60., 61., 62.]); show(y))"));
  }
  {
    SCOPED_TRACE("half floats, booleans as labels, names given");
    Folder folder;
    expect_reads(folder, {.inputs = "scan/volume", .labels = "scan/ill"}, python(folder, start + R"(
x, y = np.random.randn(9, 4, 3).astype('f2'), np.random.rand(9) > 0.5
f['scan/volume'], f['scan/ill'], f['scan/other'] = x, y, y
f.close(); show(x); show(y))"));
  }
  {
    SCOPED_TRACE("a virtual dataset over two files, no labels wanted");
    Folder folder;
    expect_reads(folder, {.labels = "none"}, python(folder, start + R"(
x = np.random.rand(10, 4, 3).astype('f4')
for i in range(2):
  with h5.File('part%d.h5' % i, 'w') as p: p['x'] = x[5 * i:5 * i + 5]
layout = h5.VirtualLayout((10, 4, 3), 'f4')
for i in range(2): layout[5 * i:5 * i + 5] = h5.VirtualSource('part%d.h5' % i, 'x', (5, 4, 3))
f.create_virtual_dataset('images', layout)
f.close(); show(x); print())"));
  }
}

TEST(Dataset, Tables) {
  NEEDS_H5PY();
  const std::string start = print + "np.random.seed(3)\nf = h5.File('data.h5', 'w')\n";
  {
    SCOPED_TRACE("classes, big-endian doubles, a constant column");
    Folder folder;
    expect_reads(folder, {}, python(folder, start + R"(
x, y = np.random.randn(31, 5).astype('>f8'), np.random.randint(0, 3, 31)
f['features'], f['target'] = x, y
f['features'].attrs['mean'], f['features'].attrs['std'] = [1, 2, 3, 4, 5], [1, 2, 0, 4, 5]
f.close(); show((x - [1, 2, 3, 4, 5]) / [1, 2, 1, 4, 5]); show(y))"));
  }
  {
    SCOPED_TRACE("regression on two values");
    Folder folder;
    expect_reads(folder, {}, python(folder, start + R"(
x, y = np.random.randint(-1000, 1000, (31, 5)).astype('i2'), np.random.randn(31, 2).astype('f4')
f['X'], f['Y'] = x, y
f.close(); show(x); show(y))"));
    const auto opened = open({.paths = {folder / "data.h5"}});
    EXPECT_EQ(opened.train->info().classes, 0);
    EXPECT_EQ(opened.train->info().target, (Shape{2}));
    EXPECT_EQ(opened.train->info().target_dtype, DType::f32);
  }
  {
    SCOPED_TRACE("regression on whole numbers, images as a table");
    Folder folder;
    expect_reads(folder, {.kind = DataKind::table, .regression = true}, python(folder, start + R"(
x, y = np.random.randn(31, 2, 3).astype('f4'), np.random.randint(0, 300, 31)
f['inputs'], f['targets'] = x, y
f.close(); show(x); show(y))"));
  }
}

TEST(Dataset, Tokens) {
  NEEDS_H5PY();
  for (std::string type : {"u1", "<u2", ">u2", "i4", ">i8", "u8"}) {
    SCOPED_TRACE(type);
    Folder folder;
    expect_reads(folder, {.length = 8}, python(folder, print + R"(
np.random.seed(4)
t = np.random.randint(0, 200, 83).astype(')" + type + R"(')
with h5.File('data.h5', 'w') as f: f.create_dataset('tokens', data=t, chunks=(10,))
rows = (len(t) - 1) // 8
show([t[8 * i:8 * i + 8] for i in range(rows)]); show([t[8 * i + 1:8 * i + 9] for i in range(rows)]))"));
  }
  SCOPED_TRACE("rows of their own");
  Folder folder;
  expect_reads(folder, {}, python(folder, print + R"(
t = np.random.randint(0, 50257, (11, 9)).astype('u2')
with h5.File('data.h5', 'w') as f: f['input_ids'] = t
show(t[:, :-1]); show(t[:, 1:]))"));
}

TEST(Dataset, ValidationInItsManyPlaces) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
x, y = np.arange(100, dtype='f4').reshape(50, 2), np.arange(50) % 3
with h5.File('groups.h5', 'w') as f:
  f['train/x'], f['train/y'], f['val/x'], f['val/y'], f['test/x'], f['test/y'] = x, y, x[:7], y[:7], x[:5], y[:5]
with h5.File('names.h5', 'w') as f: f['train_set_x'], f['train_set_y'], f['test_set_x'], f['test_set_y'] = x, y, x[:4], y[:4]
with h5.File('plain.h5', 'w') as f: f['x'], f['y'], f['held/a'], f['held/y'] = x, y, x[:3], y[:3]
with h5.File('stream.h5', 'w') as f: f['tokens'] = np.arange(100, dtype='u1')
)");
  auto validation_rows = [&](const std::string& file, const std::string& validation) {
    const auto opened = open({.paths = {folder / file}, .validation = validation, .length = 4});
    return opened.validation ? opened.validation->rows() : 0;
  };
  EXPECT_EQ(validation_rows("groups.h5", ""), 7);
  EXPECT_EQ(validation_rows("groups.h5", "test"), 5);
  EXPECT_EQ(validation_rows("groups.h5", "test/x"), 5);
  EXPECT_EQ(validation_rows("groups.h5", "none"), 0);
  EXPECT_EQ(validation_rows("names.h5", ""), 4);
  EXPECT_EQ(validation_rows("plain.h5", ""), 0);
  EXPECT_EQ(validation_rows("plain.h5", "held/a"), 3);
  EXPECT_EQ(validation_rows("plain.h5", "0.2"), 10);
  EXPECT_EQ(validation_rows("plain.h5", folder / "groups.h5"), 7);
  EXPECT_EQ(validation_rows("plain.h5", folder / "plain.h5"), 50);
  EXPECT_EQ(validation_rows("stream.h5", "0.2"), 4);  // the last 20 tokens: 19 / 4

  // A share held out: every row on one side, in an order that is not the file's; tokens keep theirs.
  const auto split = open({.paths = {folder / "plain.h5"}, .validation = "0.2"});
  auto rows = read_all(*split.train).inputs;
  const auto held = read_all(*split.validation).inputs;
  EXPECT_FALSE(std::is_sorted(held.begin(), held.end()));
  rows.insert(rows.end(), held.begin(), held.end());
  std::sort(rows.begin(), rows.end());
  for (int i = 0; i < 100; ++i) ASSERT_EQ(rows[std::size_t(i)], float(i));
  const auto stream = open({.paths = {folder / "stream.h5"}, .validation = "0.2", .length = 4});
  EXPECT_EQ(stream.train->rows(), 19);
  EXPECT_EQ(read_all(*stream.validation).inputs[0], 80);
}

TEST(Dataset, SeveralFilesFollowOneAnother) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
x, y = np.arange(60, dtype='f4').reshape(30, 2), np.arange(30) % 3
for i, (a, b) in enumerate([(0, 7), (7, 8), (8, 30)]):
  with h5.File('part%d.h5' % i, 'w') as f: f['x'], f['y'] = x[a:b], y[a:b]
with h5.File('wide.h5', 'w') as f: f['x'], f['y'] = np.zeros((4, 3), 'f4'), np.zeros(4, 'i4')
)");
  for (std::size_t limit : {std::size_t(1) << 30, std::size_t(0)}) {
    const auto opened = open({.paths = {folder / "part*.h5"}, .memory_limit = limit});
    const auto values = read_all(*opened.train).inputs;
    ASSERT_EQ(values.size(), 60u);
    for (int i = 0; i < 60; ++i) ASSERT_EQ(values[std::size_t(i)], float(i));
  }
  expect_error(Exit::bad_data, {"wide.h5", "does not match"}, [&] {
    open({.paths = {folder / "part0.h5", folder / "wide.h5"}});
  });
  expect_error(Exit::bad_data, {(folder / "gone.h5") + ", " + (folder / "away.h5: no such file")}, [&] {
    open({.paths = {folder / "gone.h5", folder / "part0.h5", folder / "away.h5"}});
  });
  for (int i : {0, 1, 2, 4})
    std::filesystem::copy_file(folder / "part0.h5", folder / ("s-0000" + std::to_string(i) + "-of-00006.h5"));
  expect_error(Exit::bad_data, {"2 of 6 shards are missing", "s-00003-of-00006.h5, ", "s-00005-of-00006.h5"},
               [&] { open({.paths = {folder / "s-*.h5"}}); });
  for (int i : {3, 5}) std::filesystem::copy_file(folder / "part0.h5", folder / ("s-0000" + std::to_string(i) + "-of-00006.h5"));
  EXPECT_EQ(open({.paths = {folder / "s-*.h5"}}).train->rows(), 42);
  expect_error(Exit::bad_data, {"no file matches"}, [&] { open({.paths = {folder / "shard*.h5"}}); });
}

TEST(Dataset, SaysWhatIsWrong) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
def make(name, **sets):
  with h5.File(name, 'w') as f:
    for k, v in sets.items(): f[k] = v
x = np.ones((10, 3), 'f4')
make('good.h5', x=x, y=np.arange(10) % 2)
bad = x.copy(); bad[7, 2] = np.nan
make('nan.h5', x=bad, y=np.arange(10) % 2)
bad = x.astype('f8'); bad[3, 1] = 1e300
make('big.h5', x=bad, y=np.arange(10) % 2)
make('target.h5', x=x, y=np.array([1.5, np.inf] * 5))
make('negative.h5', x=x, y=np.arange(10) - 1)
make('rows.h5', x=x, y=np.arange(9))
make('text.h5', x=np.array([b'a', b'b']), y=np.arange(2))
make('empty.h5', x=np.zeros((0, 3)), y=np.zeros(0, 'i4'))
make('part.h5', images=np.zeros((5, 4, 4, 3), 'f4'), labels=np.array([0, 1.5, 0, 1, 1]))
make('first.h5', images=np.zeros((5, 3, 20, 30), 'f4'), labels=np.zeros(5, 'i4'))
make('tokens.h5', tokens=np.array([3, 4, 5, 300, 2]))
make('odd.h5', alpha=x, beta=x, gamma=x)
make('none.h5')
)");
  write_file(folder / "text.txt", "no HDF5 at all");
  write_file(folder / "zero.h5", "");
  const auto good = read_file(folder / "good.h5");
  write_file(folder / "cut.h5", good.substr(0, good.size() / 2));
  auto expect = [&](const std::string& file, const std::vector<std::string>& parts, DatasetOptions options = {}) {
    SCOPED_TRACE(file);
    options.paths = {folder / file};
    expect_error(Exit::bad_data, parts, [&] { open(options); });
  };
  expect("missing.h5", {"missing.h5: no such file"});
  expect("text.txt", {"not an HDF5 file"});
  expect("zero.h5", {"empty"});
  expect("cut.h5", {"damaged", "truncated"});
  expect("good.h5", {"'images'", "data.inputs", "x (10, 3) f32", "y (10) i64"}, {.inputs = "images"});
  expect("good.h5", {"'z'", "data.labels", "x (10, 3) f32"}, {.labels = "z"});
  expect("good.h5", {"'held'", "data.validation", "x (10, 3) f32"}, {.validation = "held"});
  expect("good.h5", {"label 1", "row: 1", "outside 0 to 0"}, {.classes = 1});
  expect("nan.h5", {"x: row 7, value 2 of 3 is NaN"});
  expect("big.h5", {"row 3, value 1", "beyond what f32 holds"});
  expect("target.h5", {"y: row 1", "infinite"});
  expect("negative.h5", {"label -1", "row: 0"});
  expect("rows.h5", {"10 rows", "9"});
  expect("text.h5", {"text", "cannot be inputs"});
  expect("empty.h5", {"no rows"});
  expect("part.h5", {"label 1.5 of row 1 is no whole number"});
  expect("first.h5", {"channels_first"});
  expect("tokens.h5", {"token 300", "outside 0 to 255"}, {.length = 2, .classes = 256});
  expect("tokens.h5", {"5 tokens"}, {.length = 5});
  expect("odd.h5", {"alpha (10, 3) f32, beta", "data.inputs"});
  expect("none.h5", {"no datasets"});
  expect("good.h5", {"cannot be tokens"}, {.kind = DataKind::tokens, .length = 2});
  expect("good.h5", {"cannot be images"}, {.kind = DataKind::images});
  expect("good.h5", {"2 values for 3"}, {.mean = {1, 2}});
  expect_error(Exit::usage, {"length"}, [&] { open({.paths = {folder / "tokens.h5"}}); });
  expect_error(Exit::usage, {"data.validation = 1.5"}, [&] { open({.paths = {folder / "good.h5"}, .validation = "1.5"}); });
  // Without the scan nothing is refused.
  EXPECT_EQ(open({.paths = {folder / "nan.h5"}, .scan = false}).train->rows(), 10);
}

TEST(Dataset, AVirtualDatasetWithoutItsSourcesIsAnError) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
import os
os.mkdir('parts')
for i in range(3):
  with h5.File('parts/p%d.h5' % i, 'w') as f: f['x'] = np.full((5, 2), i, 'f4')
def show(name, rows, sources):
  layout = h5.VirtualLayout((rows, 2), 'f4')
  for i, (file, n) in enumerate(sources): layout[5 * i:5 * i + n] = h5.VirtualSource(file, 'x', (n, 2))
  with h5.File(name, 'w') as f: f.create_virtual_dataset('x', layout, fillvalue=-1); f['y'] = np.zeros(rows, 'i4')
show('good.h5', 15, [('parts/p%d.h5' % i, 5) for i in range(3)])
show('gone.h5', 15, [('parts/p%d.h5' % i, 5) for i in (0, 1, 7)])
show('gap.h5', 15, [('parts/p%d.h5' % i, 5) for i in range(2)])
show('short.h5', 12, [('parts/p0.h5', 5), ('parts/p1.h5', 7)])
with h5.File('own.h5', 'w') as f:
  f['a'] = np.ones((4, 2), 'f4'); f['y'] = np.zeros(4, 'i4')
  layout = h5.VirtualLayout((4, 2), 'f4'); layout[:] = h5.VirtualSource(f['a']); f.create_virtual_dataset('x', layout)
)");
  const auto good = open({.paths = {folder / "good.h5"}});
  EXPECT_EQ(read_all(*good.train).inputs[14], 1.f);
  EXPECT_EQ(read_all(*open({.paths = {folder / "own.h5"}, .inputs = "x", .labels = "y"}).train).inputs, std::vector<float>(8, 1));
  // A source that is open for something else too, before the virtual dataset is read.
  const auto both =
      open({.paths = {folder / "parts/p2.h5", folder / "good.h5"}, .labels = "none", .memory_limit = 0, .scan = false});
  const auto shown = read_all(*both.train).inputs;
  EXPECT_EQ(shown[29], 1.f);
  EXPECT_EQ(shown[35], 2.f) << "the source that is open twice reads as fill values";
  expect_error(Exit::bad_data, {"gone.h5: 'x' shows values of parts/p7.h5:/x, which is missing"},
               [&] { open({.paths = {folder / "gone.h5"}}); });
  expect_error(Exit::bad_data, {"gap.h5: 'x' (15, 2) has sources for only 20 of its 30 values"},
               [&] { open({.paths = {folder / "gap.h5"}}); });
  expect_error(Exit::bad_data, {"short.h5: 'x' shows values of parts/p1.h5:/x, which has only the shape (5, 2)"},
               [&] { open({.paths = {folder / "short.h5"}}); });
}

TEST(Dataset, RowsOfTokensStayInTheirDocuments) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
lengths = [9, 3, 0, 5, 4, 20]
tokens = np.concatenate([np.full(n, i) * 10 + np.arange(n) % 10 for i, n in enumerate(lengths)]).astype('u2')
ends = np.cumsum(lengths)
for name, edges in dict(starts=ends - lengths, ends=ends, both=np.concatenate([[0], ends]), falling=[0, 9, 5], beyond=[0, 99]).items():
  with h5.File(name + '.h5', 'w') as f: f['tokens'], f['edges'] = tokens, np.array(edges, '>i8' if name == 'ends' else 'u4')
)");
  for (const char* name : {"starts", "ends", "both"}) {
    SCOPED_TRACE(name);
    for (std::size_t limit : {0, 1 << 30}) {
      const auto opened =
          open({.paths = {folder / (name + std::string(".h5"))}, .length = 4, .memory_limit = limit, .documents = "edges"});
      // Of 9 tokens: 0 to 3 and 4 to 7. Of 5: one row. Of 20: five, the last one moved back to end with its document.
      const auto values = read_all(*opened.train);
      ASSERT_EQ(values.inputs, (std::vector<float>{0,  1,  2,  3,  4,  5,  6,  7,  30, 31, 32, 33, 50, 51, 52, 53,
                                                   54, 55, 56, 57, 58, 59, 50, 51, 52, 53, 54, 55, 55, 56, 57, 58}));
      for (std::size_t i = 0; i < values.inputs.size(); ++i)
        ASSERT_EQ(int(values.inputs[i]) / 10, int(values.targets[i]) / 10) << "a row crosses into another document";
      EXPECT_EQ(values.targets.back(), 59.f);
      EXPECT_NE(opened.train->info().text.find("5 documents (2 of them shorter than a row, left out)"), std::string::npos)
          << opened.train->info().text;
    }
  }
  auto refuse = [&](const std::string& name, const std::string& documents, const std::vector<std::string>& parts) {
    expect_error(Exit::bad_data, parts, [&] { open({.paths = {folder / name}, .length = 4, .documents = documents}); });
  };
  refuse("falling.h5", "edges", {"falling.h5: 'edges' does not rise"});
  refuse("beyond.h5", "edges", {"beyond.h5: 'edges' does not rise from 0 to the 41 tokens"});
  refuse("both.h5", "nothing", {"both.h5: there is no dataset 'nothing' (data.documents)"});
}

TEST(Dataset, CropsAndFlipsAreDecidedByTheirKey) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
x = np.random.randint(1, 256, (12, 5, 6, 3)).astype('u1')
with h5.File('last.h5', 'w') as f: f['images'], f['labels'] = x, np.zeros(12, 'i4')
with h5.File('first.h5', 'w') as f: f['images'], f['labels'] = x.transpose(0, 3, 1, 2), np.zeros(12, 'i4')
)");
  const DatasetOptions options = {
      .paths = {folder / "last.h5"}, .crop_padding = 2, .flip = true, .mean = {0.5f}, .deviation = {2}};
  const auto opened = open(options);
  auto first_options = options;
  first_options.paths = {folder / "first.h5"}, first_options.channels_first = true, first_options.memory_limit = 0;
  const auto first = open(first_options);
  const auto plain = read_all(*opened.train).inputs;  // without a key nothing is drawn
  const std::vector<std::int64_t> rows = {3, 3, 11, 0, 7, 3, 2, 5};
  const std::int64_t n = 5 * 6 * 3;
  auto read = [&](const Dataset& data, const RandomKey& key, std::span<const std::int64_t> some) {
    std::vector<float> inputs(some.size() * std::size_t(n));
    std::vector<std::int32_t> labels(some.size());
    data.read(some, {inputs.data(), std::int64_t(inputs.size())}, {labels.data(), std::int64_t(labels.size()), DType::i32}, &key);
    return inputs;
  };
  const float black = (0 - 0.5f) / 2;
  bool moved = false, mirrored = false;
  for (std::uint64_t step = 0; step < 20; ++step) {
    const RandomKey key{.seed = 7, .step = step, .lane = 1};
    const auto got = read(*opened.train, key, rows);
    ASSERT_EQ(got, read(*first.train, key, rows)) << "layout or storage changes the draw";
    const auto half = read(*opened.train, key, std::span(rows).first(4));
    ASSERT_TRUE(std::equal(half.begin(), half.end(), got.begin())) << "a place's draw depends on the rows beside it";
    for (std::size_t i = 0; i < rows.size(); ++i) {
      // Some shift by at most two pixels, mirrored or not, of the padded image explains every pixel.
      int fits = 0;
      for (int down = -2; down <= 2; ++down)
        for (int right = -2; right <= 2; ++right)
          for (bool flip : {false, true}) {
            bool same = true;
            for (int y = 0; y < 5 && same; ++y)
              for (int x = 0; x < 6 && same; ++x)
                for (int c = 0; c < 3 && same; ++c) {
                  const int sy = y + down, sx = (flip ? 5 - x : x) + right;
                  const float want =
                      sy < 0 || sy >= 5 || sx < 0 || sx >= 6 ? black : plain[std::size_t(rows[i] * n + (sy * 6 + sx) * 3 + c)];
                  same = std::abs(got[i * std::size_t(n) + std::size_t((y * 6 + x) * 3 + c)] - want) < 1e-6f;
                }
            if (same) ++fits, moved |= down != 0 || right != 0, mirrored |= flip;
          }
      ASSERT_EQ(fits, 1) << "step " << step << " place " << i;
    }
  }
  EXPECT_TRUE(moved && mirrored);
  EXPECT_NE(read(*opened.train, {.seed = 7, .step = 1}, rows), read(*opened.train, {.seed = 8, .step = 1}, rows));
  expect_error(Exit::usage, {"data.crop_padding"},
               [&] { open({.paths = {folder / "last.h5"}, .kind = DataKind::table, .flip = true}); });
}

TEST(Dataset, WhatWasLookedThroughIsRememberedUntilTheFileChanges) {
  NEEDS_H5PY();
  Folder folder;
  auto make = [&](const std::string& more) {
    python(folder, R"(
x, y = np.ones((50, 3), 'f4'), np.arange(50) % 7
)" + more + R"(
with h5.File('data.h5', 'w') as f: f['x'], f['y'] = x, y
)");
  };
  const DatasetOptions options = {.paths = {folder / "data.h5"}, .notes = folder / "notes/deep", .notes_after = 0};
  auto notes = [&] {
    int n = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(options.notes)) ++n;
    return n;
  };
  make("");
  EXPECT_EQ(open(options).train->info().classes, 7);
  EXPECT_EQ(notes(), 1);
  const std::string note = std::filesystem::directory_iterator(options.notes)->path();
  const std::string good = read_file(note);
  EXPECT_EQ(open(options).train->info().classes, 7);
  EXPECT_EQ(notes(), 1);
  // A damaged note is not, and a scan that is asked for otherwise has its own.
  std::string bad = good;
  bad.back() = '9';
  write_file(note, bad);
  EXPECT_EQ(open(options).train->info().classes, 7);
  EXPECT_EQ(read_file(note), good) << "the note was written again";
  auto other = options;
  other.classes = 8;
  EXPECT_EQ(open(other).train->info().classes, 8);
  EXPECT_EQ(notes(), 2);
  // A changed file is looked through again.
  make("x[20, 1] = np.nan");
  expect_error(Exit::bad_data, {"row 20, value 1 of 3 is NaN"}, [&] { open(options); });
  EXPECT_EQ(notes(), 2);
  make("y[3] = 11");
  EXPECT_EQ(open(options).train->info().classes, 12);
  // A folder that cannot be is no obstacle.
  other.notes = folder / "data.h5/notes";
  EXPECT_EQ(open({.paths = {folder / "data.h5"}, .notes = other.notes, .notes_after = 0}).train->info().classes, 12);
}

TEST(Dataset, ReadsFromSeveralThreads) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
with h5.File('data.h5', 'w') as f:
  f.create_dataset('x', data=np.arange(4000, dtype='f4').reshape(1000, 4), chunks=(16, 4), compression='gzip')
  f['y'] = np.zeros(1000, 'i4'))");
  const auto opened = open({.paths = {folder / "data.h5"}, .memory_limit = 0});
  std::vector<std::thread> threads;
  std::vector<Values> values(3);
  for (int t = 0; t < 3; ++t) threads.emplace_back([&, t] { values[std::size_t(t)] = read_all(*opened.train, 50 + t); });
  for (auto& thread : threads) thread.join();
  for (const auto& v : values)
    for (int i = 0; i < 4000; ++i) ASSERT_EQ(v.inputs[std::size_t(i)], float(i));
}

TEST(Dataset, SyntheticRowsAreDecidedByTheirNumber) {
  const auto images = synthetic_dataset({.rows = 40, .input = {4, 4, 1}, .classes = 3});
  const auto a = read_all(*images, 7), b = read_all(*images, 40, true);
  EXPECT_EQ(a.inputs, b.inputs);
  EXPECT_EQ(a.targets, b.targets);
  for (float label : a.targets) EXPECT_TRUE(label == 0 || label == 1 || label == 2);
  EXPECT_GT(std::count(a.targets.begin(), a.targets.end(), 2.f), 3);
  const auto tokens = read_all(*synthetic_dataset({.kind = DataKind::tokens, .rows = 5, .input = {6}, .classes = 50}));
  for (std::size_t i = 0; i + 1 < 6; ++i) EXPECT_EQ(tokens.inputs[i + 1], tokens.targets[i]);
  const auto values = synthetic_dataset({.kind = DataKind::table, .rows = 5, .input = {6}, .classes = 0, .outputs = 2});
  EXPECT_EQ(read_all(*values).targets.size(), 10u);
}

// Of large data whole chunks are held out, so that both sides keep their chunks; which ones depends on the file alone.
TEST(Dataset, ALargeFilesShareIsOfWholeChunks) {
  NEEDS_H5PY();
  Folder folder;
  const std::int64_t rows = 40005;
  python(folder, R"(
with h5.File('data.h5', 'w') as f:
  f.create_dataset('images', (40005, 32, 32, 8), 'u1', chunks=(64, 32, 32, 8), compression='gzip')
  f['labels'] = np.arange(40005, dtype='i4'))");
  auto group = solo_group();
  auto labels = [&](const Dataset& data, std::int64_t step) {
    std::vector<std::int32_t> all;
    std::vector<float> inputs(std::size_t(100 * 8192));
    for (std::int64_t at = 0; at < data.rows(); at += 100 * step) {
      std::vector<std::int64_t> wanted;
      for (std::int64_t i = at; i < std::min(data.rows(), at + 100 * step); i += step) wanted.push_back(i);
      all.resize(all.size() + wanted.size());
      const auto n = std::int64_t(wanted.size());
      data.read(wanted, {inputs.data(), n * 8192, DType::f32}, {all.data() + all.size() - wanted.size(), n, DType::i32});
    }
    return all;
  };
  const DatasetOptions options = {.paths = {folder / "data.h5"}, .validation = "0.2", .memory_limit = 64 << 20};
  const auto opened = open_dataset(options, *group);
  EXPECT_EQ(opened.validation->rows(), rows - opened.train->rows());
  EXPECT_EQ(opened.train->rows(), std::llround(0.8 * double(rows)));
  std::map<std::int64_t, int> sides;  // of each chunk: bit 0 for training, bit 1 for validation
  std::vector<int> seen(std::size_t(rows), 0);
  for (const Dataset* data : {opened.train.get(), opened.validation.get()}) {
    const auto here = labels(*data, 1);
    for (auto label : here) ++seen[std::size_t(label)], sides[label / 64] |= data == opened.train.get() ? 1 : 2;
    // What chunks() says is so: the rows of each of its chunks come from one chunk of the file.
    std::int64_t next = 0;
    for (const auto& run : data->chunks()) {
      EXPECT_EQ(run.first, next);
      EXPECT_EQ(run.chunk, 64);
      for (std::int64_t i = 0; i < run.rows; ++i)
        ASSERT_EQ(here[std::size_t(run.first + i)] / 64, here[std::size_t(run.first + i / 64 * 64)] / 64) << run.first + i;
      next += run.rows;
    }
    EXPECT_EQ(next, data->rows());
    EXPECT_LE(data->chunks().size(), 3u);
  }
  for (std::int64_t i = 0; i < rows; ++i) ASSERT_EQ(seen[std::size_t(i)], 1) << i;
  int cut = 0, held_out_early = 0;
  for (const auto& [chunk, side] : sides) cut += side == 3, held_out_early += side == 2 && chunk < 312;
  EXPECT_LE(cut, 1);
  EXPECT_GT(held_out_early, 40);  // of about 62: drawn from everywhere
  EXPECT_LT(held_out_early, 85);
  // In memory: any row costs the same, and the same ones are held out.
  auto kept = options;
  kept.memory_limit = 1 << 30;
  const auto again = open_dataset(kept, *group);
  EXPECT_TRUE(again.train->chunks().empty());
  EXPECT_EQ(labels(*again.validation, 37), labels(*opened.validation, 37));
}

}  // namespace
}  // namespace lockstep::io
