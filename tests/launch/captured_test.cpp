#include "tests/launch/program.h"

namespace lockstep::test {
namespace {

/// Runs whose steps are captured and replayed must be those that run call by call, to the last bit. On a CPU a captured step is a
/// list of kernels, so that all but CUDA's part of it is tested here.
struct Captured : ProgramTest {
  void expect_same(const std::string& name, const std::string& arguments) const {
    for (const char* way : {"no", "yes"}) {
      Ran ran = lockstep("train " + arguments +
                         " --set train.trace_steps=1 --set log.every=1 --set run.device=cpu --set run.name=" + name + way +
                         " --set train.captured=" + way);
      ASSERT_EQ(ran.code, 0) << ran.text;
      const bool captured = read(path("runs/" + name + way + "/log.rank0")).find("captured and replayed") != std::string::npos;
      EXPECT_EQ(captured, std::string(way) == "yes") << ran.text;
    }
    EXPECT_EQ(losses(name + "no"), losses(name + "yes"));
    EXPECT_EQ(hash(name + "no"), hash(name + "yes"));
    auto norms = [&](const std::string& run) {
      std::string all;
      for (const auto& line : metrics(run))
        if (line.contains("train/grad_norm"))
          all += line["train/grad_norm"].dump() + " " + line["lr"].dump() + " " +
                 std::to_string(line.value("train/loss_scale", 0.0)) + "\n";
      return all;
    };
    EXPECT_EQ(norms(name + "no"), norms(name + "yes"));
  }
};

TEST_F(Captured, TextIsLearntAlike) {
  make_text();
  write("gpt.toml", gpt_toml);
  expect_same("f32", "gpt.toml --set train.steps=20");
  expect_same("bf16",
              "gpt.toml --set train.steps=20 --set train.threads=1 --set train.precision=bf16 --set train.recompute=true --set "
              "train.reduction=fast");
  expect_same("f16",
              "gpt.toml --set train.steps=20 --set train.precision=f16 --set train.loss_scale=16777216 --set "
              "train.reduction=fast");
  expect_same("masterless",
              "gpt.toml --set train.steps=20 --set train.threads=1 --set train.precision=bf16 --set train.masters=false");
  const auto scales = loss_scales("f16yes");
  ASSERT_EQ(scales.size(), 20u);
  EXPECT_LT(scales.back(), 16777216) << "steps were skipped";
}

TEST_F(Captured, ImagesAreLearntAlike) {
  make_images();
  write("convnet.toml", R"([data]
path = "images.h5"
[model]
kind = "convnet"
features = [4, 8]
hidden = [16]
dropout = 0.2
[train]
steps = 20
lanes = 2
rows_per_lane = 4
[optimizer]
kind = "sgd"
momentum = 0.9
rate = 1e-2
)");
  expect_same("convnet", "convnet.toml");
}

// Steps that lack rows run call by call between replays, and say so.
TEST_F(Captured, PartialStepsRunCallByCall) {
  make_table();
  write("mlp.toml", mlp_toml);
  expect_same("mlp",
              "mlp.toml --set data.tail=partial --set train.rows_per_lane=3 --set train.steps=30 --set log.evaluate_every=7");
  EXPECT_NE(read(path("runs/mlpyes/log.rank0")).find("lacks rows"), std::string::npos);
}

TEST_F(Captured, WhatCannotBeCapturedIsSaid) {
  make_table();
  write("mlp.toml", mlp_toml);
  Ran ran = ranks(2, "train mlp.toml --set run.device=cpu --set train.captured=yes");
  EXPECT_EQ(ran.code, 64) << ran.text;
  EXPECT_TRUE(ran.says("made by the host")) << ran.text;
  ran = ranks(2, "train mlp.toml --set run.device=cpu");  // auto
  EXPECT_EQ(ran.code, 0) << ran.text;
  EXPECT_FALSE(ran.says("captured")) << ran.text;
  for (int steps : {11, 12}) {  // nine settle, two are traced
    ran = lockstep("train mlp.toml --set run.device=cpu --set train.captured=yes --set train.trace_steps=2 --set train.steps=" +
                   std::to_string(steps));
    EXPECT_EQ(ran.code, 0) << ran.text;
    EXPECT_EQ(ran.says("steps are not captured: the first that could be is 12, and the run ends with 11"), steps == 11) << ran.text;
  }
}

}  // namespace
}  // namespace lockstep::test
