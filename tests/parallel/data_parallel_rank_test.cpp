// How DataParallel behaves: when buckets leave, what is frozen, several models at once, running statistics, mistakes.
#include "parallel/data_parallel.h"

#include <gtest/gtest.h>

#include "kernels/memory.h"
#include "tests/parallel/net.h"

namespace lockstep::parallel {
namespace {

using test::Net;

/// Passes everything on and notes what was reduced, and whether that was inside a backward pass.
class Spy final : public Communicator {
 public:
  explicit Spy(Communicator& inner) : inner_(inner) {}
  struct Sent {
    void* data;
    std::int64_t size;
    bool in_backward;
    int lane;
  };
  std::vector<Sent> sent;
  std::vector<std::size_t> allocated;
  bool in_backward = false;
  int lane = 0;

  int rank() const override { return inner_.rank(); }
  int size() const override { return inner_.size(); }
  const char* name() const override { return "spy"; }
  Ticket all_reduce(const Queue& q, View data, Reduction how) override {
    sent.push_back({data.data, data.size, in_backward, lane});
    return inner_.all_reduce(q, data, how);
  }
  Ticket reduce_scatter(const Queue& q, View out, View in) override { return inner_.reduce_scatter(q, out, in); }
  Ticket all_gather(const Queue& q, View out, View in) override { return inner_.all_gather(q, out, in); }
  Ticket all_to_all(const Queue& q, View out, View in) override { return inner_.all_to_all(q, out, in); }
  Ticket broadcast(const Queue& q, View data, int root) override { return inner_.broadcast(q, data, root); }
  Ticket send(const Queue& q, View data, int to) override { return inner_.send(q, data, to); }
  Ticket receive(const Queue& q, View data, int from) override { return inner_.receive(q, data, from); }
  void progress() override { inner_.progress(); }
  void join(const Queue& q) override { inner_.join(q); }
  Ticket mark(const Queue& q) override { return inner_.mark(q); }
  Timing timing(Ticket t) override { return inner_.timing(t); }
  std::unique_ptr<Communicator> split(int color, int key) override { return inner_.split(color, key); }
  Memory allocate(std::size_t bytes) override {
    allocated.push_back(bytes);
    return inner_.allocate(bytes);
  }

 private:
  Communicator& inner_;
};

class DataParallelTest : public testing::Test {
 protected:
  Device device;
  std::unique_ptr<Communicator> communicator = open_mpi_communicator();
  std::unique_ptr<Group> group = open_mpi_group();
  std::unique_ptr<Communicator> solo = open_solo_communicator();
  std::unique_ptr<Group> alone = solo_group();
  int rank = communicator->rank(), ranks = communicator->size();

  static BucketOptions buckets_of(std::int64_t bytes) { return {.head = bytes, .middle = bytes, .tail = bytes}; }
  /// What the call throws on this rank.
  template <class F>
  static std::string message_of(F&& f) {
    try {
      f();
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }
};

TEST_F(DataParallelTest, BucketsLeaveInPlanOrderWhileTheLastLaneRunsBackward) {
  for (bool overlap : {true, false}) {
    Spy spy(*communicator);
    Net net(device, {.unused = true});
    DataParallel strategy(net.set, spy, *group, {.lanes = 2 * ranks, .overlap = overlap, .buckets = buckets_of(1)});
    net.set.initialise(1);
    auto& layout = strategy.flat().layout;
    ASSERT_EQ(layout.buckets.size(), net.set.all().size());
    for (int step = 0; step < 4; ++step) {
      const bool at_once = step < 2 ? overlap : !overlap, travels = step < 3;
      if (step >= 2) strategy.communicate_as(at_once, travels);
      spy.sent.clear();
      strategy.begin_step();
      for (int i = 0; i < 2; ++i) {
        strategy.begin_lane(i);
        Tape t(device, {.sink = &strategy});
        Tensor loss = net.loss(t, 2 * rank + i);
        spy.in_backward = true;
        spy.lane = i;
        t.backward(loss);
        spy.in_backward = false;
      }
      strategy.finish_step();
      ASSERT_EQ(spy.sent.size(), travels ? layout.buckets.size() : 0);
      for (std::size_t b = 0; b < spy.sent.size(); ++b) {
        EXPECT_EQ(spy.sent[b].data, strategy.gradients().slice(layout.buckets[b].begin, 0).data);
        EXPECT_EQ(spy.sent[b].size, layout.buckets[b].end - layout.buckets[b].begin);
        EXPECT_EQ(spy.sent[b].in_backward, at_once);  // even those behind a parameter that is never used
        EXPECT_EQ(spy.sent[b].lane, 1);
      }
      ASSERT_EQ(strategy.without_gradient().size(), 1u);
      EXPECT_EQ(strategy.without_gradient()[0]->name, "lonely");
    }
  }
}

// What a collective takes alone is found where it stands in a step: seven steps in which nothing overlaps, and all ranks meet
// first.
TEST_F(DataParallelTest, SomeStepsFindWhatBucketsTakeAlone) {
  Spy spy(*communicator);
  Net net(device, {});
  DataParallel strategy(net.set, spy, *group, {.buckets = buckets_of(1)});
  net.set.initialise(1);
  const std::size_t buckets = strategy.flat().layout.buckets.size();
  for (int step = 0; step < DataParallel::settling_steps + 2; ++step) {
    const bool finds = step >= DataParallel::settling_steps - 7 && step < DataParallel::settling_steps;
    spy.sent.clear();
    strategy.begin_step();
    strategy.begin_lane(0);
    Tape t(device, {.sink = &strategy});
    Tensor loss = net.loss(t, rank);
    spy.in_backward = true;
    t.backward(loss);
    spy.in_backward = false;
    strategy.finish_step();
    ASSERT_EQ(spy.sent.size(), buckets + (finds ? 1 : 0)) << "step " << step;
    EXPECT_EQ(spy.sent[0].size == 1, finds) << "the meeting";
    for (auto& sent : spy.sent) EXPECT_EQ(sent.in_backward, !finds) << "step " << step;
  }
}

// A model that uses its parameters in another order than it made them: buckets that are ready early wait for those before them.
TEST_F(DataParallelTest, EarlyBucketsWait) {
  Spy spy(*communicator);
  ParameterSet set(device);
  Tensor a = set.add("a", {40}, Initial::constant(1)), b = set.add("b", {40}, Initial::constant(2)),
         c = set.add("c", {40}, Initial::constant(3));
  DataParallel strategy(set, spy, *group, {.buckets = buckets_of(1)});
  set.initialise(1);
  spy.sent.clear();
  strategy.begin_step();
  strategy.begin_lane(0);
  Tape t(device, {.sink = &strategy});
  Tensor product = ops::multiply(t, ops::multiply(t, c, b), a);  // backward reaches a first; c's bucket is first in the plan
  t.backward(ops::sum(t, product));
  strategy.finish_step();
  ASSERT_EQ(spy.sent.size(), 3u);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(spy.sent[std::size_t(i)].data, strategy.gradients().slice(128 * ranks * i, 0).data);
  for (float g : download(device.queue(), a->gradient)) EXPECT_EQ(g, 6.f * float(ranks));
  for (float g : download(device.queue(), b->gradient)) EXPECT_EQ(g, 3.f * float(ranks));
  for (float g : download(device.queue(), c->gradient)) EXPECT_EQ(g, 2.f * float(ranks));
}

TEST_F(DataParallelTest, SeveralBackwardPassesInALane) {
  int lanes = 2 * ranks;
  auto expected = test::serial_gradients(device, {.tied = true}, 0, lanes, lanes, 0);
  auto second = test::serial_gradients(device, {.tied = true}, 0, lanes, lanes, 1);
  for (std::size_t i = 0; i < expected.size(); ++i) expected[i] += second[i];
  for (auto reduction : {Reduction::fast, Reduction::exact}) {
    Spy spy(*communicator);
    Net net(device, {.tied = true});
    DataParallel strategy(net.set, spy, *group, {.lanes = lanes, .reduction = reduction, .buckets = buckets_of(1)});
    net.set.initialise(1);
    spy.sent.clear();
    strategy.begin_step();
    for (int i = 0; i < 2; ++i) {
      strategy.begin_lane(i, 2);
      net.backward(&strategy, 2 * rank + i, lanes, 0);
      EXPECT_TRUE(spy.sent.empty()) << "only the last pass of the last lane may send";
      net.backward(&strategy, 2 * rank + i, lanes, 1);
    }
    EXPECT_EQ(spy.sent.size(), strategy.flat().layout.buckets.size()) << "all have left before the step ends";
    strategy.finish_step();
    EXPECT_LT(test::relative_norm(test::gradients(net), expected), 1e-5);
  }
}

// Two models that feed each other, two strategies on one communicator, three backward passes: the shape of a GAN.
TEST_F(DataParallelTest, TwoModelsInOneStep) {
  int lanes = ranks;
  auto step = [&](Communicator& c, Group& g, int first, int count) {
    Net one(device, {.tied = true}, "one."), two(device, {.unused = true}, "two.");
    DataParallel::Options options{.lanes = lanes, .reduction = Reduction::exact, .buckets = buckets_of(2048)};
    DataParallel ones(one.set, c, g, options), twos(two.set, c, g, options);
    one.set.initialise(1);
    two.set.initialise(2);
    ones.begin_step();
    twos.begin_step();
    for (int i = 0; i < count; ++i) {
      ones.begin_lane(i);
      twos.begin_lane(i, 2);
      two.backward(&twos, first + i, lanes, 0);  // the second model on data
      auto into_two = [&](Tape& t, const Tensor& x) { return ops::sum(t, two.forward(t, x)); };
      auto made = [&](Tape& t) {
        Tensor x = test::make_tensor(device, {5, 7}, test::random_values(35, std::uint64_t(50 + first + i)));
        Tensor y = one.forward(t, x);                                                             // (5, 3)
        return ops::matmul(t, y, test::make_tensor(device, {3, 7}, test::random_values(21, 9)));  // (5, 7)
      };
      {
        Tape t(device, {.sink = &twos});  // the second on what the first made, which gets no gradient
        t.backward(into_two(t, ops::detach(made(t))));
      }
      two.set.want_gradients(false);
      {
        Tape t(device, {.sink = &ones});  // the first through the second, which gets no gradient
        t.backward(into_two(t, made(t)));
      }
      two.set.want_gradients(true);
    }
    ones.finish_step();
    twos.finish_step();
    EXPECT_FALSE(ones.times().empty());
    EXPECT_FALSE(twos.times().empty());
    auto a = test::gradients(one), b = test::gradients(two);
    a.insert(a.end(), b.begin(), b.end());
    return a;
  };
  auto together = step(*communicator, *group, rank, 1), serial = step(*solo, *alone, 0, lanes);
  EXPECT_EQ(together, serial);
  EXPECT_GT(test::relative_norm(together, std::vector<float>(together.size(), 0.f)), 0);
}

TEST_F(DataParallelTest, FrozenParametersOwnNoGradientMemoryAndDoNotTravel) {
  Spy spy(*communicator);
  Net net(device, {});
  net.set.freeze("w");
  net.set.freeze("b");
  std::size_t head = std::size_t(net.head.size());
  DataParallel strategy(net.set, spy, *group, {.lanes = 2 * ranks, .reduction = Reduction::exact});
  net.set.initialise(1);
  // Masters (f32, which are the weights); two levels of gradients of the head alone; no statistics.
  std::size_t trained = std::size_t(strategy.flat().layout.trained) * 4;
  EXPECT_GE(trained, head * 4);
  EXPECT_LT(trained, head * 4 + std::size_t(ranks) * 512);
  std::size_t gradients = 0;
  for (std::size_t i = 1; i < spy.allocated.size(); ++i) gradients += spy.allocated[i];
  EXPECT_EQ(gradients, 2 * trained + 4) << "and one number, for meeting";
  auto before = download(device.queue(), net.w1);
  test::run_step(net, strategy, 2 * ranks);
  EXPECT_FALSE(net.w1->gradient);
  EXPECT_FALSE(net.w1->has_gradient);
  EXPECT_EQ(download(device.queue(), net.w1), before);
  auto expected = test::serial_gradients(device, {}, 0, 2 * ranks, 2 * ranks);
  expected.erase(expected.begin(), expected.end() - std::ptrdiff_t(head));
  EXPECT_LT(test::relative_norm(download(device.queue(), net.head->gradient), expected), 1e-5);
}

TEST_F(DataParallelTest, GradientsThatAreNotWantedForAStepAreZero) {
  Net net(device, {});
  DataParallel strategy(net.set, *communicator, *group, {.buckets = buckets_of(1)});
  net.set.initialise(1);
  test::run_step(net, strategy, ranks);
  EXPECT_GT(test::relative_norm(download(device.queue(), net.b1->gradient), std::vector<float>(61, 0.f)), 0);
  net.b1->wants_gradient = false;
  test::run_step(net, strategy, ranks);
  EXPECT_EQ(download(device.queue(), net.b1->gradient), std::vector<float>(61, 0.f));
  net.b1->wants_gradient = true;
  test::run_step(net, strategy, ranks);
  auto expected = test::serial_gradients(device, {}, 0, ranks, ranks);
  EXPECT_LT(test::relative_norm(test::gradients(net), expected), 1e-5);
}

// Lanes take branches of their own: a parameter may be used in some of them only, on some ranks only.
TEST_F(DataParallelTest, ParametersUsedInSomeLanesOnly) {
  int lanes = 4 * ranks;
  auto uses = [](int step, int lane) { return lane % 3 == step ? 'a' : lane == 2 - step ? 'b' : '-'; };
  float nothing = 0;
  for (auto reduction : {Reduction::fast, Reduction::exact}) {
    ParameterSet set(device);
    Tensor a = set.add("a", {130}, Initial::constant(1)), b = set.add("b", {70}, Initial::constant(1));
    DataParallel strategy(set, *communicator, *group, {.lanes = lanes, .reduction = reduction, .buckets = buckets_of(1)});
    set.initialise(1);
    for (int step = 0; step < 3; ++step) {
      strategy.begin_step();
      for (int i = 0; i < 4; ++i) {
        strategy.begin_lane(i);
        int lane = 4 * rank + i;
        Tape t(device, {.sink = &strategy});
        if (uses(step, lane) == 'a') t.backward(ops::scale(t, ops::sum(t, a), float(lane + 1)));
        if (uses(step, lane) == 'b') t.backward(ops::scale(t, ops::sum(t, b), float(lane + 1)));
        if (uses(step, lane) == '-') t.backward();
      }
      strategy.finish_step();
      float in_a = 0, in_b = 0;
      for (int lane = 0; lane < lanes; ++lane)
        (uses(step, lane) == 'a' ? in_a : uses(step, lane) == 'b' ? in_b : nothing) += float(lane + 1);
      EXPECT_EQ(download(device.queue(), a->gradient), std::vector<float>(130, in_a)) << "step " << step;
      EXPECT_EQ(download(device.queue(), b->gradient), std::vector<float>(70, in_b)) << "step " << step;
    }
  }
}

/// y = x * w, giving the lane's `statistic` to `buffer` as BatchNorm does.
Tensor scaled_with_statistic(Tape& t, const Tensor& x, const Tensor& w, const Tensor& buffer, const Tensor& statistic) {
  Tensor y = ops::multiply(t, x, w);
  return t.record(ops::detach(y), {y, buffer}, [=](Tape& t) {
    if (auto [view, write] = t.into(buffer); view) kernels::scale(t.queue(), view, statistic.view(), 1, write);
    if (auto [view, write] = t.into(y); view) kernels::fill(t.queue(), view, 1);
  });
}

TEST_F(DataParallelTest, BuffersMoveTowardsTheMeanOverAllLanes) {
  constexpr std::int64_t n = 11;
  constexpr float momentum = 0.25f;
  auto statistic_of = [](int step, int lane, int use) {
    return test::random_values(n, std::uint64_t(10 * (100 * step + lane) + use), 3);
  };
  for (int each : {1, 2, 4}) {
    int lanes = each * ranks;
    // Lane 1 uses the layer twice (both count as one mean), the last lane of several does not use it at all.
    auto uses = [&](int lane) { return lane == 1 ? 2 : lane == lanes - 1 && lanes > 2 ? 0 : 1; };
    auto run = [&](Communicator& c, Group& g) {
      ParameterSet set(device, DType::bf16);
      Tensor w = set.add("w", {n}, Initial::constant(1)), running = set.buffer("running", {n}, 5, momentum),
             fixed = set.buffer("fixed", {n}, 7, 0.5f), idle = set.buffer("idle", {n}, 3, 0.1f);
      set.freeze("fixed");
      DataParallel strategy(set, c, g, {.lanes = lanes, .reduction = Reduction::exact, .gradient = DType::bf16});
      set.initialise(1);
      for (int step = 0; step < 3; ++step) {
        strategy.begin_step();
        for (int i = 0; i < strategy.lanes().count; ++i) {
          strategy.begin_lane(i);
          int lane = strategy.lanes().first + i;
          Tape t(device, {.sink = &strategy});
          Tensor x = test::make_tensor(device, {n}, test::random_values(n, 3), DType::bf16), total = ops::multiply(t, x, w);
          for (int use = 0; use < uses(lane); ++use) {
            Tensor statistic = test::make_tensor(device, {n}, statistic_of(step, lane, use));
            total = ops::add(t, total, scaled_with_statistic(t, x, w, running, statistic));
            scaled_with_statistic(t, x, w, fixed, statistic);
          }
          t.backward(ops::sum(t, total));
        }
        strategy.finish_step();
      }
      EXPECT_EQ(download(device.queue(), fixed), std::vector<float>(n, 7));
      EXPECT_EQ(download(device.queue(), idle), std::vector<float>(n, 3)) << "without a statistic not even the last bit moves";
      return download(device.queue(), running);
    };
    auto got = run(*communicator, *group);
    std::vector<double> expected(n, 5);
    for (int step = 0; step < 3; ++step) {
      std::vector<double> mean(n, 0);
      for (int lane = 0; lane < lanes; ++lane)
        for (std::size_t i = 0; i < n; ++i) {
          if (uses(lane) == 0) mean[i] += expected[i] / lanes;
          for (int use = 0; use < uses(lane); ++use) mean[i] += double(statistic_of(step, lane, use)[i]) / uses(lane) / lanes;
        }
      for (std::size_t i = 0; i < n; ++i) expected[i] = (1 - momentum) * expected[i] + momentum * mean[i];
    }
    EXPECT_LT(test::relative_norm(got, expected), 1e-6);
    EXPECT_EQ(got, run(*solo, *alone)) << "one rank with all lanes must agree to the bit";
  }
}

TEST_F(DataParallelTest, HiddenAndExposedTimeAddUp) {
  for (bool overlap : {true, false}) {
    Net net(device, {.width = 400});
    DataParallel strategy(net.set, *communicator, *group, {.overlap = overlap, .buckets = buckets_of(1 << 16)});
    net.set.initialise(1);
    EXPECT_TRUE(strategy.times().empty());
    for (int step = 0; step < DataParallel::settling_steps + 3; ++step) {
      auto start = std::chrono::steady_clock::now();
      test::run_step(net, strategy, ranks);
      double took = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
      auto times = strategy.times();
      ASSERT_EQ(times.size(), strategy.flat().layout.buckets.size());
      double hidden = 0, exposed = 0;
      std::int64_t bytes = 0;
      for (auto& t : times) {
        EXPECT_GE(t.started, 0);
        EXPECT_GE(t.finished, t.started);
        EXPECT_GE(t.hidden, 0);
        EXPECT_GE(t.exposed, 0);
        EXPECT_LE(t.hidden, t.finished - t.started + 1e-9);
        EXPECT_GE(t.worked, 0);
        EXPECT_EQ(t.alone > 0, step >= DataParallel::settling_steps - 1) << "step " << step;
        EXPECT_LE(t.hidden, std::max(0.0, t.alone - t.worked - t.exposed) + 1e-9);
        hidden += t.hidden;
        exposed += t.exposed;
        bytes += t.bytes;
      }
      EXPECT_LE(hidden + exposed, took);
      EXPECT_EQ(bytes, strategy.flat().layout.trained * 4);
      EXPECT_TRUE(overlap || hidden == 0);
    }
  }
}

TEST_F(DataParallelTest, AMismatchNamesTheRankAndTheParameterOnEveryRank) {
  if (ranks == 1) return;
  auto make = [&](auto&& change, DataParallel::Options options = {}) {
    Net net(device, {});
    if (rank == 1) change(net, options);
    DataParallel strategy(net.set, *communicator, *group, options);
  };
  auto exit_of = [&](auto&& f) {
    try {
      f();
    } catch (const Error& e) {
      return e.exit();
    }
    return Exit::done;
  };
  auto extra = [](Net& net, auto&) { net.set.add("extra", {2, 5}, {}); };
  std::string text = message_of([&] { make(extra); });
  EXPECT_NE(text.find("rank 1 has trained weight \"extra\" (2, 5) f32 where rank 0 has nothing"), std::string::npos) << text;
  EXPECT_EQ(exit_of([&] { make(extra); }), Exit::diverged);

  text = message_of([&] { make([](Net& net, auto&) { net.set.freeze("b2"); }); });
  EXPECT_NE(text.find("rank 1 has frozen weight \"b2\" (61) f32 where rank 0 has trained weight \"b2\""), std::string::npos)
      << text;
  text = message_of([&] { make([](auto&, auto& options) { options.buckets.head = 77; }); });
  EXPECT_NE(text.find("buckets of 77"), std::string::npos) << text;
  text = message_of([&] { make([&](auto&, auto& options) { options.lanes = 2 * ranks; }, {.lanes = ranks}); });
  EXPECT_NE(text.find("rank 1 has lanes "), std::string::npos) << text;
  EXPECT_EQ(message_of([&] { make([](auto&, auto&) {}); }), "") << "and equal ranks go on";
}

TEST_F(DataParallelTest, MistakesAreNamed) {
  Net net(device, {});
  if (ranks > 1) {
    auto refused = [&](DataParallel::Options o) { return message_of([&] { DataParallel(net.set, *communicator, *group, o); }); };
    EXPECT_NE(refused({.lanes = 5 * ranks, .reduction = Reduction::exact}).find("whole subtrees"), std::string::npos);
    EXPECT_NE(refused({.lanes = 1}).find("cannot share 1 lanes"), std::string::npos);
  }
  DataParallel strategy(net.set, *communicator, *group, {.lanes = 2 * ranks});
  net.set.initialise(1);
  strategy.begin_step();
  EXPECT_NE(message_of([&] { net.backward(&strategy, 0, 1); }).find("outside the backward passes"), std::string::npos);
  EXPECT_NE(message_of([&] { strategy.finish_step(); }).find("0 of this rank's 2 lanes"), std::string::npos);
  EXPECT_NE(message_of([&] { strategy.begin_lane(1); }).find("lane 1"), std::string::npos);
  strategy.begin_lane(0);
  net.backward(&strategy, 0, 1);
  EXPECT_NE(message_of([&] { net.backward(&strategy, 0, 1); }).find("outside the backward passes"), std::string::npos);
}

TEST_F(DataParallelTest, LeavesParametersUsableWhenItGoes) {
  Net net(device, {});
  {
    DataParallel strategy(net.set, *communicator, *group, {});
    net.set.initialise(1);
    test::run_step(net, strategy, ranks);
  }
  for (auto& p : net.set.all()) EXPECT_FALSE(p->value->gradient);
  DataParallel strategy(net.set, *communicator, *group, {.gradient = DType::f32});
  net.set.initialise(1);
  test::run_step(net, strategy, ranks);
  EXPECT_LT(test::relative_norm(test::gradients(net), test::serial_gradients(device, {}, 0, ranks, ranks)), 1e-5);
}

}  // namespace
}  // namespace lockstep::parallel
