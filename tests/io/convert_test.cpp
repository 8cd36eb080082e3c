#include "io/convert.h"

#include <signal.h>
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "io/dataset.h"
#include "io/parts.h"
#include "io/rechunk.h"
#include "tests/io/files.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;
namespace fs = std::filesystem;

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

TEST(WriteText, BytesBecomeTokens) {
  NEEDS_H5PY();
  Folder folder;
  const std::string a = "In the beginning\n\xC3\xA9", b = "And the earth was without form";
  write_file(folder / "a.txt", a);
  python(folder, "gzip.open('b.txt.gz', 'wb').write(b'" + b + "')");
  const auto report =
      write_text({.paths = {folder / "a.txt", folder / "b.txt.gz"}},
                 {.out = folder / "made/text.h5", .validation = 0.25, .source = "two files", .licence = "public domain"});
  EXPECT_NE(report.find("train/tokens 37 bytes, validation/tokens 12 bytes"), std::string::npos) << report;
  const auto out = python(folder, R"(
f = h5.File('made/text.h5')
sys.stdout.buffer.write(f['train/tokens'][()].tobytes() + b'|' + f['validation/tokens'][()].tobytes() + b'|')
sys.stdout.flush()
print(f['train/tokens'].dtype, f['train/tokens'].fletcher32, f.attrs['vocabulary'], f.attrs['licence'], f.attrs['source']))");
  const std::string all = a + b;
  EXPECT_EQ(out, all.substr(0, 37) + "|" + all.substr(37) + "|uint8 True 256 public domain two files\n");
  EXPECT_EQ(names_in(folder / "made"), (std::vector<std::string>{"text.h5", "text.h5.manifest"}));

  auto group = solo_group();
  const auto opened = open_dataset({.paths = {folder / "made/text.h5"}, .length = 4}, *group);
  EXPECT_EQ(opened.train->rows(), 9);
  EXPECT_EQ(opened.validation->rows(), 2);
  EXPECT_EQ(opened.train->info().classes, 256);
}

TEST(WriteText, LargerThanABlockAndWithoutValidation) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, "np.random.seed(1); np.random.randint(0, 256, 9_000_001).astype('u1').tofile('big.bin')");
  write_text({.paths = {folder / "big.bin"}}, {.out = folder / "big.h5", .validation = 0.5});
  EXPECT_EQ(python(folder, R"(
f, x = h5.File('big.h5'), np.fromfile('big.bin', 'u1')
print((f['train/tokens'][()] == x[:4500000]).all(), (f['validation/tokens'][()] == x[4500000:]).all()))"),
            "True True\n");
  write_text({.paths = {folder / "big.bin"}}, {.out = folder / "big.h5"});
  EXPECT_EQ(python(folder, "print(list(h5.File('big.h5')))"), "['train']\n");
}

const std::string idx_python = R"(
def idx(name, a, code, open=open, cut=0, more=b''):
  raw = struct.pack('>BBBB', 0, 0, code, a.ndim) + b''.join(struct.pack('>I', n) for n in a.shape) + a.tobytes()
  with open(name, 'wb') as f: f.write(raw[:len(raw) - cut] + more)
np.random.seed(3)
x, y = np.random.randint(0, 256, (50, 7, 5)).astype('u1'), np.random.randint(0, 4, 50).astype('u1')
)";

TEST(WriteIdx, ImagesAndLabels) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, idx_python + R"(
idx('images.gz', x, 8, gzip.open); idx('labels.gz', y, 8, gzip.open); idx('ti', x[:9], 8); idx('tl', y[:9].astype('>i4'), 0xC)
idx('floats', (x.astype('f4') / 7).astype('>f4'), 0xD))");
  write_idx({.images = folder / "images.gz",
             .labels = folder / "labels.gz",
             .test_images = folder / "ti",
             .test_labels = folder / "tl",
             .classes = {"shirt", "shoe", "bag", "coat"}},
            {.out = folder / "a.h5", .licence = "Expat"});
  EXPECT_EQ(python(folder, idx_python + R"(
f = h5.File('a.h5')
print((f['train/images'][()] == x).all(), (f['train/labels'][()] == y).all(), (f['validation/images'][()] == x[:9]).all(),
      (f['validation/labels'][()] == y[:9]).all(), list(f['train/labels'].attrs['classes']), f['train/images'].fletcher32,
      abs(f['train/images'].attrs['mean'] - x.mean() / 255) < 1e-6, abs(f['train/images'].attrs['std'] - x.std() / 255) < 1e-6))"),
            "True True True True ['shirt', 'shoe', 'bag', 'coat'] True True True\n");
  auto group = solo_group();
  const auto opened = open_dataset({.paths = {folder / "a.h5"}}, *group);
  EXPECT_EQ(opened.train->info().input, (Shape{7, 5, 1}));
  EXPECT_EQ(opened.train->info().classes, 4);
  EXPECT_EQ(opened.validation->rows(), 9);
  // Normalised: mean 0, deviation 1 over all training rows.
  std::vector<std::int64_t> rows(50);
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<float> values(50 * 35);
  std::vector<std::int32_t> labels(50);
  opened.train->read(rows, {values.data(), 50 * 35}, {labels.data(), 50, DType::i32});
  double sum = 0, square = 0;
  for (float v : values) sum += v, square += v * v;
  EXPECT_NEAR(sum / 1750, 0, 1e-5);
  EXPECT_NEAR(square / 1750, 1, 1e-4);

  // A share held out: every image on one side, with its label.
  write_idx({.images = folder / "floats", .labels = folder / "labels.gz"}, {.out = folder / "b.h5", .validation = 0.3});
  EXPECT_EQ(python(folder, idx_python + R"(
f = h5.File('b.h5')
a = np.concatenate([f['train/images'][()], f['validation/images'][()]]); b = np.concatenate([f['train/labels'][()], f['validation/labels'][()]])
original = {(x[i].astype('f4') / 7).astype('f4').tobytes() + bytes([y[i]]) for i in range(50)}
print(len(f['train/images']), {a[i].tobytes() + bytes([b[i]]) for i in range(50)} == original, f['train/images'].dtype))"),
            "35 True float32\n");
}

TEST(WriteIdx, MalformedFilesAreRefused) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, idx_python + R"(
idx('images', x, 8); idx('labels', y, 8); idx('short', x, 8, cut=10); idx('long', x, 8, more=b'!')
idx('fewer', y[:49], 8); idx('flat', x.reshape(50, 35), 8); idx('cut.gz', x, 8, gzip.open)
raw = open('cut.gz', 'rb').read(); open('cut.gz', 'wb').write(raw[:len(raw) // 2])
idx('negative', -y.astype('>i2') - 1, 0xB)
open('huge', 'wb').write(b'\0\0\x08\x03' + b'\xff' * 12); open('text', 'w').write('hello, world'); open('tiny', 'wb').write(b'\0\0'))");
  auto expect = [&](const std::string& images, const std::string& labels, const std::vector<std::string>& parts) {
    SCOPED_TRACE(images + " " + labels);
    expect_error(Exit::bad_data, parts,
                 [&] { write_idx({.images = folder / images, .labels = folder / labels}, {.out = folder / "out/x.h5"}); });
    EXPECT_TRUE(!fs::exists(folder / "out") || names_in(folder / "out").empty());
  };
  expect("missing", "labels", {"missing: no such file"});
  expect("short", "labels", {"short: the file ends at offset 1756"});
  expect("long", "labels", {"long: at offset 1766: there is more"});
  expect("images", "fewer", {"fewer: 49 labels for the 50 images"});
  expect("flat", "labels", {"flat: images have the axes", "(50, 35)"});
  expect("cut.gz", "labels", {"cut.gz", "the gzip stream is cut off"});
  expect("images", "negative", {"negative: label", "is negative"});
  expect("huge", "labels", {"huge: at offset 4", "impossible"});
  expect("text", "labels", {"text: at offset 0: not an idx file (its first bytes are 104"});
  expect("tiny", "labels", {"tiny: the file ends at offset 2"});
  expect("images", "images", {"labels are whole numbers along one axis"});
  expect_error(Exit::usage, {"come together"}, [&] {
    write_idx({.images = folder / "images", .labels = folder / "labels", .test_images = folder / "images"},
              {.out = folder / "x.h5"});
  });
}

TEST(WriteCsv, ClassesFromWords) {
  NEEDS_H5PY();
  Folder folder;
  write_file(folder / "iris.csv",
             "\xEF\xBB\xBFid, sepal ,\"petal, "
             "width\",species\r\n1,5.1,0.2,setosa\r\n2,+7e0,1.4,\"versi\"\"color\"\r\n\r\n3,6.3,2.5,virginica\r\n4,4.9,"
             "0.1,setosa");
  const auto report = write_csv({.paths = {folder / "iris.csv"}, .ignore = {"id"}}, {.out = folder / "iris.h5"});
  EXPECT_NE(report.find("4 rows for training, 0 held out, 2 columns, target 'species' (3 classes)"), std::string::npos) << report;
  EXPECT_EQ(python(folder, R"(
f = h5.File('iris.h5')
x = np.array([[5.1, .2], [7, 1.4], [6.3, 2.5], [4.9, .1]], 'f4')
print((f['train/x'][()] == x).all(), f['train/y'][()].tolist(), list(f['train/y'].attrs['classes']), list(f['train/x'].attrs['columns']),
      np.allclose(f['train/x'].attrs['mean'], x.mean(0)), np.allclose(f['train/x'].attrs['std'], x.std(0))))"),
            "True [0, 1, 2, 0] ['setosa', 'versi\"color', 'virginica'] ['sepal', 'petal, width'] True True\n");
}

TEST(WriteCsv, ManyShapes) {
  NEEDS_H5PY();
  Folder folder;
  {
    SCOPED_TRACE("semicolons, no header, labels 0 to 2, target in front");
    write_file(folder / "a.csv", "2;1.5;3\n0;2.5;4\n1;-1;5\n");
    write_csv({.paths = {folder / "a.csv"}, .target = "0"}, {.out = folder / "a.h5"});
    EXPECT_EQ(
        python(folder,
               "f = h5.File('a.h5'); print(f['train/x'][()].tolist(), f['train/y'][()].tolist(), f['train/y'].attrs['classes'])"),
        "[[1.5, 3.0], [2.5, 4.0], [-1.0, 5.0]] [2, 0, 1] 3\n");
  }
  {
    SCOPED_TRACE("tabs, numbers as column names, labels -1 and 1, two files");
    write_file(folder / "b1.csv", "0\t1\tsign\n1\t2\t-1\n3\t4\t1\n");
    write_file(folder / "b2.csv", "0\t1\tsign\n5\t6\t1\n");
    write_csv({.paths = {folder / "b1.csv", folder / "b2.csv"}}, {.out = folder / "b.h5"});
    EXPECT_EQ(python(folder,
                     "f = h5.File('b.h5'); print(f['train/x'][()].tolist(), f['train/y'][()].tolist(), "
                     "list(f['train/y'].attrs['classes']))"),
              "[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]] [0, 1, 1] ['-1', '1']\n");
  }
  {
    SCOPED_TRACE("regression, a share held out, gzip");
    python(folder,
           "gzip.open('c.csv.gz', 'wt').write('a,b,y\\n' + ''.join('%d,%d,%g\\n' % (i, 2 * i, i / 4) for i in range(200)))");
    write_csv({.paths = {folder / "c.csv.gz"}, .target = "y", .regression = true}, {.out = folder / "c.h5", .validation = 0.25});
    auto group = solo_group();
    const auto opened = open_dataset({.paths = {folder / "c.h5"}}, *group);
    EXPECT_EQ(opened.train->rows(), 150);
    EXPECT_EQ(opened.validation->rows(), 50);
    EXPECT_EQ(opened.train->info().classes, 0);
    std::vector<float> seen, x(2), y(1);
    for (const auto* part : {opened.train.get(), opened.validation.get()})
      for (std::int64_t row = 0; row < part->rows(); ++row) {
        part->read(std::span(&row, 1), {x.data(), 2}, {y.data(), 1});
        seen.push_back(4 * y[0]);
      }
    std::sort(seen.begin(), seen.end());
    for (int i = 0; i < 200; ++i) ASSERT_EQ(seen[std::size_t(i)], float(i));
  }
  {
    SCOPED_TRACE("more columns than an attribute holds");
    python(folder,
           "open('d.csv', 'w').write(''.join(','.join(str(i * j % 7) for j in range(5000)) + ',%d\\n' % (i % 2) for i in "
           "range(4)))");
    write_csv({.paths = {folder / "d.csv"}}, {.out = folder / "d.h5"});
    auto group = solo_group();
    const auto opened = open_dataset({.paths = {folder / "d.h5"}}, *group);
    std::vector<float> x(4 * 5000);
    std::vector<std::int32_t> y(4);
    std::vector<std::int64_t> rows = {0, 1, 2, 3};
    opened.train->read(rows, {x.data(), 20000}, {y.data(), 4, DType::i32});
    // Column 1 is 0, 1, 2, 3: mean 1.5, deviation sqrt(1.25).
    EXPECT_NEAR(x[1], -1.5 / std::sqrt(1.25), 1e-6);
    EXPECT_NEAR(x[15001], 1.5 / std::sqrt(1.25), 1e-6);
  }
}

TEST(WriteCsv, MoreClassesThanAnAttributeHolds) {
  NEEDS_H5PY();
  Folder folder;
  std::string text = "x,name\n";
  for (int i = 0; i < 9000; ++i) text += std::to_string(i) + ",word" + std::to_string(10000 + i) + "\n";
  write_file(folder / "many.csv", text);
  write_csv({.paths = {folder / "many.csv"}}, {.out = folder / "many.h5", .shards = 2});
  EXPECT_EQ(python(folder, R"(
f = h5.File('many-00001-of-00002.h5'); names = f['class_names'][()].tobytes().decode().split()
print(f['train/y'].attrs['classes'], len(names), names[f['train/y'][7]], f['train/x'][7, 0]))"),
            "9000 9000 word14507 4507.0\n");
}

TEST(WriteCsv, MalformedFilesAreRefused) {
  Folder folder;
  auto expect = [&](const std::string& text, const std::vector<std::string>& parts, CsvOptions options = {}) {
    SCOPED_TRACE(text);
    write_file(folder / "t.csv", text);
    options.paths = {folder / "t.csv"};
    expect_error(Exit::bad_data, parts, [&] { write_csv(options, {.out = folder / "out/t.h5"}); });
    EXPECT_TRUE(!fs::exists(folder / "out") || names_in(folder / "out").empty());
  };
  expect("", {"t.csv: the file is empty"});
  expect("a,b\n", {"no rows"});
  expect("a,b,y\n1,2,0\n1,0\n", {"t.csv line 3: 2 fields", "has 3"});
  expect("a,b,y\n1,2,0\n1,oops,0\n", {"t.csv line 3: column 'b': 'oops' is not a number", "--ignore"});
  expect("a,b,y\n1,2,0\n1,,0\n", {"t.csv line 3: column 'b': an empty field"});
  expect("a,b,y\n1,2,0\n1,nan,0\n", {"t.csv line 3: column 'b': 'nan' is not a number that can be used"});
  expect("a,b,y\n1,2,0\n1,1e60,0\n", {"line 3", "1e60"});
  expect("a,b,y\n1,2,0\n1,\"2,0\n", {"line 3: a quoted field does not end"});
  expect("a,y\n1,0\n2,\n", {"line 3: the target 'y' is empty"});
  expect("a,y\n1,0\n2,0.5\n", {"line 3", "0.5", "--regression"});
  expect("a,y\n1,0\n2,red\n", {"line 3", "'red', not a number"}, {.regression = true});
  expect("y\n1\n", {"no column besides"});
  expect_error(Exit::usage, {"no column 'z'", "a, y"}, [&] {
    write_file(folder / "t.csv", "a,y\n1,0\n");
    write_csv({.paths = {folder / "t.csv"}, .target = "z"}, {.out = folder / "t.h5"});
  });
}

TEST(Conversions, FullDiskLeavesWhatWasThere) {
  Folder folder;
  write_file(folder / "a.txt", std::string(300000, 'x'));
  fs::create_directories(folder / "out");
  write_file(folder / "out/a.h5", "the old one");
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit old{}, limit{};
  getrlimit(RLIMIT_FSIZE, &old);
  limit = {200000, old.rlim_max};
  setrlimit(RLIMIT_FSIZE, &limit);
  // Seen before anything is written, and while the library writes.
  expect_error(Exit::io, {"a.h5", "are needed", "are free"},
               [&] { write_text({.paths = {folder / "a.txt"}}, {.out = folder / "out/a.h5"}); });
  expect_error(Exit::io, {"a.h5", "131 kB are needed", "are free"}, [&] {
    const ConvertOptions options{.out = folder / "out/a.h5"};
    DataFiles files(options, file_bytes(0));
    files.write([&] {
      PartWriter part(files, "train/x", u8, {}, 300000, 0);
      part.add(std::string(300000, 'x').data(), 300000);
      part.finish();
    });
    files.commit();
  });
  setrlimit(RLIMIT_FSIZE, &old);
  ::signal(SIGXFSZ, SIG_DFL);
  EXPECT_EQ(names_in(folder / "out"), (std::vector<std::string>{"a.h5"}));
  EXPECT_EQ(read_file(folder / "out/a.h5"), "the old one");
  write_text({.paths = {folder / "a.txt"}}, {.out = folder / "out/a.h5"});  // the library still works
  verify_file(folder / "out/a.h5");
}

TEST(InspectAndVerify, SayWhatIsThere) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
x = np.random.randint(0, 256, (50, 7, 5)).astype('u1')
with h5.File('good.h5', 'w') as f:
  f.create_dataset('train/images', data=x, chunks=(10, 7, 5), compression='gzip', compression_opts=4)
  f['train/labels'] = np.arange(50) % 3
  f['train/labels'].attrs['classes'] = ['red', 'green', 'blue']
  f.attrs['licence'] = 'CC0'
with h5.File('nan.h5', 'w') as f: f['anything'] = np.array([[1, 2], [3, np.nan]])
with h5.File('range.h5', 'w') as f: f['x'], f['y'] = np.zeros((4, 2)), [0, 1, 2, 9]; f['y'].attrs['classes'] = 3
with h5.File('own.h5', 'w') as f: f['alpha'], f['beta'] = np.zeros((4, 2)), np.zeros((4, 2)))");
  const auto text = inspect_file(folder / "good.h5");
  for (const char* part : {"train/images (50, 7, 5) u8", "chunks (10, 7, 5), deflate 4", "classes = red, green, blue",
                           "licence = CC0", "Lockstep reads  50 images 7 x 5 x 1, 3 classes"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  EXPECT_NE(verify_file(folder / "good.h5").find("1800 values read"), std::string::npos);
  EXPECT_NE(inspect_file(folder / "own.h5").find("Lockstep finds nothing to train on"), std::string::npos);
  EXPECT_NE(verify_file(folder / "own.h5").find("all finite"), std::string::npos);
  expect_error(Exit::bad_data, {"anything: row 1 holds NaN"}, [&] { verify_file(folder / "nan.h5"); });
  expect_error(Exit::bad_data, {"label 9", "outside 0 to 2"}, [&] { verify_file(folder / "range.h5"); });
}

TEST(Inspect, SaysWhatIsOffAndMendsIt) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
x = np.random.randint(0, 9, (3000, 64, 64)).astype('u1')
with h5.File('bad.h5', 'w') as f:
  f.create_dataset('cut', data=x, chunks=(3000, 8, 8)); f.create_dataset('large', data=x, chunks=(3000, 64, 64))
  f.create_dataset('small', data=x, chunks=(1, 64, 64)); f.create_dataset('packed', data=x, chunks=(64, 64, 64), compression='gzip'))");
  const std::string path = folder / "bad.h5", text = inspect_file(path);
  for (const char* part : {"cut: chunks (3000, 8, 8) of 192 kB cut rows", "large: chunks (3000, 64, 64) of 12.3 MB are too large",
                           "small: chunks (1, 64, 64) of 4.1 kB are too small: 3000 requests",
                           "packed: compressed; one core decodes", "--dataset packed", "there is no manifest"})
    EXPECT_NE(text.find(part), std::string::npos) << part << " in\n" << text;
  rechunk_file({.path = path}, {.out = path});
  EXPECT_EQ(inspect_file(path).find("  * "), std::string::npos) << inspect_file(path);
}

}  // namespace
}  // namespace lockstep::io
