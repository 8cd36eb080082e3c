#include "tests/launch/kill_resume.h"

namespace lockstep::test {
namespace {

struct Resume : KillResumeTest {
  void SetUp() override {
    KillResumeTest::SetUp();
    make_text();
    write("gpt.toml", gpt_toml);
  }
};

TEST_F(Resume, OneThenFourThenTwoRanksIsOneRun) {
  const std::string train = "train gpt.toml --set schedule.kind=constant --set log.evaluate_every=0 --set log.every=1 ";
  ASSERT_EQ(lockstep(train + "--set train.steps=12 --set run.name=straight").code, 0);
  int steps = 0;
  for (int n : {1, 4, 2}) {  // moments in one piece, in four, in two
    const Ran ran = ranks(
        n, train + "--set train.update=sharded --resume --set run.name=parts --set train.steps=" + std::to_string(steps += 4));
    ASSERT_EQ(ran.code, 0) << ran.text;
  }
  EXPECT_EQ(hash("parts"), hash("straight"));
  EXPECT_EQ(losses("parts"), losses("straight"));
  // Not the weights alone: everything that a checkpoint holds, written by two ranks and by one.
  const Ran same = lockstep("checkpoint diff runs/straight runs/parts");
  EXPECT_EQ(same.code, 0) << same.text;
  EXPECT_TRUE(same.says("equal tensors")) << same.text;
  const Ran other = lockstep("checkpoint diff runs/straight runs/parts/checkpoints/step_8");
  EXPECT_EQ(other.code, 1) << other.text;
  EXPECT_TRUE(other.says("wte.weight: ") && other.says("values differ")) << other.text;
}

TEST_F(Resume, WithoutMastersGoesOnAtAnotherRankCount) {
  const std::string train =
      "train gpt.toml --set schedule.kind=constant --set log.evaluate_every=0 --set log.every=1 --set train.precision=bf16 --set "
      "train.masters=false ";
  ASSERT_EQ(lockstep(train + "--set train.steps=12 --set run.name=straight").code, 0);
  int steps = 0;
  for (int n : {1, 4, 2}) {
    const Ran ran = ranks(n, train + "--resume --set train.update=" + (n == 2 ? "whole" : "sharded") +
                                 " --set run.name=parts --set train.steps=" + std::to_string(steps += 4));
    ASSERT_EQ(ran.code, 0) << ran.text;
  }
  EXPECT_EQ(hash("parts"), hash("straight"));
  EXPECT_EQ(losses("parts"), losses("straight"));
  const Ran same = lockstep("checkpoint diff runs/straight runs/parts");
  EXPECT_EQ(same.code, 0) << same.text;
  EXPECT_TRUE(lockstep("checkpoint inspect runs/parts").says("bf16"));
  const Ran changed = lockstep(train + "--resume --set run.name=parts --set train.masters=true --set train.steps=20");
  EXPECT_EQ(changed.code, 64) << changed.text;
  EXPECT_TRUE(changed.says("train.masters was false in the checkpoint and is true now")) << changed.text;
}

// The scale of the loss, how long it has held and how many updates were left out go on where they were.
TEST_F(Resume, LossScaleGoesOnAtAnotherRankCount) {
  const std::string train =
      "train gpt.toml --set schedule.kind=constant --set log.evaluate_every=0 --set log.every=1 --set train.precision=f16 --set "
      "train.loss_scale=16777216 --set checkpoint.every=1 --set checkpoint.keep=20 ";
  ASSERT_EQ(lockstep(train + "--set train.steps=12 --set run.name=straight").code, 0);
  int steps = 0;
  for (int n : {1, 4, 2}) {
    const Ran ran =
        ranks(n, train + "--resume --set run.name=parts --set train.steps=" + std::to_string(steps += n == 1 ? 2 : 5));
    ASSERT_EQ(ran.code, 0) << ran.text;
  }
  EXPECT_EQ(hash("parts"), hash("straight"));
  EXPECT_EQ(losses("parts"), losses("straight"));
  ASSERT_EQ(loss_scales("straight").size(), 12u);
  EXPECT_EQ(loss_scales("parts"), loss_scales("straight"));
  EXPECT_LT(loss_scales("straight")[1], 16777216) << "steps are left out before the first end";
  auto state = [&](const std::string& run) {
    return nlohmann::json::parse(read(path("runs/" + run + "/checkpoints/step_12/manifest.json")))["state"];
  };
  auto saved = [&](const std::string& run) {
    const auto found = state(run);
    return (found.is_string() ? nlohmann::json::parse(std::string(found)) : found)["loss_scale"];
  };
  ASSERT_TRUE(saved("straight").is_array());
  EXPECT_EQ(saved("straight").size(), 3u);
  EXPECT_EQ(saved("straight"), saved("parts"));
  EXPECT_EQ(lockstep("checkpoint diff runs/straight runs/parts").code, 0);
}

// The factor of the loss doubles behind as many finite steps as the configuration says, up to where it says.
TEST_F(Resume, LossScaleGrowsAsItIsTold) {
  const std::string train =
      "train gpt.toml --set log.evaluate_every=0 --set log.every=1 --set train.steps=9 --set train.precision=f16 --set "
      "train.loss_scale=8 --set checkpoint.every=5 ";
  auto scales = [&](const std::string& name, const std::string& keys) {
    const Ran ran = lockstep(train + keys + " --set run.name=" + name);
    EXPECT_EQ(ran.code, 0) << ran.text;
    return loss_scales(name);
  };
  EXPECT_EQ(scales("doubles", "--set train.loss_scale_interval=2 --set train.loss_scale_most=32"),
            (std::vector<double>{8, 16, 16, 32, 32, 32, 32, 32, 32}));
  EXPECT_EQ(scales("slowly", "--set train.loss_scale_interval=4"), (std::vector<double>{8, 8, 8, 16, 16, 16, 16, 32, 32}));
  EXPECT_EQ(scales("never", "--set train.loss_scale_interval=0"), std::vector<double>(9, 8.0));
}

TEST_F(Resume, KilledAtAnyMomentEndsWithTheSameWeights) {
  const std::string arguments = "gpt.toml --set train.steps=600 --set checkpoint.every=20 --set log.every=200";
  ASSERT_EQ(lockstep("train " + arguments + " --set run.name=straight").code, 0);
  const Told told = kill_and_resume(arguments, 4, 1.5, 1);
  EXPECT_EQ(told.kills, 4);
}

TEST_F(Resume, AsynchronousCheckpointsAreThoseThatWaited) {
  for (auto [way, name] : {std::pair{"true", "thread"}, std::pair{"false", "waited"}}) {
    const Ran ran = ranks(2, std::string("train gpt.toml --set checkpoint.keep=5 --set checkpoint.asynchronous=") + way +
                                 " --set run.name=" + name);
    ASSERT_EQ(ran.code, 0) << ran.text;
  }
  for (const char* step : {"4", "8", "12"}) {
    const std::string at = std::string("/checkpoints/step_") + step;
    const Ran same = lockstep("checkpoint diff runs/thread" + at + " runs/waited" + at);
    EXPECT_EQ(same.code, 0) << same.text;
  }
}

TEST_F(Resume, EveryMthCheckpointStays) {
  const Ran ran = lockstep("train gpt.toml --set checkpoint.every=1 --set checkpoint.keep=1 --set checkpoint.keep_every=5");
  ASSERT_EQ(ran.code, 0) << ran.text;
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(path("runs/gpt/checkpoints")))
    names.insert(entry.path().filename());
  EXPECT_EQ(names, (std::set<std::string>{"latest", "step_5", "step_10", "step_12"}));
}

TEST_F(Resume, CheckpointThatCannotBeWrittenIsALineAndTheRunGoesOn) {
  // Something lies where the checkpoints of steps 4 and 8 should get their names, and is gone for step 12.
  const std::string folder = path("runs/gpt/checkpoints");
  std::filesystem::create_directories(folder);
  write("runs/gpt/checkpoints/step_4", "in the way");
  write("runs/gpt/checkpoints/step_8", "in the way");
  const Ran ran = ranks(2, "train gpt.toml --set checkpoint.keep=5");
  EXPECT_EQ(ran.code, 0) << ran.text;
  EXPECT_TRUE(ran.says("step 4 was not saved, the run goes on: ") && ran.says("step 8 was not saved")) << ran.text;
  EXPECT_TRUE(std::filesystem::exists(folder + "/step_12/manifest.json"));
}

}  // namespace
}  // namespace lockstep::test
