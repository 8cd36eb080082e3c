#include "tests/launch/program.h"

namespace lockstep::test {
namespace {

// One run, for any number of ranks.
using AnyRanks = ProgramTest;

TEST_F(AnyRanks, ExactIsTheSameAtOneTwoAndFourRanks) {
  make_table();
  make_text();
  make_images();
  write("mlp.toml", mlp_toml);
  write("gpt.toml", gpt_toml);
  std::string images =
      "--set data.path=images.h5 --set train.rows_per_lane=2 --set train.steps=3 --set log.every=1 --set optimizer.rate=1e-3 ";
  struct Case {
    std::string name, arguments;
  };
  for (const auto& [name, arguments] :
       {Case{"mlp", "mlp.toml "}, Case{"gpt", "gpt.toml "},
        Case{"convnet", "mlp.toml --set model.kind=convnet --set model.features=[4,8] --set model.hidden=[8] " + images},
        Case{"resnet18", "mlp18.toml " + images}, Case{"bf16", "gpt.toml --set train.precision=bf16 --set train.gradient=bf16 "},
        Case{"masterless", "gpt.toml --set train.precision=bf16 --set train.masters=false "},
        Case{"masterless18", "mlp18.toml --set train.precision=f16 --set train.masters=false " + images},
        Case{"f16",
             "gpt.toml --set train.precision=f16 --set train.gradient=f16 --set train.loss_scale=16777216 --set log.every=1 "}}) {
    std::string plain = mlp_toml;  // resnet18 knows neither hidden nor dropout
    plain.replace(plain.find("kind = \"mlp\""), plain.find("[train]") - plain.find("kind = \"mlp\""), "kind = \"resnet18\"\n");
    write("mlp18.toml", plain);
    for (int n : {1, 2, 4}) {
      Ran ran = ranks(n, "train " + arguments + "--set train.update=whole --set run.name=" + name + std::to_string(n));
      ASSERT_EQ(ran.code, 0) << name << " at " << n << " ranks\n" << ran.text;
    }
    for (int n : {2, 4}) {
      Ran ran = ranks(n, "train " + arguments + "--set train.update=sharded --set run.name=" + name + "sharded");
      ASSERT_EQ(ran.code, 0) << name << " at " << n << " ranks\n" << ran.text;
      EXPECT_TRUE(ran.says("update: sharded")) << ran.text;
      EXPECT_EQ(hash(name + "1"), hash(name + "sharded")) << name << " at " << n << " ranks";
      EXPECT_EQ(losses(name + "1"), losses(name + "sharded")) << name;
      std::filesystem::remove_all(path("runs/" + name + "sharded"));
    }
    EXPECT_EQ(hash(name + "1"), hash(name + "2")) << name;
    EXPECT_EQ(hash(name + "1"), hash(name + "4")) << name;
    EXPECT_GE(losses(name + "1").size(), 3u);
    EXPECT_EQ(losses(name + "1"), losses(name + "2")) << name;
    EXPECT_EQ(losses(name + "1"), losses(name + "4")) << name;
  }
  std::vector<double> scales[3];
  for (int i : {0, 1, 2}) scales[i] = loss_scales("f16" + std::to_string(1 << i));
  ASSERT_EQ(scales[0].size(), 12u);
  EXPECT_LT(scales[0][0], 16777216) << "the first step overflows";
  EXPECT_EQ(scales[0][11], scales[0][10]) << "and the last does not";
  EXPECT_EQ(scales[0], scales[1]);
  EXPECT_EQ(scales[0], scales[2]);
}

TEST_F(AnyRanks, FastWorksAtThreeRanksAndSaysWhatIsLost) {
  make_table();
  write("mlp.toml", mlp_toml);
  for (int n : {1, 2, 3, 4}) {
    Ran ran = ranks(n, "train mlp.toml --set train.reduction=fast --set log.every=1 --set train.threads=1 --set run.name=fast" +
                           std::to_string(n));
    ASSERT_EQ(ran.code, 0) << ran.text;
    EXPECT_EQ(ran.says("33 % of their time is lost"), n == 3) << ran.text;
  }
  ASSERT_EQ(losses("fast1").size(), 20u);
  for (const char* other : {"fast2", "fast3", "fast4"})
    for (const auto& [step, loss] : losses("fast1"))
      EXPECT_NEAR(std::stod(loss), std::stod(losses(other)[step]), 1e-4) << other << ", step " << step;
}

}  // namespace
}  // namespace lockstep::test
