// Properties of the bucket plan over random models, and where lanes go.
#include "parallel/bucket.h"

#include "parallel/bucket_sizes.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/base/random.h"
#include "parallel/data_parallel.h"
#include "parallel/open_communicator.h"

namespace lockstep::parallel {
namespace {

struct Model {
  Device device;
  ParameterSet set{device};
};

/// `n` parameters of random sizes; with `mixed` some are frozen and some are buffers.
void grow(Model& model, int n, std::uint64_t seed, bool mixed) {
  for (int i = 0; i < n; ++i) {
    auto word = random_word({seed}, std::uint64_t(i));
    std::int64_t size = 1 + std::int64_t(word % (1u << (word >> 28)));
    std::string name = format_text("p{}", {i});
    if (mixed && word % 7 == 0)
      model.set.buffer(name, {size}, 0, 0.1f);
    else
      model.set.add(name, {size}, {});
    if (mixed && word % 5 == 0) model.set.freeze(name);
  }
}

TEST(PlanBuckets, HoldsItsPropertiesForAnyModel) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed)
    for (int ranks : {1, 2, 3, 8})
      for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
        Model model;
        grow(model, int(seed % 23) + 1, seed, seed % 2);
        BucketOptions options{.head = 1 << (seed % 12), .middle = 1 << (seed % 15), .tail = 1 << (seed % 10)};
        Layout layout = plan_buckets(model.set, ranks, dtype, options);
        SCOPED_TRACE(seed);

        // Buckets follow each other without gaps and end where every rank's slice is aligned.
        std::int64_t at = 0;
        for (auto& bucket : layout.buckets) {
          EXPECT_EQ(bucket.begin, at);
          EXPECT_GT(bucket.end, bucket.begin);
          EXPECT_EQ(bucket.end % (ranks * 128), 0);
          at = bucket.end;
        }
        EXPECT_EQ(layout.trained, at);
        EXPECT_GE(layout.total, layout.trained);

        // Slots are those of the set, lie inside their buckets in reverse order of use, aligned, and never overlap.
        ASSERT_EQ(layout.slots.size(), model.set.all().size());
        std::int64_t before = layout.trained;
        int bucket_before = int(layout.buckets.size());
        std::vector<std::pair<std::int64_t, std::int64_t>> behind;
        for (std::size_t i = 0; i < layout.slots.size(); ++i) {
          auto& slot = layout.slots[i];
          auto& p = *model.set.all()[i];
          EXPECT_EQ(slot.parameter, &p);
          EXPECT_EQ(slot.size, p.value.size());
          bool travels = p.trainable && p.role == Parameter::Role::weight;
          EXPECT_EQ(slot.bucket >= 0, travels);
          EXPECT_EQ(slot.begin % 64, 0);
          if (travels) {
            EXPECT_LE(slot.begin + slot.size, before);
            EXPECT_LE(slot.bucket, bucket_before);
            EXPECT_GE(slot.begin, layout.buckets[std::size_t(slot.bucket)].begin);
            EXPECT_LE(slot.begin + slot.size, layout.buckets[std::size_t(slot.bucket)].end);
            before = slot.begin;
            bucket_before = slot.bucket;
          } else {
            EXPECT_GE(slot.begin, layout.trained);
            EXPECT_LE(slot.begin + slot.size, layout.total);
            behind.push_back({slot.begin, slot.size});
          }
        }
        for (std::size_t i = 1; i < behind.size(); ++i) EXPECT_GE(behind[i].first, behind[i - 1].first + behind[i - 1].second);

        // No bucket goes on after it has reached its size: without its last parameter it is smaller.
        auto element = std::int64_t(size_of(dtype));
        for (std::size_t b = 0; b < layout.buckets.size(); ++b) {
          std::int64_t count = 0, last = 0, bytes = 0;
          for (auto& slot : layout.slots)
            if (slot.bucket == int(b)) {
              if (count++ == 0) last = slot.begin;  // slots run backwards: the first is the bucket's last
              bytes += slot.size * element;
            }
          EXPECT_GT(count, 0);
          bool tail = b + 1 == layout.buckets.size();
          if (count > 1 && tail) {
            EXPECT_LE(bytes, options.tail);
          } else if (count > 1) {
            EXPECT_LT((last - layout.buckets[b].begin) * element, (b == 0 ? options.head : options.middle) + 64 * element);
          }
        }
      }
}

TEST(PlanBuckets, HeadAndTailAreSmallAndTheMiddleGrowsWithRanks) {
  Model model;
  for (int i = 0; i < 600; ++i) model.set.add(format_text("p{}", {i}), {1 << 17}, {});  // 512 KiB each, 300 MiB
  auto bytes = [](const Layout::Bucket& b) { return (b.end - b.begin) * 4; };
  Layout few = plan_buckets(model.set, 2, DType::f32);
  ASSERT_GT(few.buckets.size(), 3u);
  EXPECT_EQ(bytes(few.buckets.front()), 1 << 20);
  EXPECT_EQ(bytes(few.buckets.back()), 1 << 20);
  EXPECT_EQ(bytes(few.buckets[1]), 8 << 20);
  Layout many = plan_buckets(model.set, 32, DType::f32);
  EXPECT_EQ(bytes(many.buckets[1]), 32 << 20);

  Model small;  // 8 MiB: still several pieces, so that the first leave long before the end
  for (int i = 0; i < 64; ++i) small.set.add(format_text("p{}", {i}), {1 << 15}, {});
  EXPECT_EQ(bytes(plan_buckets(small.set, 2, DType::f32).buckets[1]), 1 << 20);
}

TEST(PlanBuckets, RefusesSizesThatMeanNothing) {
  Model model;
  model.set.add("w", {4}, {});
  EXPECT_THROW(plan_buckets(model.set, 2, DType::f32, {.head = 0}), Error);
  EXPECT_THROW(plan_buckets(model.set, 2, DType::f32, {.middle = -1}), Error);
  ParameterSet none(model.device);
  EXPECT_TRUE(plan_buckets(none, 2, DType::f32).buckets.empty());
}

/// What a link of this latency and bandwidth would show.
std::vector<AllReduceTime> link(double latency, double bytes_per_second, std::int64_t most = 32 << 20) {
  std::vector<AllReduceTime> times;
  for (std::int64_t bytes = 16 << 10; bytes <= most; bytes *= 2)
    times.push_back({bytes, latency + double(bytes) / bytes_per_second});
  return times;
}

TEST(BucketSizes, FollowTheLink) {
  constexpr std::int64_t kibi = 1 << 10, mebi = 1 << 20, all = 100 * mebi;
  auto slow =
      bucket_sizes(link(1e-3, 1e9), all);  // half the rate at 1 MB, 90 % at 9 MB and a little less, for 32 MiB is not infinite
  EXPECT_EQ(slow.head, mebi);
  EXPECT_EQ(slow.tail, mebi);
  EXPECT_EQ(slow.middle, 8 * mebi);
  auto near = bucket_sizes(link(20e-6, 5e9), all);  // 100 kB and 900 kB
  EXPECT_EQ(near.head, 128 * kibi);
  EXPECT_EQ(near.middle, all / 64);  // not hundreds of buckets
  EXPECT_EQ(bucket_sizes(link(20e-6, 5e9), 10 * mebi).middle, mebi);
  // A small model leaves in several pieces whatever the link is.
  auto small = bucket_sizes(link(1e-3, 1e9), 2 * mebi);
  EXPECT_EQ(small.middle, 256 * kibi);
  EXPECT_LE(small.head, small.middle);
  EXPECT_LE(small.tail, small.middle);
  // One size alone, and a machine whose clock saw nothing.
  EXPECT_GT(bucket_sizes({{16 << 10, 0}}, all).head, 0);
  EXPECT_THROW(bucket_sizes({}, all), Error);
}

TEST(Lanes, AreDealtInContiguousPieces) {
  for (int lanes : {1, 2, 5, 8, 12, 97})
    for (int ranks = 1; ranks <= lanes; ++ranks) {
      int next = 0;
      for (int r = 0; r < ranks; ++r) {
        auto share = share_of_lanes(lanes, r, ranks);
        EXPECT_EQ(share.first, next);
        EXPECT_GE(share.count, lanes / ranks);
        EXPECT_LE(share.count, (lanes + ranks - 1) / ranks);
        next += share.count;
      }
      EXPECT_EQ(next, lanes);
    }
}

std::string refusal(int lanes, int ranks, Reduction reduction) {
  try {
    check_lanes(lanes, ranks, reduction);
  } catch (const Error& e) {
    EXPECT_EQ(e.exit(), Exit::usage);
    return e.what();
  }
  return "";
}

TEST(Lanes, ExactNeedsWholeSubtreesAndSaysWhichRankCountsWork) {
  for (int ranks : {1, 2, 4, 8}) EXPECT_EQ(refusal(8, ranks, Reduction::exact), "");
  for (int ranks : {1, 3, 6, 12}) EXPECT_EQ(refusal(12, ranks, Reduction::exact), "");
  EXPECT_EQ(refusal(7, 1, Reduction::exact), "");
  EXPECT_NE(refusal(8, 6, Reduction::exact).find("6 ranks cannot share 8 lanes in whole subtrees; 1, 2, 4 or 8 ranks can"),
            std::string::npos);
  EXPECT_NE(refusal(12, 2, Reduction::exact).find("1, 3, 6 or 12 ranks can"), std::string::npos);  // 6 lanes each are no subtree
  EXPECT_NE(refusal(8, 16, Reduction::exact), "");
}

TEST(Lanes, FastNeedsALaneForEachRank) {
  for (int ranks = 1; ranks <= 7; ++ranks) EXPECT_EQ(refusal(7, ranks, Reduction::fast), "");
  EXPECT_NE(refusal(7, 8, Reduction::fast).find("at most 7 ranks"), std::string::npos);
}

// What the exact tree promises: equal subtrees of a power of two leaves may be summed elsewhere first.
TEST(Tree, SubtreesOfAPowerOfTwoComposeToTheSameMerges) {
  auto text = [](std::vector<std::string> leaves) {
    for_each_merge(int(leaves.size()), [&](int left, int right) {
      leaves[std::size_t(left)] = format_text("({}+{})", {leaves[std::size_t(left)], leaves[std::size_t(right)]});
    });
    return leaves[0];
  };
  auto name = [](int i) { return std::to_string(i); };
  std::vector<std::string> three = {"0", "1", "2"};
  EXPECT_EQ(text(three), "((0+1)+2)");
  for (int lanes : {1, 2, 4, 6, 8, 12, 24}) {
    std::vector<std::string> whole;
    for (int i = 0; i < lanes; ++i) whole.push_back(name(i));
    for (int each = 1; each <= lanes && lanes % each == 0; each *= 2) {
      std::vector<std::string> ranks;
      for (int r = 0; r < lanes / each; ++r) ranks.push_back(text({whole.begin() + r * each, whole.begin() + (r + 1) * each}));
      EXPECT_EQ(text(ranks), text(whole)) << lanes << " lanes, " << each << " a rank";
    }
  }
}

// The levels of one rank's lanes make the same merges as the tree over all of them.
TEST(Tree, LevelsOfLanesAreTheTree) {
  Device device;
  auto solo = open_solo_communicator();
  Allocate allocate = [&](std::size_t bytes) { return solo->allocate(bytes); };
  for (int lanes = 1; lanes <= 17; ++lanes) {
    LaneSums sums(3, DType::f32, lanes, true, allocate, device.queue());
    std::vector<float> leaves;
    for (int i = 0; i < lanes; ++i)
      leaves.push_back(float(random_word({7}, std::uint64_t(i)) % 1000) * 1e-3f * float(1 << (i % 9)));
    for (int i = 0; i < lanes; ++i) {
      for (int k = 0; k < 3; ++k) sums.level(i).as<float>()[k] = leaves[std::size_t(i)];
      if (i + 1 < lanes) sums.merge(device.queue(), i);
    }
    sums.finish(device.queue(), lanes - 1, 0, 3);
    for_each_merge(lanes, [&](int left, int right) { leaves[std::size_t(left)] += leaves[std::size_t(right)]; });
    for (int k = 0; k < 3; ++k) EXPECT_EQ(sums.total().as<float>()[k], leaves[0]) << lanes;
  }
}

}  // namespace
}  // namespace lockstep::parallel
