#pragma once

#include <algorithm>
#include <chrono>
#include <numeric>
#include <random>

#include "io/data_manifest.h"
#include "io/dataset.h"
#include "tests/io/files.h"

namespace lockstep::test {

/// Bytes changed, a piece cut out or the end cut off.
inline std::string garble(std::string bytes, std::mt19937& random) {
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

/// What training reads from a file: normalised inputs and targets of the first rows.
struct Read {
  std::vector<std::int32_t> inputs, targets;
  bool operator==(const Read&) const = default;
};
inline Read read_as_training(const std::string& file) {
  const auto checked = io::validate_file(file);
  auto group = solo_group();
  const auto opened = io::open_dataset({.paths = {file}, .length = 8, .checked = checked}, *group);
  const auto& info = opened.train->info();
  std::vector<std::int64_t> rows(std::size_t(std::min<std::int64_t>(opened.train->rows(), 30)));
  std::iota(rows.begin(), rows.end(), 0);
  const auto n = std::int64_t(rows.size());
  Read read;
  read.inputs.resize(std::size_t(n * count(info.input))), read.targets.resize(std::size_t(n * count(info.target)));
  const auto type = info.kind == io::DataKind::tokens ? DType::i32 : DType::f32;
  opened.train->read(rows, {read.inputs.data(), std::int64_t(read.inputs.size()), type},
                     {read.targets.data(), std::int64_t(read.targets.size()), info.target_dtype});
  return read;
}

struct Outcome {
  int refused = 0, read = 0, wrong = 0;
  double longest = 0;  // seconds
};

/// Damages files of several kinds `trials` times each and reads them as training does. With a manifest beside it, what is read
/// must be what was written. Every refusal is one line of bad_data with the file's name.
inline Outcome damage_and_read(const Folder& folder, int trials, unsigned seed, bool with_manifest) {
  python(folder, R"(
np.random.seed(5)
x, y = np.random.randint(0, 256, (40, 6, 6)).astype('u1'), np.arange(40) % 4
with h5.File('chunks.h5', 'w') as f:
  f.create_dataset('train/images', data=x, chunks=(8, 6, 6), compression='gzip', fletcher32=True)
  f['train/labels'] = y
  f['train/labels'].attrs['classes'] = ['a', 'b', 'c', 'd']
  f.attrs['licence'] = 'none'
with h5.File('plain.h5', 'w') as f: f['x'], f['y'] = np.random.randn(40, 3), y
with h5.File('bare.h5', 'w') as f: f.create_dataset('tokens', data=x.ravel(), chunks=(100,))
with h5.File('newest.h5', 'w', libver='latest') as f:
  f.create_dataset('tokens', data=x.ravel(), chunks=(100,), maxshape=(None,))
)");
  std::mt19937 random(seed);
  Outcome outcome;
  const std::string file = folder / "garbled.h5", manifest = io::DataManifest::path_of(file);
  for (const char* name : {"chunks.h5", "plain.h5", "bare.h5", "newest.h5"}) {
    std::filesystem::remove(manifest);
    const std::string good = read_file(folder / name);
    const Read expected = read_as_training(folder / name);
    if (with_manifest) io::write_manifest(folder / name, manifest);
    for (int trial = 0; trial < trials; ++trial) {
      const std::string bad = garble(good, random);
      std::filesystem::remove(file);  // writing over a file waits for the disk
      write_file(file, bad);
      const auto begin = std::chrono::steady_clock::now();
      try {
        const Read read = read_as_training(file);
        ++outcome.read;
        if (with_manifest && !(read == expected)) ++outcome.wrong;
        if (with_manifest && bad != good) ADD_FAILURE() << name << " " << trial << ": damage was not seen";
      } catch (const Error& e) {
        EXPECT_EQ(e.exit(), Exit::bad_data) << name << " " << trial << ": " << e.what();
        EXPECT_NE(std::string(e.what()).find("garbled.h5"), std::string::npos) << e.what();
        EXPECT_EQ(std::string(e.what()).find('\n'), std::string::npos) << e.what();
        ++outcome.refused;
      }
      outcome.longest =
          std::max(outcome.longest, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
    }
  }
  return outcome;
}

}  // namespace lockstep::test
