// An update that the ranks share is the update that each would make alone, to the last bit.
#include "parallel/sharded_update.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/optim/adamw.h"
#include "core/optim/sgd.h"
#include "kernels/memory.h"
#include "tests/parallel/net.h"

namespace lockstep::parallel {
namespace {

using test::Net;

class ShardedUpdateTest : public testing::Test {
 protected:
  static constexpr std::int64_t width = 150;  // a matrix of it has more than five blocks of the norm, and a rest

  Device device;
  std::unique_ptr<Communicator> communicator = open_mpi_communicator();
  std::unique_ptr<Group> group = open_mpi_group();
  int rank = communicator->rank(), ranks = communicator->size();

  std::unique_ptr<optim::Optimizer> make(bool adam, Net& net, const DataParallel& strategy) {
    if (adam)
      return std::make_unique<optim::AdamW>(
          net.set, strategy.flat(), strategy.gradients(),
          optim::AdamW::Options{.decay = 0.1f, .groups = {{.prefix = "w3", .rate_scale = 0.5f}}});
    return std::make_unique<optim::Sgd>(net.set, strategy.flat(), strategy.gradients(),
                                        optim::Sgd::Options{.momentum = 0.9f, .decay = 0.1f, .nesterov = true});
  }
};

TEST_F(ShardedUpdateTest, IsTheWholeUpdateToTheBit) {
  for (bool adam : {true, false})
    for (auto [dtype, masters] :
         {std::pair{DType::f32, true}, {DType::bf16, true}, {DType::f16, true}, {DType::bf16, false}, {DType::f16, false}})
      for (std::int64_t bucket : {std::int64_t(1), std::int64_t(100) << 10, std::int64_t(1) << 30}) {
        std::string hash[2];
        std::vector<float> norms[2], weights[2];
        for (bool sharded : {false, true}) {
          Net net(device, {.tied = true, .unused = true, .dtype = dtype, .width = width, .masters = masters});
          DataParallel strategy(net.set, *communicator, *group,
                                {.lanes = 2 * ranks,
                                 .reduction = Reduction::exact,
                                 .gradient = dtype,
                                 .buckets = {.head = bucket, .middle = bucket, .tail = bucket},
                                 .sharded_update = sharded});
          auto optimizer = make(adam, net, strategy);
          net.set.initialise(1);
          for (int step = 0; step < 4; ++step) {
            test::run_step(net, strategy, 2 * ranks, step);
            optimizer->step(0.05f, step == 2 ? 0.f : 0.01f);
            norms[sharded].push_back(optimizer->gradient_norm());
          }
          hash[sharded] = hash_parameters(net.set);
          for (auto& p : net.set.all())
            for (float w : download(device.queue(), p->value)) weights[sharded].push_back(w);
        }
        EXPECT_EQ(hash[0], hash[1]) << name_of(dtype) << (masters ? "" : " without masters") << ", buckets of " << bucket;
        EXPECT_EQ(norms[0], norms[1]);
        EXPECT_EQ(weights[0], weights[1]);
        EXPECT_GT(norms[0][0], 0.01) << "the limit must matter";
        for (const auto& theirs : group->gather(hash[1])) EXPECT_EQ(theirs, hash[1]);
      }
}

TEST_F(ShardedUpdateTest, EachRankKeepsItsShareOfTheMoments) {
  Net net(device, {.unused = true, .width = width});
  DataParallel strategy(net.set, *communicator, *group, {.sharded_update = true});
  auto optimizer = make(true, net, strategy);
  std::int64_t mine = 0, trained = 0;
  for (std::size_t i = 0; i < optimizer->state().size(); ++i) {
    const auto& state = optimizer->state()[i];
    mine += state.view.size;
    trained += count(state.shape);
    // The ranks' parts follow each other and make up the tensor.
    std::int64_t at = 0;
    for (const auto& part : group->gather(std::to_string(state.begin) + " " + std::to_string(state.view.size))) {
      std::int64_t begin = std::stoll(part), size = std::stoll(part.substr(part.find(' ')));
      if (size == 0) continue;
      EXPECT_EQ(begin, at) << state.name;
      at += size;
    }
    EXPECT_EQ(at, count(state.shape)) << state.name;
  }
  EXPECT_EQ(group->sum(double(mine)), double(trained));
  EXPECT_NEAR(double(mine), double(trained) / ranks, 2 * 4096.0 * double(strategy.flat().layout.buckets.size()));
}

// A gradient that is not finite, on one rank, leaves everything as it was on all of them, and halves the scale of the loss. f32
// is multiplied by powers of two without rounding, so what is left is the run without a scale and without that step, to the last
// bit.
TEST_F(ShardedUpdateTest, AnOverflowIsSkippedByAllRanks) {
  for (bool adam : {true, false})
    for (bool sharded : {false, true}) {
      SCOPED_TRACE(std::string(adam ? "adamw" : "sgd") + (sharded ? ", sharded" : ", whole"));
      std::string hash[2];
      std::vector<float> norms[2];
      for (bool scaled : {false, true}) {
        Net net(device, {.tied = true, .width = width});
        DataParallel strategy(net.set, *communicator, *group,
                              {.lanes = ranks, .reduction = Reduction::exact, .sharded_update = sharded});
        auto optimizer = make(adam, net, strategy);
        if (scaled) optimizer->scale_loss(1024, {.interval = 2});
        net.set.initialise(1);
        auto step = [&](int number, bool overflows) {
          Tensor upstream = test::make_tensor(device, {1}, {1.f / float(ranks * Net::rows)});
          if (scaled) optimizer->scale_upstream(upstream.view());
          if (overflows && rank == ranks - 1) kernels::fill(device.queue(), upstream.view(), INFINITY);
          strategy.begin_step();
          strategy.begin_lane(0);
          Tape tape(device, {.sink = &strategy, .upstream = upstream});
          tape.backward(net.loss(tape, rank, number));
          strategy.finish_step();
          optimizer->step(0.05f, 0.01f);
        };
        auto everything = [&] {  // that the optimizer changes
          std::vector<float> all;
          auto add = [&](View view) {
            for (float value : download(device.queue(), view)) all.push_back(value);
          };
          for (auto& p : net.set.all()) add(p->value.view()), add(p->master);
          for (auto& state : optimizer->state()) add(state.view);
          return all;
        };
        auto scale = [&] { return optimizer->loss_scale(); };
        for (int number = 1; number <= 4; ++number) {
          if (scaled && number != 2) {
            const auto before = everything();
            const float last = scale()[int(kernels::LossScale::scale)];
            step(100 + number, true);
            EXPECT_EQ(everything(), before);
            EXPECT_FALSE(std::isfinite(optimizer->gradient_norm()));
            EXPECT_EQ(scale()[int(kernels::LossScale::scale)], last / 2);
            EXPECT_EQ(scale()[int(kernels::LossScale::finite)], 0);
          }
          step(number, false);
          norms[scaled].push_back(optimizer->gradient_norm());
        }
        // Halved before the first, third and fourth step; doubled behind the first two.
        if (scaled) {
          EXPECT_EQ(scale(), (std::vector<float>{256, 1, 3}));
        }
        hash[scaled] = hash_parameters(net.set);
      }
      EXPECT_EQ(hash[0], hash[1]);
      EXPECT_EQ(norms[0], norms[1]);
      for (const auto& theirs : group->gather(hash[1])) EXPECT_EQ(theirs, hash[1]);
    }
}

/// What is changed behind the sums is in no norm. Which parts were seen is all or nothing: half of them would count twice.
TEST_F(ShardedUpdateTest, TheNormIsSummedWithTheGradients) {
  if (ranks == 1) GTEST_SKIP() << "one rank adds nothing";
  Net net(device, {.width = width});
  DataParallel strategy(net.set, *communicator, *group, {.sharded_update = true});
  auto optimizer = make(true, net, strategy);
  net.set.initialise(1);
  std::vector<float> norms;
  for (int step = 0; step < 3; ++step) {
    test::run_step(net, strategy, ranks, 0);
    if (step == 1) test::run_step(net, strategy, ranks, 0);  // seen twice: summed from memory
    if (step > 0) kernels::scale(device.queue(), strategy.gradients(), strategy.gradients(), 2);
    optimizer->step(0);
    norms.push_back(optimizer->gradient_norm());
  }
  EXPECT_GT(norms[0], 0);
  EXPECT_EQ(norms[1], 2 * norms[0]);
  EXPECT_EQ(norms[2], norms[0]);
}

/// A block of the norm is never cut: a small model's is one rank's, and what the others add to the norm is nothing, in every step.
TEST_F(ShardedUpdateTest, RanksWithoutAPartAddNothingToTheNorm) {
  std::vector<float> norms[2];
  for (bool sharded : {false, true}) {
    ParameterSet set(device, DType::f32);
    Tensor w = set.add("w", {16, 64}, Initial::normal(0, 0.3f));
    DataParallel strategy(set, *communicator, *group, {.lanes = ranks, .reduction = Reduction::exact, .sharded_update = sharded});
    optim::Sgd sgd(set, strategy.flat(), strategy.gradients(), {});
    set.initialise(1);
    for (int step = 0; step < 4; ++step) {
      strategy.begin_step();
      strategy.begin_lane(0);
      Tape tape(device, {.sink = &strategy});
      Tensor x = test::make_tensor(device, {5, 64}, test::random_values(5 * 64, std::uint64_t(1000 + 100 * step + rank)));
      Tensor target = test::make_tensor(device, {5, 16}, test::random_values(5 * 16, 3));
      tape.backward(ops::squared_error(tape, ops::linear(tape, x, w), target), 0.1f);
      strategy.finish_step();
      sgd.step(0.01f, 0.5f);
      norms[sharded].push_back(sgd.gradient_norm());
    }
  }
  EXPECT_GT(norms[0][0], 0.5f) << "the limit must matter";
  EXPECT_EQ(norms[0], norms[1]);
}

TEST_F(ShardedUpdateTest, CanBeChosenBetweenSteps) {
  std::vector<float> weights[2];
  for (bool changes : {false, true}) {
    Net net(device, {.width = width});
    DataParallel strategy(net.set, *communicator, *group, {.lanes = ranks, .reduction = Reduction::exact});
    net.set.initialise(1);
    for (int step = 0; step < 4; ++step) {
      if (changes) strategy.share_update(step % 2 == 0);
      optim::Sgd sgd(net.set, strategy.flat(), strategy.gradients(), {});
      test::run_step(net, strategy, ranks, step);
      sgd.step(0.1f, 1);
    }
    for (auto& p : net.set.all())
      for (float w : download(device.queue(), p->value)) weights[changes].push_back(w);
  }
  EXPECT_EQ(weights[0], weights[1]);
}

}  // namespace
}  // namespace lockstep::parallel
