#include <random>

#include "io/convert.h"
#include "io/dataset.h"
#include "io/image_file.h"
#include "tests/io/files.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;
namespace fs = std::filesystem;

bool has_pillow() {
  static const bool found = has_h5py() && std::system("/usr/bin/python3 -c 'import PIL.Image' >/dev/null 2>&1") == 0;
  return found;
}
#define NEEDS_PILLOW() \
  if (!has_pillow()) GTEST_SKIP() << "/usr/bin/python3 has no Pillow (install python3-pil)"

const std::string with_pillow = R"(
import os
from PIL import Image
np.random.seed(3)
def smooth(h, w, c=3):  # a picture, not noise
  y, x = np.mgrid[0:h, 0:w]
  a = np.stack([127 + 90 * np.sin((y * (k + 1) + x * (3 - k)) / 9.) + 30 * np.cos(x / (2. + k)) for k in range(c)], -1)
  return a.clip(0, 255).astype('u1')
)";

/// What decode_image makes of a file, beside the raw bytes that Python left in `expected`.
void compare(const Folder& folder, const std::string& name, std::int64_t channels, const std::string& expected, int tolerance) {
  const Image image = decode_image(read_bytes(folder / name), name, channels);
  const std::string want = read_file(folder / expected);
  ASSERT_EQ(image.pixels.size(), want.size()) << name;
  EXPECT_EQ(image.pixels.size(), std::size_t(image.height * image.width * image.channels)) << name;
  int largest = 0;
  for (std::size_t i = 0; i < want.size(); ++i)
    largest = std::max(largest, std::abs(int(image.pixels[i]) - int(std::uint8_t(want[i]))));
  EXPECT_LE(largest, tolerance) << name << " as " << channels;
}

TEST(Images, PngPixelsAreThoseOfPillow) {
  NEEDS_PILLOW();
  Folder folder;
  const auto names = python(folder, with_pillow + R"(
a = np.random.randint(0, 256, (13, 21, 4)).astype('u1')
def put(name, image, **more):
  image.save(name + '.png', **more)
  for mode, c in (('L', 1), ('RGB', 3)): open(name + str(c), 'wb').write(np.asarray(Image.open(name + '.png').convert(mode)).tobytes())
  print(name)
rgb, rgba = Image.fromarray(a[..., :3].copy()), Image.fromarray(a)
put('rgb', rgb), put('rgba', rgba), put('grey', rgb.convert('L')), put('greyalpha', rgba.convert('LA'))
put('palette', rgb.quantize(16)), put('bit', rgb.convert('1'))
put('clear', rgb.quantize(7), transparency=3), put('greyclear', rgb.convert('L'), transparency=9)
)");
  std::istringstream list(names);
  int seen = 0;
  for (std::string name; list >> name; ++seen)
    for (int channels : {1, 3}) compare(folder, name + ".png", channels, name + std::to_string(channels), 0);
  EXPECT_EQ(seen, 8);
  // 16 bits are rounded; interlaced rows, which Pillow does not write, come from zlib alone.
  python(folder, R"(
import zlib
a = np.random.randint(0, 65536, (9, 11)).astype('>u2')
def png(name, bits, rows, interlace):
  part = lambda kind, body: struct.pack('>I', len(body)) + kind + body + struct.pack('>I', zlib.crc32(kind + body))
  open(name, 'wb').write(b'\x89PNG\r\n\x1a\n' + part(b'IHDR', struct.pack('>IIBBBBB', 11, 9, bits, 0, 0, 0, interlace)) +
                         part(b'IDAT', zlib.compress(rows)) + part(b'IEND', b''))
png('deep.png', 16, b''.join(b'\0' + r.tobytes() for r in a), 0)
open('deep1', 'wb').write(np.rint(a / 65535. * 255).astype('u1').tobytes())
b = (a >> 8).astype('u1')
passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
png('laced.png', 8, b''.join(b'\0' + r.tobytes() for y, x, dy, dx in passes for r in b[y::dy, x::dx] if r.size), 1)
open('laced1', 'wb').write(b.tobytes())
)");
  compare(folder, "deep.png", 0, "deep1", 0);
  compare(folder, "laced.png", 0, "laced1", 0);
}

TEST(Images, JpegPixelsAreWithinTwoOfPillow) {
  NEEDS_PILLOW();
  Folder folder;
  const auto names = python(folder, with_pillow + R"(
def put(name, image, **more):
  image.save(name + '.jpg', **more)
  for mode, c in (('L', 1), ('RGB', 3)): open(name + str(c), 'wb').write(np.asarray(Image.open(name + '.jpg').convert(mode)).tobytes())
  print(name)
rgb = Image.fromarray(smooth(45, 67))
put('usual', rgb), put('best', rgb, quality=95, subsampling=0), put('progressive', rgb, progressive=True)
put('grey', rgb.convert('L')), put('cmyk', rgb.convert('CMYK'))
)");
  std::istringstream list(names);
  int seen = 0;
  for (std::string name; list >> name; ++seen)
    for (int channels : {1, 3}) compare(folder, name + ".jpg", channels, name + std::to_string(channels), 2);
  EXPECT_EQ(seen, 5);
}

TEST(Images, ResizedAsPillowDoes) {
  NEEDS_PILLOW();
  Folder folder;
  python(folder, with_pillow + R"(
image = Image.fromarray(smooth(50, 81))
image.save('a.png')
for h, w in ((20, 20), (33, 17), (64, 48), (7, 90), (120, 1)):
  s = max(h / 50, w / 81)
  tall, wide = max(h, round(50 * s)), max(w, round(81 * s))
  y, x = (tall - h) // 2, (wide - w) // 2
  a = np.asarray(image.resize((wide, tall), Image.BILINEAR))[y:y + h, x:x + w]
  open(f'{h}x{w}', 'wb').write(a.tobytes())
)");
  const Image image = decode_image(read_bytes(folder / "a.png"), "a.png", 3);
  for (const auto& [height, width] : {std::pair{20, 20}, {33, 17}, {64, 48}, {7, 90}, {120, 1}}) {
    const std::string name = std::to_string(height) + "x" + std::to_string(width), want = read_file(folder / name);
    const Image small = cover(image, height, width);
    ASSERT_EQ(small.pixels.size(), want.size());
    int largest = 0;  // Pillow rounds after each axis
    for (std::size_t i = 0; i < want.size(); ++i)
      largest = std::max(largest, std::abs(int(small.pixels[i]) - int(std::uint8_t(want[i]))));
    EXPECT_LE(largest, 1) << name;
  }
  const Image line{1, 60000, 1, std::vector<std::uint8_t>(60000, 77)};  // only what is cut out is computed
  EXPECT_EQ(cover(line, 64, 64).pixels, std::vector<std::uint8_t>(64 * 64, 77));
}

const std::string tree = with_pillow + R"(
def make(folder, n, h=12, w=10, seed=0):
  for k, name in enumerate(['zebra', 'ant', 'cow']):
    os.makedirs(f'{folder}/{name}')
    for i in range(n):
      a = np.random.randint(0, 256, (h, w, 3)).astype('u1')
      a[0, 0] = (k, i, seed)
      Image.fromarray(a).save(f'{folder}/{name}/{i}.{"PNG" if i % 2 else "png"}')
)";

TEST(WriteImages, AFolderPerClass) {
  NEEDS_PILLOW();
  Folder folder;
  python(folder, tree + "make('photos', 10)\nopen('photos/ant/notes.txt', 'w').write('x')\nos.mkdir('photos/.hidden')");
  const auto report = write_images({.folder = folder / "photos/"}, {.out = folder / "a.h5", .validation = 0.2, .shards = 1});
  EXPECT_NE(report.find("notes.txt"), std::string::npos) << report;
  const std::string check = R"(
from PIL import Image
f = h5.File(sys.argv[1] if len(sys.argv) > 1 else 'a.h5')
names = [n if isinstance(n, str) else n.decode() for n in f['train/labels'].attrs['classes']]
kind = ['zebra', 'ant', 'cow']
seen, equal, labels = set(), True, []
for part in ('train', 'validation'):
  for x, y in zip(f[part + '/images'][()], f[part + '/labels'][()]):
    k, i = int(x[0, 0, 0]), int(x[0, 0, 1])
    seen.add((k, i)); labels.append(y)
    name = f'photos/{kind[k]}/{i}.' + ('PNG' if i % 2 else 'png')
    equal &= names[y] == kind[k] and (np.asarray(Image.open(name)) == x).all()
t = f['train/images'][()].reshape(-1, 3) / 255.
print(names, len(seen), equal, labels != sorted(labels), f['train/images'].shape, f['validation/images'].shape, f['train/images'].fletcher32,
      np.allclose(f['train/images'].attrs['mean'], t.mean(0)), np.allclose(f['train/images'].attrs['std'], t.std(0))))";
  EXPECT_EQ(python(folder, check), "['ant', 'cow', 'zebra'] 30 True True (24, 12, 10, 3) (6, 12, 10, 3) True True True\n");
  // The seed decides the order, and nothing else does.
  write_images({.folder = folder / "photos"}, {.out = folder / "b.h5", .validation = 0.2});
  write_images({.folder = folder / "photos", .seed = 7}, {.out = folder / "c.h5", .validation = 0.2});
  EXPECT_EQ(python(folder, R"(
a, b, c = [h5.File(n + '.h5')['train/images'][()] for n in 'abc']
print((a == b).all(), (a == c).all(), sorted(x.tobytes() for x in a) == sorted(x.tobytes() for x in c)))"),
            "True False True\n");
  auto group = solo_group();
  const auto opened = open_dataset({.paths = {folder / "a.h5"}}, *group);
  EXPECT_EQ(opened.train->info().input, (Shape{12, 10, 3}));
  EXPECT_EQ(opened.train->info().class_names, (std::vector<std::string>{"ant", "cow", "zebra"}));
  EXPECT_EQ(opened.validation->rows(), 6);
}

TEST(WriteImages, PartsShardsGreyAndSizes) {
  NEEDS_PILLOW();
  Folder folder;
  python(folder, tree + "make('data/train', 6), make('data/val', 2, 20, 30), make('data/test', 1)");
  const auto report = write_images({.folder = folder / "data", .height = 8, .width = 9, .channels = 1},
                                   {.out = folder / "a.h5", .shards = 2, .deflate = 1});
  EXPECT_NE(report.find("left out: " + folder.path + "/data/test"), std::string::npos) << report;
  EXPECT_EQ(python(folder, R"(
for i in range(2):
  f = h5.File(f'a-0000{i}-of-00002.h5')
  print(f['train/images'].shape, f['validation/images'].shape, f['train/images'].compression)
)"),
            "(9, 8, 9) (3, 8, 9) gzip\n(9, 8, 9) (3, 8, 9) gzip\n");
  // A class called "train" beside others is a class.
  python(folder, tree + "make('transport', 2); os.rename('transport/cow', 'transport/train')");
  EXPECT_NE(write_images({.folder = folder / "transport"}, {.out = folder / "b.h5"}).find("3 classes"), std::string::npos);
}

TEST(WriteImages, WhatCannotBeReadIsNamed) {
  NEEDS_PILLOW();
  Folder folder;
  python(folder, tree + R"(
make('photos', 4)
Image.fromarray(smooth(12, 10)).save('photos/cow/9.jpg')
raw = open('photos/cow/9.jpg', 'rb').read()
open('photos/cow/8.jpg', 'wb').write(raw[:len(raw) // 2 + 150])
open('photos/ant/text.png', 'w').write('no picture')
open('photos/ant/void.png', 'w')
)");
  const std::string photos = folder / "photos", out = folder / "a.h5";
  expect_error(Exit::bad_data, {"photos/ant/text.png: neither PNG nor JPEG", "--skip-unreadable"},
               [&] { write_images({.folder = photos}, {.out = out}); });
  EXPECT_FALSE(fs::exists(out));
  const auto report = write_images({.folder = photos, .skip_unreadable = true}, {.out = out});
  for (const char* part :
       {"text.png", "void.png: neither PNG nor JPEG: the file is empty", "cow/8.jpg", "train/images (13, 12, 10, 3)"})
    EXPECT_NE(report.find(part), std::string::npos) << part << " in " << report;

  // Damage that only the pixels show, found while writing.
  fs::remove(photos + "/ant/text.png"), fs::remove(photos + "/ant/void.png");
  expect_error(Exit::bad_data, {"photos/cow/8.jpg: ", "--skip-unreadable"},
               [&] { write_images({.folder = photos}, {.out = folder / "b.h5"}); });
  EXPECT_FALSE(fs::exists(folder / "b.h5"));
  fs::remove(photos + "/cow/8.jpg");

  python(folder, tree + "Image.fromarray(smooth(31, 33)).save('photos/zebra/wide.png')");
  expect_error(Exit::bad_data, {"photos/ant/0.png has 12 x 10", "photos/zebra/wide.png has 31 x 33", "--size"},
               [&] { write_images({.folder = photos}, {.out = out}); });
  fs::create_directory(photos + "/void");
  expect_error(Exit::bad_data, {"class 'void' has no PNG or JPEG"}, [&] { write_images({.folder = photos}, {.out = out}); });
  expect_error(Exit::bad_data, {"a folder for each class"}, [&] { write_images({.folder = photos + "/ant"}, {.out = out}); });
  expect_error(Exit::bad_data, {"no such folder"}, [&] { write_images({.folder = photos + "/none"}, {.out = out}); });
}

TEST(Images, DamagedFilesAreReadOrRefused) {
  NEEDS_PILLOW();
  Folder folder;
  python(folder, with_pillow + R"(
rgb = Image.fromarray(smooth(40, 30))
rgb.save('0.png'), rgb.quantize(9).save('1.png'), rgb.save('2.jpg'), rgb.save('3.jpg', progressive=True), rgb.convert('CMYK').save('4.jpg')
)");
  std::mt19937 random(4);
  int refused = 0, read = 0;
  for (const char* name : {"0.png", "1.png", "2.jpg", "3.jpg", "4.jpg"}) {
    const auto good = read_bytes(folder / name);
    for (int trial = 0; trial < 1000; ++trial) {
      auto bad = good;
      if (trial % 5 == 0)
        bad.resize(random() % bad.size());
      else  // the heads of the files hold what the libraries trust
        for (unsigned i = 0, n = 1 + random() % 6; i < n; ++i)
          bad[random() % (trial % 2 ? bad.size() : std::min<std::size_t>(bad.size(), 200))] = std::uint8_t(random());
      try {
        const Image image = decode_image(bad, name, trial % 2 ? 1 : 3);
        EXPECT_EQ(image.pixels.size(), std::size_t(image.height * image.width * image.channels));
        EXPECT_NE(trial % 5, 0) << name << " " << trial << ": nobody saw that the end is missing";
        ++read;
      } catch (const Error& e) {
        EXPECT_EQ(e.exit(), Exit::bad_data);
        EXPECT_EQ(std::string(e.what()).find(name), 0u) << e.what();
        ++refused;
      }
    }
  }
  EXPECT_EQ(refused + read, 5000);
  EXPECT_GT(refused, 2000);
  EXPECT_GT(read, 200);
}

}  // namespace
}  // namespace lockstep::io
