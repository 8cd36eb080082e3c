// The program trains on the emulated GPU as it does on the processor: the same losses but for rounding, and to the last bit the
// same whether steps are captured, how many ranks there are, and whether a run was interrupted.

#include <cmath>

#include "tests/launch/program.h"

namespace lockstep::test {
namespace {

struct Training : ProgramTest {
  /// Trains in runs/<name>; the run must succeed.
  Ran train(const std::string& name, const std::string& arguments, int n = 1) const {
    const std::string all = "train " + arguments + " --set run.name=" + name;
    Ran ran = n == 1 ? lockstep(all) : ranks(n, all);
    EXPECT_EQ(ran.code, 0) << name << ": " << ran.text;
    return ran;
  }
  std::string log(const std::string& name) const { return read(path("runs/" + name + "/log.rank0")); }

  void expect_close(const std::string& one, const std::string& other, double tolerance) const {
    const auto a = losses(one), b = losses(other);
    ASSERT_EQ(a.size(), b.size());
    ASSERT_FALSE(a.empty());
    for (auto& [step, loss] : a) {
      const double x = std::stod(loss), y = std::stod(b.at(step));
      EXPECT_LE(std::abs(x - y), tolerance * std::abs(y))
          << one << " and " << other << " at step " << step << ": " << x << ", " << y;
    }
  }
  void expect_same(const std::string& one, const std::string& other) const {
    EXPECT_EQ(losses(one), losses(other)) << one << " and " << other;
    EXPECT_EQ(hash(one), hash(other)) << one << " and " << other;
    EXPECT_NE(hash(one), "none");
  }
  /// The same run on the processor, and on the GPU call by call and captured.
  void expect_alike(const std::string& name, const std::string& arguments, double tolerance) const {
    const std::string base =
        arguments + " --set train.steps=16 --set log.every=1 --set train.products=first --set train.trace_steps=1";
    train(name + "_cpu", base + " --set run.device=cpu");
    train(name + "_calls", base + " --set run.device=cuda --set train.captured=no");
    Ran ran = train(name + "_captured", base + " --set run.device=cuda --set train.captured=yes");
    EXPECT_TRUE(ran.says("emulated GPU")) << ran.text;
    EXPECT_NE(log(name + "_captured").find("captured and replayed"), std::string::npos);
    EXPECT_EQ(log(name + "_calls").find("captured and replayed"), std::string::npos);
    expect_same(name + "_calls", name + "_captured");
    expect_close(name + "_calls", name + "_cpu", tolerance);
  }
};

const std::string gpt = "gpt.toml --set log.evaluate_every=8 --set log.evaluate_batches=2 ";
const std::string on_gpu = "--set train.steps=8 --set run.device=cuda --set log.every=1 --set train.products=first ";

TEST_F(Training, Mlp) {
  make_table();
  write("mlp.toml", mlp_toml);
  expect_alike("f32", "mlp.toml", 1e-4);
  expect_alike("bf16", "mlp.toml --set train.precision=bf16 --set train.reduction=fast", 1e-2);
}

TEST_F(Training, Images) {
  make_images();
  write("convnet.toml", R"([data]
path = "images.h5"
[model]
kind = "convnet"
features = [4, 8]
hidden = [16]
[train]
lanes = 2
rows_per_lane = 4
[optimizer]
kind = "sgd"
momentum = 0.9
rate = 1e-2
)");
  expect_alike("convnet", "convnet.toml", 1e-4);
}

TEST_F(Training, GptInF32) {
  make_text();
  write("gpt.toml", gpt_toml);
  expect_alike("f32", gpt, 1e-4);
}
TEST_F(Training, GptInBf16) {
  make_text();
  write("gpt.toml", gpt_toml);
  expect_alike("bf16", gpt + "--set train.precision=bf16 --set train.recompute=true --set train.reduction=fast", 1e-2);
}
TEST_F(Training, GptInF16) {
  make_text();
  write("gpt.toml", gpt_toml);
  expect_alike("f16", gpt + "--set train.precision=f16 --set train.loss_scale=16777216 --set train.reduction=fast", 1e-2);
  const auto scales = loss_scales("f16_captured");
  ASSERT_EQ(scales.size(), 16u);
  EXPECT_LT(scales.back(), 16777216) << "steps were left out inside a captured step";
}

// Two processes, each with an emulated GPU's memory of its own, that take the GPU for one.
TEST_F(Training, TwoRanksThatShareTheGpu) {
  make_text();
  write("gpt.toml", gpt_toml);
  const std::string base = gpt + on_gpu + "--set checkpoint.every=0 ";
  train("one", base);
  Ran ran = train("two", base, 2);
  EXPECT_TRUE(ran.says("share a GPU")) << ran.text;
  expect_same("two", "one");
  train("sharded", base + "--set train.update=sharded", 2);
  expect_same("sharded", "one");
}

TEST_F(Training, WhatWasSavedGoesOnAndIsReadOnTheProcessor) {
  make_text();
  write("gpt.toml", gpt_toml);
  const std::string base = gpt + on_gpu + "--set schedule.kind=constant ";
  train("straight", base);
  train("parts", base + "--set train.steps=4");
  train("parts", base + "--resume", 2);
  expect_same("parts", "straight");
  auto loss = [&](const char* device) {
    const Ran ran = lockstep("evaluate runs/parts --batches 2 --device " + std::string(device));
    EXPECT_EQ(ran.code, 0) << ran.text;
    const auto at = ran.text.find("loss ");
    return at == std::string::npos ? NAN : std::stod(ran.text.substr(at + 5));
  };
  const double gpu = loss("cuda"), cpu = loss("cpu");
  EXPECT_NEAR(gpu, cpu, 1e-4 * cpu);
}

// Algorithms of products that were timed are remembered and followed, by this run's ranks and by later runs.
TEST_F(Training, ProductsAreSearchedOnce) {
  make_table();
  write("mlp.toml", mlp_toml);
  const std::string base = "mlp.toml --set run.device=cuda --set log.every=1 --set train.products=";
  setenv("XDG_CACHE_HOME", path("cache").c_str(), 1);
  train("first", base + "first");
  const Ran searched = train("searched", base + "search"), again = train("again", base + "search", 2);
  unsetenv("XDG_CACHE_HOME");
  EXPECT_FALSE(log("searched").find(" 0 of them timed now") != std::string::npos) << searched.text;
  EXPECT_TRUE(log("again").find(" 0 of them timed now") != std::string::npos) << again.text;
  expect_same("searched", "first");  // all that the emulated library offers give the same
  expect_same("again", "first");
}

}  // namespace
}  // namespace lockstep::test
