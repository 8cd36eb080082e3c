#include "launch/step_capture.h"

#include <algorithm>
#include <filesystem>
#include <fstream>

#include "core/optim/adamw.h"
#include "kernels/memory.h"
#include "tests/launch/program.h"
#include "tests/parallel/net.h"

namespace lockstep::launch {
namespace {

using parallel::DataParallel;
using test::Net;

/// A short training run whose steps are captured from the third on, if they are.
struct StepCaptureTest : test::ProgramTest {
  static constexpr int lanes = 2, steps = 8;
  Session session{{.device = "cpu", .threads = 1, .alone = true}};

  struct Told {
    std::string hash;
    std::vector<float> losses;
    std::string log;  ///< what the run said
    int batches = 0;  ///< how many were asked for
  };

  /// `reads`: in the middle of the work a value is read back, which a step that is captured must not do.
  Told train(const std::string& name, Capturing wish, bool reads) {
    const Queue& queue = session.device().queue();
    std::filesystem::create_directories(path(name));
    session.log_to(path(name));
    Net net(session.device(), {.tied = true, .unused = true});
    DataParallel strategy(net.set, session.communicator(), session.group(), {.lanes = lanes});
    net.set.initialise(1);
    optim::AdamW optimizer(net.set, strategy.flat(), strategy.gradients(), {});
    StepCapture capture(session, strategy, wish);
    Tensor upstream = test::make_tensor(session.device(), {1}, {1.f / (lanes * Net::rows)});
    Told told;
    for (int step = 1; step <= steps; ++step) {
      optimizer.prepare(0.01f / float(step));
      auto next = [&](int lane) {
        auto values = [&](std::int64_t columns, int kind) {
          return test::make_tensor(session.device(), {Net::rows, columns},
                                   test::random_values(Net::rows * columns, std::uint64_t(1000 * kind + 10 * step + lane)));
        };
        ++told.batches;
        return io::Batch{values(Net::inputs, 1), values(Net::outputs, 2), double(Net::rows)};
      };
      auto work = [&](const StepCapture::NextBatch& batch_of) {
        std::vector<Tensor> losses;
        strategy.begin_step();
        for (int lane = 0; lane < lanes; ++lane) {
          const io::Batch batch = batch_of(lane);
          strategy.begin_lane(lane);
          Tape tape(session.device(), {.sink = &strategy, .upstream = upstream});
          losses.push_back(ops::squared_error(tape, net.forward(tape, batch.inputs), batch.targets));
          if (reads && lane == 1) (void)download(queue, losses.back());
          tape.backward(losses.back());
        }
        strategy.finish_step();
        optimizer.update(0.5f);
        return losses;
      };
      for (const Tensor& loss : capture.run(step > 2, true, next, work)) told.losses.push_back(download(queue, loss)[0]);
    }
    told.hash = hash_parameters(net.set);
    told.log = read(path(name) + "/log.rank0");
    return told;
  }
};

std::size_t count_of(const std::string& words, const std::string& text) {
  std::size_t n = 0;
  for (auto at = text.find(words); at != std::string::npos; at = text.find(words, at + 1)) ++n;
  return n;
}

TEST_F(StepCaptureTest, WhatFailsToBeCapturedGoesOnCallByCall) {
  const Told plain = train("plain", Capturing::never, false);
  const Told captured = train("captured", Capturing::where_possible, false);
  const Told fell_back = train("fell_back", Capturing::where_possible, true);
  EXPECT_EQ(plain.losses.size(), std::size_t(lanes * steps));
  for (const Told* told : {&captured, &fell_back}) {
    EXPECT_EQ(told->hash, plain.hash);
    EXPECT_EQ(told->losses, plain.losses);
    EXPECT_EQ(told->batches, lanes * steps) << "none is lost, none is read twice";
  }
  EXPECT_EQ(plain.log.find("captured"), std::string::npos) << plain.log;
  EXPECT_EQ(count_of("captured and replayed", captured.log), 1u) << captured.log;
  EXPECT_EQ(count_of("steps are not captured, because it failed: ", fell_back.log), 1u) << fell_back.log;
  EXPECT_EQ(std::ranges::count(fell_back.log, '\n'), 1) << fell_back.log;
}

TEST_F(StepCaptureTest, WhatMustBeCapturedIsAnErrorInstead) {
  try {
    train("must", Capturing::always, true);
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit(), Exit::usage);
    EXPECT_NE(std::string(error.what()).find("train.captured = \"yes\", but the step cannot be captured: "), std::string::npos)
        << error.what();
  }
}

TEST(Capturing, IsWhatTheSettingMeansOnADevice) {
  EXPECT_EQ(capturing("auto", DeviceKind::cpu), Capturing::never);
  EXPECT_EQ(capturing("auto", DeviceKind::cuda), Capturing::where_possible);
  for (DeviceKind kind : {DeviceKind::cpu, DeviceKind::cuda}) {
    EXPECT_EQ(capturing("yes", kind), Capturing::always);
    EXPECT_EQ(capturing("no", kind), Capturing::never);
  }
}

}  // namespace
}  // namespace lockstep::launch
