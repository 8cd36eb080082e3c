// Gradients of many ranks against the serial ones: every bucket size, every share of lanes, every kind of model.
#include <gtest/gtest.h>

#include "tests/parallel/net.h"

namespace lockstep::parallel {
namespace {

using test::Net;

struct World {
  Device device;
  std::unique_ptr<Communicator> communicator = open_mpi_communicator();
  std::unique_ptr<Group> group = open_mpi_group();
  std::unique_ptr<Communicator> solo = open_solo_communicator();
  std::unique_ptr<Group> alone = solo_group();
  int ranks = communicator->size();
};
World& world() {
  static auto* w = new World;  // outlives MPI_Finalize's callers; ranks end together
  return *w;
}

BucketOptions buckets_of(std::int64_t bytes) {
  return {.head = bytes, .middle = bytes, .tail = bytes};
}
constexpr std::int64_t huge = std::int64_t(1) << 40;
const std::vector<std::int64_t> bucket_sizes = {1, 1 << 10, 100 << 10, huge};  // 1: a bucket for every parameter

std::vector<std::pair<std::string, Net::Options>> models() {
  return {{"plain", {}},
          {"tied", {.tied = true}},
          {"unused", {.unused = true}},
          {"tied and recomputed", {.tied = true, .unused = true, .recomputed = true}},
          {"bf16", {.tied = true, .dtype = DType::bf16}},
          {"f16", {.tied = true, .dtype = DType::f16}},
          {"wide", {.width = 150}}};
}

std::vector<float> all_gradients(Communicator& communicator, Group& group, Net::Options model, DataParallel::Options options) {
  Net net(world().device, model);
  DataParallel strategy(net.set, communicator, group, options);
  net.set.initialise(1);
  test::run_step(net, strategy, options.lanes);
  test::run_step(net, strategy, options.lanes);  // memory of the step before is used again
  return test::gradients(net);
}

TEST(Gradients, EqualTheSerialOnes) {
  auto& w = world();
  for (auto& [name, model] : models())
    for (int each : {1, 2, 4}) {
      int lanes = each * w.ranks;
      auto expected = test::serial_gradients(w.device, model, 0, lanes, lanes);
      for (auto size : bucket_sizes)
        for (auto reduction : {Reduction::fast, Reduction::exact}) {
          auto got =
              all_gradients(*w.communicator, *w.group, model,
                            {.lanes = lanes, .reduction = reduction, .gradient = model.dtype, .buckets = buckets_of(size)});
          double tolerance = is_half(model.dtype) ? 1e-2 : 1e-5;
          EXPECT_LT(test::relative_norm(got, expected), tolerance) << name << ", " << each << " lanes a rank, buckets of " << size
                                                                   << (reduction == Reduction::exact ? ", exact" : ", fast");
        }
    }
}

// Parameters of 16 bits whose gradients are kept and summed in f32 lose nothing on the way.
TEST(Gradients, Of16BitWeightsInF32) {
  auto& w = world();
  int lanes = 2 * w.ranks;
  for (DType dtype : {DType::bf16, DType::f16}) {
    Net::Options model{.tied = true, .dtype = dtype};
    auto expected = test::serial_gradients(w.device, model, 0, lanes, lanes);
    auto exact = all_gradients(*w.communicator, *w.group, model, {.lanes = lanes, .reduction = Reduction::exact});
    auto alone = all_gradients(*w.solo, *w.alone, model, {.lanes = lanes, .reduction = Reduction::exact});
    EXPECT_LT(test::relative_norm(exact, expected), 1e-2) << name_of(dtype);
    EXPECT_EQ(exact, alone) << name_of(dtype);
  }
}

/// What exact promises, from the gradients of single lanes: partial sums merge when they span equally many lanes, each rounded.
std::vector<float> tree_of_lanes(Net::Options model, int lanes) {
  auto rounded = [&](float x) { return test::rounded(model.dtype, x); };
  std::vector<std::pair<std::vector<float>, int>> stack;
  auto merge = [&] {
    auto right = std::move(stack.back());
    stack.pop_back();
    for (std::size_t i = 0; i < right.first.size(); ++i) stack.back().first[i] = rounded(stack.back().first[i] + right.first[i]);
    stack.back().second += right.second;
  };
  for (int lane = 0; lane < lanes; ++lane) {
    stack.push_back({test::serial_gradients(world().device, model, lane, 1, lanes), 1});
    while (stack.size() > 1 && stack[stack.size() - 2].second == stack.back().second) merge();
  }
  while (stack.size() > 1) merge();
  return stack[0].first;
}

TEST(Gradients, ExactIsTheSameToTheBitAtEveryRankCount) {
  auto& w = world();
  for (auto& [name, model] : models())
    for (int lanes : w.ranks == 3 ? std::vector{3, 6, 12} : std::vector{4, 8}) {
      auto expected = tree_of_lanes(model, lanes);
      DataParallel::Options options{.lanes = lanes, .reduction = Reduction::exact, .gradient = model.dtype};
      EXPECT_EQ(all_gradients(*w.solo, *w.alone, model, options), expected) << name << " on one rank, " << lanes << " lanes";
      for (auto size : bucket_sizes)
        for (bool overlap : {true, false}) {
          options.buckets = buckets_of(size);
          options.overlap = overlap;
          EXPECT_EQ(all_gradients(*w.communicator, *w.group, model, options), expected)
              << name << ", " << lanes << " lanes, buckets of " << size << (overlap ? "" : ", no overlap");
        }
    }
}

TEST(Gradients, FastTakesUnevenShares) {
  auto& w = world();
  for (int lanes : {w.ranks, w.ranks + 1, 2 * w.ranks + 1, 7}) {
    auto expected = test::serial_gradients(w.device, {.unused = true}, 0, lanes, lanes);
    auto got = all_gradients(*w.communicator, *w.group, {.unused = true}, {.lanes = lanes, .buckets = buckets_of(4096)});
    EXPECT_LT(test::relative_norm(got, expected), 1e-5) << lanes << " lanes on " << w.ranks << " ranks";
  }
}

TEST(Gradients, StayLocalWithoutCommunication) {
  auto& w = world();
  auto expected = test::serial_gradients(w.device, {}, w.communicator->rank(), 1, w.ranks);
  EXPECT_EQ(all_gradients(*w.communicator, *w.group, {}, {.lanes = w.ranks, .communicate = false}), expected);
}

}  // namespace
}  // namespace lockstep::parallel
