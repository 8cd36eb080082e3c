#include "io/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <set>
#include <thread>

#include "tests/io/files.h"
#include "tests/support/devices.h"

namespace lockstep::io {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

/// Row r is {r, r + 0.5} with the label r % 7; slow or broken on demand.
class Numbered final : public Dataset {
 public:
  explicit Numbered(std::int64_t rows) {
    info_.kind = DataKind::table;
    info_.rows = rows;
    info_.input = {2};
    info_.classes = 7;
  }
  void read(std::span<const std::int64_t> rows, View inputs, View targets, const RandomKey*) const override {
    if (delay.count() > 0) std::this_thread::sleep_for(delay);
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (rows[i] == broken) throw Error("row " + std::to_string(broken) + " is broken", Exit::bad_data);
      visit_float(inputs.dtype, [&]<class T>() {
        inputs.as<T>()[2 * i] = T(float(rows[i]));
        inputs.as<T>()[2 * i + 1] = T(float(rows[i]) + 0.5f);
      });
      targets.as<std::int32_t>()[i] = std::int32_t(rows[i] % 7);
    }
    ++reads;
  }
  std::chrono::milliseconds delay{0};
  std::int64_t broken = -1;
  void expect(std::span<const std::int64_t> rows) const override {
    if (!rows.empty()) expected = int(rows[0]);
  }
  mutable std::atomic<int> reads{0}, expected{-1};
};

std::vector<std::int64_t> rows_of(Device& device, const Batch& batch) {
  const auto inputs = download(device.queue(), batch.inputs), targets = download(device.queue(), batch.targets);
  std::vector<std::int64_t> rows;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    EXPECT_EQ(inputs[2 * i + 1], inputs[2 * i] + 0.5f);
    EXPECT_EQ(targets[i], float(std::int64_t(inputs[2 * i]) % 7));
    rows.push_back(std::int64_t(inputs[2 * i]));
  }
  return rows;
}

TEST(Loader, FollowsTheStreamAtEveryRankCount) {
  const Numbered data(53);
  const Stream stream({.rows = 53, .lanes = 4, .rows_per_lane = 5, .seed = 9});
  for (auto& device : test::devices())
    for (int ranks : {1, 2, 3, 4})
      for (int rank = 0; rank < ranks; ++rank) {
        const int first = rank * 4 / ranks, end = (rank + 1) * 4 / ranks;
        Loader loader(data, *device, {.lanes = 4, .first_lane = first, .lane_count = end - first, .rows_per_lane = 5, .seed = 9});
        std::vector<std::int64_t> expected;
        for (int step = 0; step < 12; ++step)
          for (int lane = first; lane < end; ++lane) {
            EXPECT_EQ(loader.step(), step);
            const Batch batch = loader.next_lane();
            stream.rows(step, lane, expected);
            ASSERT_EQ(rows_of(*device, batch), expected) << ranks << " ranks, step " << step << ", lane " << lane;
            EXPECT_EQ(batch.inputs.shape(), (Shape{5, 2}));
            EXPECT_EQ(batch.targets.shape(), (Shape{5}));
            EXPECT_EQ(batch.weight, 5);
          }
      }
}

TEST(Loader, FollowsTheStreamInEveryMode) {
  const Numbered data(53);
  Device device;
  for (auto shuffle : {Shuffle::none, Shuffle::window, Shuffle::full})
    for (auto tail : {Tail::carry, Tail::partial, Tail::drop}) {
      const Stream stream(
          {.rows = 53, .lanes = 4, .rows_per_lane = 4, .seed = 9, .shuffle = shuffle, .tail = tail, .window = 10});
      bool short_step = false, empty_lane = false;
      for (int first : {0, 2}) {
        Loader loader(data, device,
                      {.lanes = 4,
                       .first_lane = first,
                       .lane_count = 2,
                       .rows_per_lane = 4,
                       .seed = 9,
                       .shuffle = shuffle,
                       .tail = tail,
                       .window = 10,
                       .start_step = 2});
        std::vector<std::int64_t> expected;
        for (int step = 2; step < 9; ++step)
          for (int lane = first; lane < first + 2; ++lane) {
            const Batch batch = loader.next_lane();
            stream.rows(step, lane, expected);
            ASSERT_EQ(batch.weight, double(expected.size()));
            short_step |= expected.size() < 4, empty_lane |= expected.empty();
            ASSERT_EQ(bool(batch.inputs), !expected.empty());
            if (batch.inputs) {
              ASSERT_EQ(rows_of(device, batch), expected) << name_of(shuffle) << " " << name_of(tail) << " step " << step;
            }
          }
      }
      EXPECT_EQ(short_step, tail == Tail::partial);
      EXPECT_FALSE(empty_lane);  // 53 is 3 * 16 + 5
    }
  Loader loader(data, device, {.lanes = 4, .first_lane = 3, .rows_per_lane = 17, .tail = Tail::partial});
  EXPECT_EQ(loader.next_lane().weight, 13);
  Loader one(data, device, {.lanes = 51, .first_lane = 3, .rows_per_lane = 1, .tail = Tail::partial});
  EXPECT_EQ(one.next_lane().weight, 1);
  const Batch none = one.next_lane();  // two rows are left for 51 lanes
  EXPECT_EQ(none.weight, 0);
  EXPECT_FALSE(none.inputs);
  EXPECT_FALSE(none.targets);
}

TEST(Loader, MixesDatasets) {
  std::vector<std::unique_ptr<Dataset>> parts;
  parts.push_back(std::make_unique<Numbered>(30));
  parts.push_back(std::make_unique<Numbered>(20));
  const auto both = join_datasets(std::move(parts));
  EXPECT_EQ(both->rows(), 50);
  EXPECT_TRUE(both->chunks().empty());
  Device device;
  const std::vector<MixtureSource> mixture = {{30, 2}, {20, 1}};
  const Stream stream({.rows = 50, .lanes = 2, .rows_per_lane = 6, .seed = 3, .mixture = mixture});
  Loader loader(*both, device, {.lanes = 2, .lane_count = 2, .rows_per_lane = 6, .seed = 3, .mixture = mixture});
  std::vector<std::int64_t> expected;
  for (int step = 0; step < 20; ++step) {
    int second = 0;
    for (int lane = 0; lane < 2; ++lane) {
      stream.rows(step, lane, expected);
      for (auto& row : expected) {
        second += row >= 30;
        if (row >= 30) row -= 30;  // each part counts from 0
      }
      ASSERT_EQ(rows_of(device, loader.next_lane()), expected) << step;
    }
    EXPECT_EQ(second, 4);
  }
  std::vector<std::unique_ptr<Dataset>> other;
  other.push_back(std::make_unique<Numbered>(30));
  other.push_back(synthetic_dataset({.rows = 5}));
  EXPECT_THROW(join_datasets(std::move(other)), Error);
}

/// Values of the first column of all rows of an epoch, in order.
std::vector<int> epoch_of(const Dataset& data, Device& device, Shuffle shuffle, Tail tail) {
  std::vector<int> values;
  Loader loader(data, device,
                {.lanes = 3, .lane_count = 3, .rows_per_lane = 5, .seed = 2, .shuffle = shuffle, .tail = tail, .window = 20});
  for (auto left = loader.stream().steps(1) * 3; left > 0; --left) {
    const Batch batch = loader.next_lane();
    if (!batch.inputs) continue;
    const auto inputs = download(device.queue(), batch.inputs);
    for (std::int64_t i = 0; i < batch.inputs.dim(0); ++i) values.push_back(int(inputs[std::size_t(i * batch.inputs.dim(1))]));
  }
  return values;
}

TEST(Loader, KeepsHeldOutRowsOutInEveryMode) {
  using test::has_h5py;
  NEEDS_H5PY();
  test::Folder folder;
  test::python(folder, R"(
with h5.File('own.h5', 'w') as f:
    f.create_dataset('x', data=np.arange(97.0).reshape(97, 1), chunks=(7, 1), compression='gzip')
    f.create_dataset('y', data=np.arange(97) % 3)
with h5.File('parts.h5', 'w') as f:
    f.create_dataset('train/x', data=np.arange(80.0).reshape(80, 1), chunks=(7, 1))
    f.create_dataset('train/y', data=np.arange(80) % 3)
    f.create_dataset('test/x', data=np.arange(80.0, 97.0).reshape(17, 1))
    f.create_dataset('test/y', data=np.arange(17) % 3)
with h5.File('text.h5', 'w') as f:
    f.create_dataset('tokens', data=np.arange(980, dtype='u2'), chunks=(64,))
)");
  Device device;
  const auto group = solo_group();
  for (std::size_t memory : {std::size_t(0), std::size_t(1) << 20})
    for (auto [file, validation] : {std::pair{"own.h5", "0.2"}, {"parts.h5", "test"}, {"text.h5", "0.1"}}) {
      DatasetOptions options{.paths = {folder / file}, .validation = validation, .length = 10};
      options.memory_limit = memory;
      const Datasets data = open_dataset(options, *group);
      ASSERT_TRUE(data.validation);
      std::vector<int> held_out;
      Pass pass(*data.validation, device, {});
      while (auto batch = pass.next()) {
        const auto inputs = download(device.queue(), batch->inputs);
        for (std::int64_t i = 0; i < batch->inputs.dim(0); ++i)
          held_out.push_back(int(inputs[std::size_t(i * batch->inputs.dim(1))]));
      }
      ASSERT_EQ(std::int64_t(held_out.size()), data.validation->rows());
      for (auto shuffle : {Shuffle::none, Shuffle::window, Shuffle::full}) {
        auto rows = epoch_of(*data.train, device, shuffle, Tail::partial);
        EXPECT_EQ(std::int64_t(rows.size()), data.train->rows());
        rows.insert(rows.end(), held_out.begin(), held_out.end());
        std::sort(rows.begin(), rows.end());
        EXPECT_EQ(std::adjacent_find(rows.begin(), rows.end()), rows.end())
            << file << " " << name_of(shuffle) << ", memory " << memory;
      }
    }
}

TEST(Loader, ContinuesAtAnyStep) {
  const Numbered data(31);
  Device device;
  LoaderOptions options{.lanes = 2, .lane_count = 2, .rows_per_lane = 3, .seed = 4};
  Loader whole(data, device, options);
  std::vector<std::vector<std::int64_t>> all;
  for (int i = 0; i < 40; ++i) all.push_back(rows_of(device, whole.next_lane()));
  for (int start : {1, 7, 13}) {
    options.start_step = start;
    Loader resumed(data, device, options);
    EXPECT_EQ(resumed.step(), start);
    for (int i = 2 * start; i < 40; ++i) ASSERT_EQ(rows_of(device, resumed.next_lane()), all[std::size_t(i)]);
  }
}

TEST(Loader, KeepsBatchesThatAreStillUsed) {
  const Numbered data(1000);
  Device device;
  Loader loader(data, device, {.rows_per_lane = 8, .shuffle = Shuffle::none});
  std::vector<Batch> held;
  for (int i = 0; i < 50; ++i) held.push_back(loader.next_lane());
  for (int i = 0; i < 50; ++i) ASSERT_EQ(rows_of(device, held[std::size_t(i)])[0], 8 * i);
}

TEST(Loader, GivesTheComputeType) {
  const Numbered data(20);
  for (auto& device : test::devices()) {
    Loader loader(data, *device, {.rows_per_lane = 4, .shuffle = Shuffle::none, .dtype = DType::bf16});
    const Batch batch = loader.next_lane();
    EXPECT_EQ(batch.inputs.dtype(), DType::bf16);
    EXPECT_EQ(rows_of(*device, batch), (std::vector<std::int64_t>{0, 1, 2, 3}));
  }
}

TEST(Loader, ReadsAheadButNotFar) {
  const Numbered data(1000);
  Device device;
  Loader loader(data, device, {.lanes = 3, .lane_count = 3, .rows_per_lane = 2, .steps_ahead = 2});
  const auto deadline = Clock::now() + 20s;
  while (data.reads < 6 && Clock::now() < deadline) std::this_thread::sleep_for(1ms);
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(data.reads, 6);
  loader.next_lane();
  while (data.reads < 7 && Clock::now() < deadline) std::this_thread::sleep_for(1ms);
  std::this_thread::sleep_for(50ms);
  EXPECT_EQ(data.reads, 7);
}

TEST(Loader, TellsTheDatasetWhatComes) {
  const Numbered data(1000);
  Device device;
  Loader loader(data, device, {.rows_per_lane = 2, .shuffle = Shuffle::none, .steps_ahead = 3});
  const auto deadline = Clock::now() + 20s;
  while (data.reads < 3 && Clock::now() < deadline) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(data.expected, 10);  // rows 0 to 5 are read, 6 to 11 are told
  loader.next_lane();
  while (data.reads < 4 && Clock::now() < deadline) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(data.expected, 12);
}

TEST(Loader, CountsWhatTheStepWaitedFor) {
  Numbered slow(100);
  slow.delay = 20ms;
  Device device;
  Loader loader(slow, device, {.rows_per_lane = 2});
  const auto begin = Clock::now();
  for (int i = 0; i < 5; ++i) loader.next_lane();
  const double wall = std::chrono::duration<double>(Clock::now() - begin).count();
  EXPECT_GT(loader.exposed_seconds(), 0.05);
  EXPECT_LE(loader.exposed_seconds(), wall);

  const Numbered fast(100);
  Loader ready(fast, device, {.rows_per_lane = 2});
  std::this_thread::sleep_for(100ms);
  ready.next_lane();
  EXPECT_EQ(ready.exposed_seconds(), 0);  // it was there
}

TEST(Loader, StopsWhereverItsThreadIs) {
  Device device;
  for (int delay : {0, 30})
    for (int taken : {0, 1, 5}) {
      Numbered data(100);
      data.delay = std::chrono::milliseconds(delay);
      const auto begin = Clock::now();
      {
        Loader loader(data, device, {.rows_per_lane = 2});
        for (int i = 0; i < taken; ++i) loader.next_lane();
      }
      EXPECT_LT(Clock::now() - begin, 5s);
    }
  // A batch outlives its loader.
  const Numbered data(100);
  Batch batch;
  {
    Loader loader(data, device, {.rows_per_lane = 2, .shuffle = Shuffle::none});
    batch = loader.next_lane();
  }
  EXPECT_EQ(rows_of(device, batch), (std::vector<std::int64_t>{0, 1}));
}

TEST(Loader, CarriesWhatTheThreadMet) {
  Numbered data(100);
  data.broken = 9;
  Device device;
  Loader loader(data, device, {.rows_per_lane = 2, .shuffle = Shuffle::none});
  for (int i = 0; i < 4; ++i) EXPECT_EQ(rows_of(device, loader.next_lane())[0], 2 * i);
  for (int i = 0; i < 3; ++i) {
    try {
      loader.next_lane();
      FAIL() << "no error";
    } catch (const Error& e) {
      EXPECT_STREQ(e.what(), "row 9 is broken");
      EXPECT_EQ(e.exit(), Exit::bad_data);
    }
    EXPECT_EQ(loader.step(), 4);
  }
}

TEST(Pass, UsesTheMemoryOfTheOneBefore) {
  for (auto& device : test::devices()) {
    const Numbered data(40);
    const auto uploads = std::make_shared<Uploads>(*device, "test");
    std::set<const void*> addresses;
    for (int pass = 0; pass < 10; ++pass) {
      Pass batches(data, *device, {.rows_per_batch = 8, .uploads = uploads});
      std::int64_t first = 0;
      for (; auto batch = batches.next(); first += 8) {
        addresses.insert(batch->inputs.view().data);
        EXPECT_EQ(rows_of(*device, *batch)[0], first);
      }
      EXPECT_EQ(first, 40);
    }
    EXPECT_LE(addresses.size(), 5u) << "what is read ahead, taken, and waits to be filled again";
  }
}

TEST(Loader, RefusesLanesThatAreNotThere) {
  const Numbered data(100);
  Device device;
  EXPECT_THROW(Loader(data, device, {.lanes = 2, .first_lane = 1, .lane_count = 2}), Error);
  EXPECT_THROW(Loader(data, device, {.lanes = 0, .lane_count = 0}), Error);
}

TEST(Pass, CoversEveryRowInTheSameBatchesAtEveryRankCount) {
  const Numbered data(43);
  for (auto& device : test::devices())
    for (int ranks : {1, 2, 3, 4, 9}) {
      std::vector<std::int64_t> rows;
      std::int64_t batches = 0;
      double weight = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        Pass pass(data, *device, {.rank = rank, .ranks = ranks, .rows_per_batch = 8});
        EXPECT_EQ(pass.batches(), 6);
        EXPECT_EQ(pass.first_batch(), batches);
        std::int64_t own = 0;
        while (auto batch = pass.next()) {
          const auto read = rows_of(*device, *batch);
          EXPECT_EQ(read[0], 8 * batches);
          EXPECT_EQ(batch->weight, double(read.size()));
          EXPECT_EQ(batch->inputs.dim(0), std::int64_t(read.size()));
          rows.insert(rows.end(), read.begin(), read.end());
          weight += batch->weight;
          ++batches, ++own;
        }
        EXPECT_EQ(own, pass.batch_count());
        EXPECT_FALSE(pass.next());
      }
      std::vector<std::int64_t> all(43);
      std::iota(all.begin(), all.end(), 0);
      EXPECT_EQ(rows, all);
      EXPECT_EQ(batches, 6);
      EXPECT_EQ(weight, 43);
    }
  Device device;
  Pass some(data, device, {.rows_per_batch = 8, .rows = 10});
  EXPECT_EQ(some.next()->inputs.dim(0), 8);
  EXPECT_EQ(some.next()->inputs.dim(0), 2);
  EXPECT_FALSE(some.next());
}

}  // namespace
}  // namespace lockstep::io
