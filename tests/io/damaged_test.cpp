#include "tests/io/damaged.h"

#include <cmath>

#include "io/contents.h"
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
  EXPECT_EQ(outcome.refused + outcome.read, 2000);
  EXPECT_EQ(outcome.wrong, 0);
  EXPECT_GT(outcome.refused, 1900);  // the others changed nothing
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

TEST(CheckedFiles, AnswerAsTheLibraryDoes) {
  NEEDS_H5PY();
  Folder folder;
  python(folder, R"(
with h5.File('a.h5', 'w') as f:
  f.create_dataset('train/images', data=np.zeros((9, 4, 5), 'u1'), chunks=(2, 4, 5), maxshape=(None, 4, 5), compression='gzip')
  f['train/labels'] = np.arange(9) % 2; f['name'] = np.bytes_('x')
  f['train/labels'].attrs['classes'] = ['cat', 'd\u00f6g']; f['train'].attrs['mean'] = [0.5, float('nan')]
  f.attrs['fixed'] = np.array([b'ab', b'cde']); f.attrs['scale'] = 3; f.attrs['none'] = h5.Empty('f4'); f.create_group('empty'))");
  const std::string path = folder / "a.h5";
  const auto checked = validate_file(path);
  const auto library = hdf5::File::open(path);
  {
    const auto file = open_checked(path, checked);
    const auto ours = file.datasets(), theirs = library.datasets(true);
    ASSERT_EQ(ours.size(), theirs.size());
    for (std::size_t i = 0; i < ours.size(); ++i) {
      EXPECT_EQ(ours[i].text(), theirs[i].text());
      EXPECT_EQ(ours[i].limit, theirs[i].limit);
      EXPECT_EQ(ours[i].layout + ours[i].filters, theirs[i].layout + theirs[i].filters);
      EXPECT_EQ(ours[i].stored, theirs[i].stored);
      EXPECT_EQ(file.dataset("/" + ours[i].name).info().text(), theirs[i].text());
    }
    int attributes = 0;
    for (const char* object : {"", "/", "train", "/train/labels", "train/images", "nothing"})
      for (const char* name : {"classes", "mean", "fixed", "scale", "none", "absent"}) {
        const auto numbers = file.numbers(object, name), expected = library.numbers(object, name);
        ASSERT_EQ(numbers.has_value(), expected.has_value()) << object << " " << name;
        if (numbers && std::string(name) != "mean") {
          EXPECT_EQ(*numbers, *expected);
        }
        EXPECT_EQ(file.texts(object, name), library.texts(object, name)) << object << " " << name;
        attributes += numbers.has_value() || file.texts(object, name).has_value();
      }
    EXPECT_EQ(attributes, 8);
    EXPECT_TRUE(std::isnan(file.numbers("train", "mean")->at(1)));
    for (const char* name : {"", "train", "/train/labels", "tra", "train/nothing", "name"}) {
      EXPECT_EQ(file.has(name), library.has(name)) << name;
      EXPECT_EQ(file.has_dataset(name), library.has_dataset(name)) << name;
    }
    expect_error(Exit::bad_data, {"a.h5", "no dataset 'train/nothing'"}, [&] { file.dataset("train/nothing"); });
  }
  write_file(path, read_file(path) + " ");
  expect_error(Exit::bad_data, {"a.h5", "changed after it was checked"}, [&] { open_checked(path, checked); });
}

TEST(CheckedFiles, WhatAConfusedProcessSendsIsASentence) {
  hdf5::Contents contents;
  contents.datasets.push_back({"x", {4, 5}, {4, -1}, hdf5::Class::integer, 1, false, "u8", "contiguous", "", 20});
  contents.attributes.push_back({"x", "classes", {}, std::vector<std::string>{"a", "b"}});
  const std::string good = to_bytes(contents);
  EXPECT_EQ(contents_from(good, "a.h5").attributes[0].texts, contents.attributes[0].texts);
  std::mt19937 random(2);
  int refused = 0;
  for (int trial = 0; trial < 5000; ++trial) {
    std::string bad = trial % 3 ? good : good.substr(0, random() % good.size());
    for (int i = 0; i < 3 && !bad.empty(); ++i) bad[random() % bad.size()] = char(random());
    try {
      for (const auto& info : contents_from(bad, "a.h5").datasets) EXPECT_GE(count(info.shape), 0);
    } catch (const Error& e) {
      EXPECT_EQ(e.exit(), Exit::bad_data) << e.what();
      ++refused;
    }
  }
  EXPECT_GT(refused, 2000);
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
