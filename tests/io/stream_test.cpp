#include "io/stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "kernels/base/check.h"

namespace lockstep::io {
namespace {

TEST(Permutation, IsOneForEverySize) {
  for (std::int64_t size = 1; size <= 300; ++size) {
    Permutation order(size, 7, std::uint64_t(size % 3));
    std::vector<bool> seen(std::size_t(size), false);
    for (std::int64_t i = 0; i < size; ++i) {
      const std::int64_t row = order(i);
      ASSERT_TRUE(row >= 0 && row < size) << size;
      ASSERT_FALSE(seen[std::size_t(row)]) << size << " at " << i;
      seen[std::size_t(row)] = true;
    }
  }
  for (std::int64_t size : {65536, 60000, 99991}) {
    Permutation order(size, 1, 2);
    std::vector<char> seen(std::size_t(size), 0);
    for (std::int64_t i = 0; i < size; ++i) ++seen[std::size_t(order(i))];
    EXPECT_EQ(std::count(seen.begin(), seen.end(), 1), size);
  }
}

TEST(Permutation, ReachesFarRowsOfHugeData) {
  const std::int64_t size = (std::int64_t(1) << 41) + 12345;
  Permutation order(size, 3, 1);
  std::vector<std::int64_t> rows;
  for (std::int64_t i = 0; i < 4000; ++i) rows.push_back(order(size / 2 + i));
  std::sort(rows.begin(), rows.end());
  EXPECT_EQ(std::adjacent_find(rows.begin(), rows.end()), rows.end());
  EXPECT_LT(rows.front(), size / 500);
  EXPECT_GT(rows.back(), size / 500 * 499);
}

// Every row is about equally likely at every place: chi-square over 10 rows x 10 places and 20,000 orders has 81 degrees of
// freedom, deviation sqrt(162) = 12.7; 140 is 4.6 deviations away.
TEST(Permutation, LooksRandom) {
  const int n = 10, trials = 20000;
  double chi = 0;
  std::vector<int> at(n * n, 0);
  for (int t = 0; t < trials; ++t) {
    Permutation order(n, 11, std::uint64_t(t));
    for (int i = 0; i < n; ++i) ++at[std::size_t(i * n + order(i))];
  }
  for (int c : at) chi += (c - trials / double(n)) * (c - trials / double(n)) / (trials / double(n));
  EXPECT_LT(chi, 140);

  // Neighbours in the order are not neighbours in the file: the correlation of consecutive rows is that of chance.
  const std::int64_t rows = 50000;
  Permutation order(rows, 5, 0);
  double correlation = 0;
  for (std::int64_t i = 0; i + 1 < rows; ++i)
    correlation += (double(order(i)) / double(rows) - 0.5) * (double(order(i + 1)) / double(rows) - 0.5);
  EXPECT_LT(std::abs(correlation / double(rows) * 12), 0.02);  // deviation 1 / sqrt(50000) = 0.0045
}

TEST(Permutation, DependsOnSeedAndEpoch) {
  std::vector<std::vector<std::int64_t>> orders;
  for (auto [seed, epoch] : {std::pair<std::uint64_t, std::uint64_t>{1, 0},
                             {2, 0},
                             {1, 1},
                             {std::uint64_t(1) << 40, 0},
                             {1, std::uint64_t(1) << 33}}) {
    Permutation order(100, seed, epoch);
    orders.emplace_back();
    for (int i = 0; i < 100; ++i) orders.back().push_back(order(i));
  }
  std::sort(orders.begin(), orders.end());
  EXPECT_EQ(std::adjacent_find(orders.begin(), orders.end()), orders.end());
}

// From an independent implementation in Python. A resumed run relies on it: the order must not change with the code.
TEST(Permutation, KeepsItsOrder) {
  Permutation order(20, 42, 3);
  std::vector<std::int64_t> rows;
  for (int i = 0; i < 20; ++i) rows.push_back(order(i));
  EXPECT_EQ(rows, (std::vector<std::int64_t>{16, 4, 10, 3, 0, 8, 12, 1, 5, 17, 18, 7, 15, 19, 2, 14, 9, 6, 13, 11}));
}

TEST(Stream, EveryRowOncePerEpochWhateverTheSizes) {
  std::mt19937_64 random(2024);
  auto pick = [&](std::int64_t low, std::int64_t high) { return low + std::int64_t(random() % std::uint64_t(high - low + 1)); };
  for (int trial = 0; trial < 1500; ++trial) {
    StreamOptions options;
    options.lanes = int(pick(1, 9));
    options.rows = options.lanes + pick(0, 120);
    options.rows_per_lane = pick(1, 13);
    options.seed = random();
    options.shuffle = trial % 4 != 0;
    const int epochs = int(pick(1, 4));
    const Stream stream(options);

    // What each lane reads until every lane has read all epochs, from any step on and in any order of calls.
    const std::int64_t steps = stream.steps(epochs);
    std::vector<std::vector<std::int64_t>> lanes{std::size_t(options.lanes)};
    std::vector<std::int64_t> rows(std::size_t(options.rows_per_lane), -1);
    for (std::int64_t step = 0; step < steps; ++step)
      for (int lane = 0; lane < options.lanes; ++lane) {
        stream.rows(step, lane, rows);
        lanes[std::size_t(lane)].insert(lanes[std::size_t(lane)].end(), rows.begin(), rows.end());
      }
    for (int epoch = 0; epoch < epochs; ++epoch) {
      std::vector<int> seen(std::size_t(options.rows), 0);
      for (int lane = 0; lane < options.lanes; ++lane) {
        const auto [begin, size] = stream.piece(lane);
        ASSERT_GE(std::int64_t(lanes[std::size_t(lane)].size()), size * (epoch + 1));
        for (std::int64_t i = 0; i < size; ++i) {
          const std::int64_t row = lanes[std::size_t(lane)][std::size_t(size * epoch + i)];
          ++seen[std::size_t(row)];
          if (!options.shuffle) {
            ASSERT_EQ(row, begin + i);
          }
        }
      }
      ASSERT_EQ(std::count(seen.begin(), seen.end(), 1), options.rows)
          << options.rows << " rows, " << options.lanes << " lanes of " << options.rows_per_lane << ", epoch " << epoch;
    }
    // Pieces are floor or ceil and follow one another.
    std::int64_t at = 0;
    for (int lane = 0; lane < options.lanes; ++lane) {
      const auto [begin, size] = stream.piece(lane);
      ASSERT_EQ(begin, at);
      ASSERT_TRUE(size == options.rows / options.lanes || size == (options.rows + options.lanes - 1) / options.lanes);
      at += size;
    }
    ASSERT_EQ(at, options.rows);
    // A fresh stream continues at any step.
    const std::int64_t step = pick(0, steps - 1);
    const int lane = int(pick(0, options.lanes - 1));
    Stream(options).rows(step, lane, rows);
    const auto from = lanes[std::size_t(lane)].begin() + step * options.rows_per_lane;
    ASSERT_TRUE(std::equal(rows.begin(), rows.end(), from));
  }
}

TEST(Stream, CountsStepsAndEpochs) {
  const Stream stream({.rows = 100, .lanes = 4, .rows_per_lane = 5});
  EXPECT_EQ(stream.steps(1), 5);
  EXPECT_EQ(stream.steps(2.5), 13);
  EXPECT_DOUBLE_EQ(stream.epochs(10), 2);
  EXPECT_EQ(Stream({.rows = 10, .lanes = 3, .rows_per_lane = 2}).steps(1), 2);
}

TEST(Stream, FewerRowsThanLanesIsAnError) {
  try {
    Stream({.rows = 3, .lanes = 8, .rows_per_lane = 1});
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::bad_data);
    EXPECT_NE(std::string(e.what()).find("at most 3 lanes"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace lockstep::io
