// The sum of all ranks by way of machines is the sum by the one tree, wherever the ranks are: checked on words, whose sum shows
// its order.
#include "parallel/machines.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "parallel/tree.h"

namespace lockstep::parallel {
namespace {

std::string tree(int ranks) {
  std::vector<std::string> sums;
  for (int r = 0; r < ranks; ++r) sums.push_back(std::to_string(r));
  for_each_merge(ranks,
                 [&](int l, int r) { sums[std::size_t(l)] = "(" + sums[std::size_t(l)] + " " + sums[std::size_t(r)] + ")"; });
  return sums[0];
}

std::string by_machines(const std::vector<int>& where) {
  std::vector<std::string> sums;
  Machines all(where, 0);
  for (int m = 0; m < all.count(); ++m) {
    Machines mine(where, all.ranks(m)[0]);
    EXPECT_EQ(mine.mine(), m);
    std::vector<std::string> local;
    for (int r : mine.ranks(m)) local.push_back(std::to_string(r));
    for (auto [l, r] : mine.local_merges())
      local[std::size_t(l)] = "(" + local[std::size_t(l)] + " " + local[std::size_t(r)] + ")";
    EXPECT_EQ(int(mine.local_sums().size()), all.sums(m));
    for (int i : mine.local_sums()) sums.push_back(local[std::size_t(i)]);
  }
  for (auto [l, r] : all.merges()) sums[std::size_t(l)] = "(" + sums[std::size_t(l)] + " " + sums[std::size_t(r)] + ")";
  return sums[std::size_t(all.result())];
}

TEST(Machines, AddInTheOrderOfTheTree) {
  EXPECT_EQ(tree(3), "((0 1) 2)");
  std::mt19937 random(1);
  for (int ranks = 1; ranks <= 40; ++ranks)
    for (int machines = 1; machines <= ranks; machines += 1 + machines / 3) {
      std::vector<int> contiguous, scattered;
      for (int r = 0; r < ranks; ++r) {
        contiguous.push_back(100 - r * machines / ranks);
        scattered.push_back(int(random() % unsigned(machines)));
      }
      EXPECT_EQ(by_machines(contiguous), tree(ranks)) << ranks << " on " << machines;
      EXPECT_EQ(by_machines(scattered), tree(ranks)) << ranks << " on " << machines;
    }
}

TEST(Machines, OneSumTravelsWhereMachinesHoldWholeSubtrees) {
  Machines m({0, 0, 0, 0, 1, 1, 1, 1}, 5);
  EXPECT_EQ(m.sums(0), 1);
  EXPECT_EQ(m.sums(1), 1);
  EXPECT_EQ(m.columns(), 4);
}

TEST(Machines, EveryPieceHasAHandlerOnEveryMachine) {
  std::vector<int> where = {0, 0, 0, 1, 2, 2};
  for (std::int64_t size : {0, 1, 16, 17, 1000, 4099}) {
    std::vector<float> data(std::size_t(size) + 1);
    View view{data.data(), size, DType::f32};
    Machines m(where, 0);
    const float* next = data.data();
    for (int c = 0; c < m.columns(); ++c)
      for (int k = 0; k < m.count(); ++k) {
        View piece = m.piece(view, c, k);
        if (piece.size == 0) continue;
        EXPECT_EQ(piece.data, next);
        next += piece.size;
        EXPECT_EQ(where[std::size_t(m.handler(k, c))], k);
      }
    EXPECT_EQ(next, data.data() + size);
  }
}

}  // namespace
}  // namespace lockstep::parallel
