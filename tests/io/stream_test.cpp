#include "io/stream.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
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

// From an independent implementation in Python.
TEST(Order, KeepsItsWindows) {
  const Order order({.rows = 30,
                     .shuffle = Shuffle::window,
                     .window = 10,
                     .chunks = {{0, 13, 4, 1}, {13, 8, 4, 1}, {21, 9, 5, 1}},
                     .seed = 42});
  EXPECT_EQ(order.windows(), 3);
  std::vector<std::int64_t> rows;
  order.rows(3, {0, 15}, 0, 15, rows);
  order.rows(3, {15, 15}, 0, 15, rows);
  EXPECT_EQ(rows, (std::vector<std::int64_t>{0,  3,  8,  1,  2,  9,  10, 11, 17, 29, 26, 28, 18, 27, 19,
                                             20, 23, 14, 22, 25, 12, 7,  21, 4,  24, 16, 15, 5,  6,  13}));
}

// 2^41 rows in a thousand files with chunks of many sizes: nothing is counted through.
TEST(Order, NeedsNoTableOfRows) {
  Order::Options options{.shuffle = Shuffle::window, .window = 1 << 20, .seed = 5};
  for (std::int64_t i = 0; i < 1000; ++i) {
    options.chunks.push_back({options.rows, (std::int64_t(1) << 31) + 977 * i, 1000 + i % 3, 1});
    options.rows += options.chunks.back().rows;
  }
  const Order order(options);
  EXPECT_NEAR(double(order.windows()), double(options.rows) / (1 << 20), 1);
  const Piece piece{options.rows / 3, options.rows / 3};
  std::vector<std::int64_t> rows;
  for (std::int64_t at : {std::int64_t(0), piece.size / 2, piece.size - 2000}) order.rows(7, piece, at, 2000, rows);
  std::sort(rows.begin(), rows.end());
  EXPECT_EQ(std::adjacent_find(rows.begin(), rows.end()), rows.end());
  EXPECT_LT(rows.front(), options.rows / 100);
  EXPECT_GT(rows.back(), options.rows / 100 * 99);
}

// The row that comes first, or anywhere, is any row about equally often: chi-square over 12 rows has 11 degrees of freedom,
// deviation sqrt(22) = 4.7; 35 is 5.1 deviations away.
TEST(Order, WindowsLookRandom) {
  const int trials = 20000, rows = 12;
  const Order order({.rows = rows, .shuffle = Shuffle::window, .window = 6, .chunks = {{0, 4, 2, 1}, {4, 8, 2, 1}}, .seed = 3});
  for (std::int64_t place : {0, 5, 11}) {
    std::vector<int> at(rows, 0);
    std::vector<std::int64_t> one;
    for (int epoch = 0; epoch < trials; ++epoch) {
      one.clear();
      order.rows(std::uint64_t(epoch), {0, rows}, place, 1, one);
      ++at[std::size_t(one[0])];
    }
    double chi = 0;
    for (int n : at) chi += (n - trials / double(rows)) * (n - trials / double(rows)) / (trials / double(rows));
    EXPECT_LT(chi, 35) << "place " << place;
  }
}

TEST(Order, ChoosesByHowRowsAreStored) {
  EXPECT_EQ(choose_shuffle({}), Shuffle::full);
  const std::vector<ChunkRun> chunks = {{0, 100'000, 100, 1000}};
  EXPECT_EQ(choose_shuffle(chunks), Shuffle::window);
  EXPECT_EQ(choose_window(chunks, 4, 80'000'000), 10'000);  // half of the memory for four windows
  EXPECT_EQ(choose_window(chunks, 4, 1000), 800);           // at least eight chunks
  EXPECT_EQ(choose_window(chunks, 1, 1 << 30), 100'000);    // not more than there is
  EXPECT_EQ(choose_window(chunks, 1024, 2'560'000'000), choose_window(chunks, 128, 2'560'000'000));
}

TEST(Mixture, StaysWithinARowOfItsShares) {
  for (const auto& weights : std::vector<std::vector<double>>{{1},
                                                              {1, 1},
                                                              {0.7, 0.2, 0.1},
                                                              {1, 2, 3, 4, 5},
                                                              {60000, 10000, 997},
                                                              {0.5, 0.25, 0.125, 0.125},
                                                              {1, 1, 1, 1, 1, 1, 1},
                                                              {1, 999}}) {
    const Mixture mixture(weights);
    double sum = 0;
    for (double w : weights) sum += w;
    std::vector<std::int64_t> before(weights.size(), 0);
    for (std::int64_t rows = 0; rows < 20000; ++rows) {
      std::int64_t all = 0;
      for (std::size_t i = 0; i < weights.size(); ++i) {
        const std::int64_t taken = mixture.taken(i, rows);
        ASSERT_LT(std::abs(double(taken) - weights[i] / sum * double(rows)), 1) << "source " << i << " after " << rows;
        ASSERT_GE(taken, before[i]);
        before[i] = taken;
        all += taken;
      }
      ASSERT_EQ(all, rows);
    }
    for (std::size_t i = 0; i < weights.size(); ++i) EXPECT_DOUBLE_EQ(mixture.share(i), weights[i] / sum);
  }
}

TEST(Mixture, RoundsWeightsThatHaveNoCommonDenominator) {
  const std::vector<double> weights = {std::sqrt(2), std::exp(1), 1e-9};
  const Mixture mixture(weights);
  EXPECT_NEAR(mixture.share(0), weights[0] / (weights[0] + weights[1]), 2e-6);
  EXPECT_GT(mixture.share(2), 0);  // every source has its turn
  EXPECT_LT(mixture.share(2), 2e-6);
  EXPECT_NEAR(double(mixture.taken(0, 1'000'000'007)), mixture.share(0) * 1'000'000'007, 1);
  for (double wrong : {0.0, -1.0, std::nan("")}) EXPECT_THROW(Mixture({1, wrong}), Error);
}

std::vector<std::int64_t> rows_of(const Stream& stream, std::int64_t step) {
  std::vector<std::int64_t> all, rows;
  for (int lane = 0; lane < stream.options().lanes; ++lane) {
    stream.rows(step, lane, rows);
    all.insert(all.end(), rows.begin(), rows.end());
    all.push_back(-1);
  }
  return all;
}

// 7 rows for 2 lanes of 2, in the order of the file: pieces 0-3 and 4-6, and with carry in the next epoch 0-2 and 3-6.
TEST(Stream, EndsEpochsAsAsked) {
  using Rows = std::vector<std::int64_t>;
  StreamOptions options{.rows = 7, .lanes = 2, .rows_per_lane = 2, .shuffle = Shuffle::none};
  const Stream carry(options);
  EXPECT_EQ(rows_of(carry, 0), (Rows{0, 1, -1, 4, 5, -1}));
  EXPECT_EQ(rows_of(carry, 1), (Rows{2, 3, -1, 6, 3, -1}));
  EXPECT_EQ(rows_of(carry, 2), (Rows{0, 1, -1, 4, 5, -1}));
  EXPECT_EQ(rows_of(carry, 3), (Rows{2, 0, -1, 6, 4, -1}));
  options.tail = Tail::partial;
  const Stream partial(options);
  EXPECT_EQ(rows_of(partial, 1), (Rows{2, 3, -1, 6, -1}));
  EXPECT_EQ(rows_of(partial, 2), rows_of(partial, 0));
  EXPECT_EQ(partial.total(0), 4);
  EXPECT_EQ(partial.total(1), 3);
  EXPECT_EQ(partial.steps(3), 6);
  options.tail = Tail::drop;
  const Stream drop(options);
  EXPECT_EQ(rows_of(drop, 1), rows_of(drop, 0));
  EXPECT_EQ(drop.steps(3), 3);
  options.rows = 5, options.tail = Tail::partial;
  EXPECT_EQ(rows_of(Stream(options), 1), (Rows{2, -1, -1}));  // nothing is left for lane 1
}

// What the words of stream.h mean for one source: places of one permutation an epoch, in contiguous pieces.
TEST(Stream, FullIsOnePermutationInPieces) {
  const std::int64_t rows = 1000, lanes = 4, size = rows / lanes;
  const Stream stream({.rows = rows, .lanes = lanes, .rows_per_lane = 7, .seed = 11});
  std::vector<std::int64_t> read;
  for (std::int64_t step = 0; step < 80; ++step)
    for (int lane = 0; lane < lanes; ++lane) {
      stream.rows(step, lane, read);
      for (std::int64_t i = 0; i < 7; ++i) {
        const std::int64_t t = step * 7 + i;
        ASSERT_EQ(read[std::size_t(i)], Permutation(rows, 11, std::uint64_t(t / size))(lane * size + t % size));
      }
    }
}

TEST(Stream, MixesSources) {
  const Stream stream({.rows = 12, .lanes = 2, .rows_per_lane = 4, .shuffle = Shuffle::none, .mixture = {{8, 3}, {4, 1}}});
  using Rows = std::vector<std::int64_t>;
  EXPECT_EQ(rows_of(stream, 0), (Rows{0, 1, 2, 8, -1, 4, 5, 6, 10, -1}));
  EXPECT_DOUBLE_EQ(stream.epochs(4, 0), 3);
  EXPECT_DOUBLE_EQ(stream.epochs(4, 1), 2);
  EXPECT_EQ(stream.steps(2), 3);
}

TEST(Stream, CountsStepsAndEpochs) {
  const Stream stream({.rows = 100, .lanes = 4, .rows_per_lane = 5});
  EXPECT_EQ(stream.steps(1), 5);
  EXPECT_EQ(stream.steps(2.5), 13);
  EXPECT_DOUBLE_EQ(stream.epochs(10), 2);
  EXPECT_EQ(Stream({.rows = 10, .lanes = 3, .rows_per_lane = 2}).steps(1), 2);
}

TEST(Stream, RefusesWhatCannotBe) {
  auto refusal = [](StreamOptions options) {
    try {
      Stream stream(options);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  EXPECT_NE(refusal({.rows = 7, .lanes = 2, .rows_per_lane = 4, .tail = Tail::drop}).find("carry or partial"), std::string::npos);
  EXPECT_NE(refusal({.rows = 7, .tail = Tail::drop, .mixture = {{7, 1}}}).find("carry"), std::string::npos);
  EXPECT_NE(refusal({.rows = 0}), "");
  EXPECT_NE(refusal({.rows = 7, .lanes = 0}), "");
  EXPECT_NE(refusal({.rows = 7, .shuffle = Shuffle::window, .chunks = {{0, 6, 2, 1}}}), "");
  EXPECT_EQ(refusal({.rows = 3, .lanes = 8}), "");  // rows come more than once a step
}

}  // namespace
}  // namespace lockstep::io
