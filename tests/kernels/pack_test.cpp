#include "kernels/base/pack.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "kernels/base/dtype.h"
#include "kernels/base/launch.h"

namespace lockstep {
namespace {

// What the threads of a GPU do, one thread after another: every element once, and nothing beside them, wherever the memory
// begins.
TEST(Packs, MeetEveryElementOnceWhateverTheAddresses) {
  for (std::int64_t n : {0, 1, 7, 8, 9, 64, 1000, 1003})
    for (int shift : {0, 1, 3, 4, 8})
      for (std::int64_t threads : {1, 32, 96}) {
        alignas(16) static std::array<float, 1100> x;
        alignas(16) static std::array<bf16, 1100> y;
        alignas(16) static std::array<float, 1100> sums;
        for (std::size_t i = 0; i < 1100; ++i) x[i] = float(i), y[i] = bf16(-1.f), sums[i] = 1;
        std::vector<int> met(static_cast<std::size_t>(n));
        std::vector<std::int64_t> owner(static_cast<std::size_t>(n), -1);
        for (std::int64_t t = 0; t < threads; ++t)
          packs::visit<8>(
              t, threads, n, 0, 0,
              [&](std::int64_t i, bf16& to, float from, float& sum) {
                ++met[std::size_t(i)];
                owner[std::size_t(i)] = t;
                to = bf16(from >= 256 ? 0.f : from);
                sum += from;
              },
              out(y.data() + shift), static_cast<const float*>(x.data()), sums.data() + 8);
        for (std::int64_t i = 0; i < n; ++i) {
          ASSERT_EQ(met[std::size_t(i)], 1) << i << " of " << n << " at " << shift;
          ASSERT_EQ(owner[std::size_t(i)], i / 8 % threads) << "addresses decide nothing";
          ASSERT_EQ(float(y[std::size_t(i + shift)]), i >= 256 ? 0.f : float(i));
          ASSERT_EQ(sums[std::size_t(i + 8)], float(i + 1));
        }
        for (int i = 0; i < shift; ++i) ASSERT_EQ(float(y[std::size_t(i)]), -1);
        for (std::size_t i = std::size_t(n + shift); i < 1100; ++i) ASSERT_EQ(float(y[i]), -1);
        for (std::size_t i = std::size_t(n + 8); i < 1100; ++i) ASSERT_EQ(sums[i], 1);
      }
}

// Rows at odd addresses: packs where the addresses allow them, single elements before and behind.
TEST(Packs, BeginBehindTheHeadOfARow) {
  for (std::int64_t n : {0, 1, 5, 8, 9, 16, 1003})
    for (int shift = 0; shift < 8; ++shift)
      for (std::int64_t threads : {1, 3, 32}) {
        alignas(16) static std::array<bf16, 1100> x, y;
        for (std::size_t i = 0; i < 1100; ++i) x[i] = bf16(float(i % 128)), y[i] = bf16(-1.f);
        const int head = packs::head_of<8>(x.data() + shift);
        ASSERT_EQ(head, (8 - shift) % 8);
        std::vector<int> met(static_cast<std::size_t>(n));
        for (std::int64_t t = 0; t < threads; ++t)
          packs::visit<8>(
              t, threads, n, 0, head,
              [&](std::int64_t i, bf16& to, bf16 from) {
                ++met[std::size_t(i)];
                ASSERT_EQ((i + 8 - head) / 8 % threads, head ? t : (t + 1) % threads);
                to = from;
              },
              out(y.data() + shift), static_cast<const bf16*>(x.data() + shift));
        for (std::int64_t i = 0; i < n; ++i) {
          ASSERT_EQ(met[std::size_t(i)], 1) << i << " of " << n << " at " << shift;
          ASSERT_EQ(float(y[std::size_t(i + shift)]), float((i + shift) % 128));
        }
        for (int i = 0; i < shift; ++i) ASSERT_EQ(float(y[std::size_t(i)]), -1);
        for (std::size_t i = std::size_t(n + shift); i < 1100; ++i) ASSERT_EQ(float(y[i]), -1);
      }
}

TEST(Packs, ValuesOfAColumnComeRowAfterRow) {
  for (std::int64_t columns : {1, 5, 8, 24}) {
    const std::int64_t rows = 13, n = rows * columns;
    alignas(16) static std::array<float, 400> y, scale;
    for (std::size_t i = 0; i < 400; ++i) y[i] = 1, scale[i] = float(i + 1);
    for (std::int64_t t = 0; t < 7; ++t)
      packs::visit<4>(
          t, 7, n, columns, 0, [](std::int64_t, float& v, float s) { v *= s; }, y.data(), per_column(scale.data()));
    for (std::int64_t i = 0; i < 400; ++i) ASSERT_EQ(y[std::size_t(i)], i < n ? float(i % columns + 1) : 1.f) << columns;
  }
}

// Every row in one block, no more blocks than a GPU runs at once, and sums that begin where a pack may.
TEST(Packs, BlocksOfASweepShareItsRows) {
  for (std::int64_t rows : {1, 7, 8, 9, 8191, 8192, 8193, 65536, 1000003})
    for (std::int64_t columns : {1, 768, 1001}) {
      const SweepShares shares(rows, columns);
      EXPECT_GE(shares.count * shares.rows_each, rows);
      EXPECT_LT((shares.count - 1) * shares.rows_each, rows);
      EXPECT_LE(shares.count, 1024);
      EXPECT_EQ(shares.stride % 8, 0);
      EXPECT_GE(shares.stride, columns);
      EXPECT_EQ(shares.floats(2), shares.count * 2 * shares.stride);
    }
}

// Every column in one tile whose packs lie beside each other, every row in one share.
TEST(Packs, TilesOfSumsShareColumnsAndRows) {
  for (std::int64_t rows : {1, 64, 65, 65536, 1000003})
    for (std::int64_t columns : {1, 64, 256, 257, 768, 50257}) {
      const SumShares shares(rows, columns);
      EXPECT_GE(shares.count * shares.rows_each, rows);
      EXPECT_LT((shares.count - 1) * shares.rows_each, rows);
      EXPECT_LE(shares.count * shares.tiles, 1024 + shares.tiles);
      EXPECT_GE(shares.tiles * shares.tile, columns);
      EXPECT_LT((shares.tiles - 1) * shares.tile, columns);
      EXPECT_LE(shares.tile, 256);
      EXPECT_EQ(shares.tile % 8, 0);
    }
}

TEST(Packs, AreAsWideAsTheSmallestTypeWants) {
  EXPECT_EQ((packs::width_of<float*, Out<std::int32_t>>()), 4);
  EXPECT_EQ((packs::width_of<float*, const bf16*>()), 8);
  EXPECT_EQ((packs::width_of<Out<float>, const std::uint8_t*>()), 8);
  EXPECT_EQ(alignof(packs::Pack<float, 8>), 16u);
  EXPECT_EQ(sizeof(packs::Pack<float, 8>), 32u);
  EXPECT_EQ(alignof(packs::Pack<std::uint8_t, 8>), 8u);
}

}  // namespace
}  // namespace lockstep
