#include <cmath>

#include "tests/launch/program.h"

namespace lockstep::test {
namespace {

/// The order of rows as a run shows it: shuffle, tail and mixture of [data].
class RunOrder : public ProgramTest {
 protected:
  /// odd.h5: 158 rows, two more than three steps of 4 lanes x 13 rows.
  void make_odd_table() const {
    make_table();
    Ran ran = lockstep("data csv table.csv -o odd.h5 --validation 0.21");
    ASSERT_EQ(ran.code, 0) << ran.text;
  }
  void train(int n, const std::string& name, const std::string& arguments) const {
    Ran ran = ranks(n, "train mlp.toml --set log.every=1 --set run.name=" + name + " " + arguments);
    ASSERT_EQ(ran.code, 0) << arguments << "\n" << ran.text;
  }
  /// The same run at 1, 2 and 4 ranks, and one that was stopped at 2 ranks and goes on at 4.
  void expect_exact(const std::string& name, const std::string& arguments) const {
    for (int n : {1, 2, 4}) {
      train(n, name + std::to_string(n), arguments);
      ASSERT_EQ(hash(name + std::to_string(n)), hash(name + "1")) << n << " ranks";
      ASSERT_EQ(losses(name + std::to_string(n)), losses(name + "1")) << n << " ranks";
    }
    const std::string last = metrics(name + "2").back()["step"].dump();
    std::filesystem::remove_all(path("runs/" + name + "2/checkpoints/step_" + last));
    train(4, name + "2", "--resume " + arguments);
    EXPECT_EQ(hash(name + "2"), hash(name + "1")) << "resumed";
    EXPECT_EQ(losses(name + "2"), losses(name + "1")) << "resumed";
  }
};

const std::string odd = "--set data.path=odd.h5 --set train.rows_per_lane=13 --set checkpoint.every=3 ";

TEST_F(RunOrder, StepsWithFewRowsAndEmptyLanesAreExact) {
  make_odd_table();
  write("mlp.toml", mlp_toml);
  expect_exact("partial", odd + "--set data.tail=partial --set data.shuffle=window --set data.window=30 --set train.steps=10");
  EXPECT_EQ(losses("partial1").size(), 10u);
}

TEST_F(RunOrder, BatchNormPassesOverEmptyLanes) {
  make_images();
  Ran made = lockstep("data idx --images images.idx --labels labels.idx -o odd.h5 --validation 0.22");
  ASSERT_EQ(made.code, 0) << made.text;
  std::string plain = mlp_toml;  // resnet18 knows neither hidden nor dropout
  plain.replace(plain.find("kind = \"mlp\""), plain.find("[train]") - plain.find("kind = \"mlp\""), "kind = \"resnet18\"\n");
  write("mlp.toml", plain);
  // 50 rows in steps of 4 lanes x 4 rows: the fourth has two.
  const std::string arguments =
      "--set data.path=odd.h5 --set train.rows_per_lane=4 --set data.tail=partial --set train.steps=5 --set optimizer.rate=1e-3";
  train(1, "one", arguments);
  train(4, "four", arguments);
  EXPECT_EQ(hash("four"), hash("one"));
  EXPECT_EQ(losses("four"), losses("one"));
}

// With nothing learned and nothing random, the losses of an epoch's steps, weighted by their rows, are the loss of the epoch.
TEST_F(RunOrder, LossesAreMeansOfTheRowsThatCame) {
  make_odd_table();
  write("mlp.toml", mlp_toml);
  const std::string still =
      odd + "--set data.tail=partial --set model.dropout=0 --set optimizer.rate=0 --set checkpoint.every=0 ";
  train(1, "steps", still + "--set train.steps=4");
  train(1, "whole", still + "--set train.steps=1 --set train.lanes=1 --set train.rows_per_lane=158");
  auto steps = losses("steps"), whole = losses("whole");
  ASSERT_EQ(steps.size(), 4u);
  ASSERT_EQ(whole.size(), 1u);
  double sum = 0;
  for (const auto& [step, loss] : steps) sum += std::stod(loss) * (step == 4 ? 2 : 52);
  EXPECT_NEAR(sum / 158, std::stod(whole[1]), 1e-6);
  // Lanes of 40, 40, 39 and 39 rows learn what one lane of 158 learns.
  const std::string learn = odd + "--set data.tail=partial --set model.dropout=0 --set train.steps=6 --set checkpoint.every=0 ";
  train(1, "four", learn + "--set train.rows_per_lane=40");
  train(1, "one", learn + "--set train.lanes=1 --set train.rows_per_lane=158");
  auto four = losses("four"), one = losses("one");
  EXPECT_GT(std::abs(std::stod(one[6]) - std::stod(one[1])), 1e-2);
  for (const auto& [step, loss] : one) EXPECT_NEAR(std::stod(loss), std::stod(four[step]), 1e-5) << step;
}

TEST_F(RunOrder, MixturesAreExact) {
  make_odd_table();
  write("mlp.toml", mlp_toml);
  const std::string arguments =
      "--set 'data.mixture=[{path=\"odd.h5\", weight=3}, {path=\"table.h5\"}]' --set train.rows_per_lane=3 --set train.steps=12 "
      "--set checkpoint.every=8 ";
  std::string plain = mlp_toml;
  plain.erase(plain.find("path ="), plain.find("[model]") - plain.find("path ="));
  write("mlp.toml", plain);
  expect_exact("mixed", arguments);
  Ran evaluated = lockstep("evaluate runs/mixed1");
  EXPECT_EQ(evaluated.code, 0) << evaluated.text;
  EXPECT_TRUE(evaluated.says("(82 rows)")) << evaluated.text;  // 42 + 40: the validation rows of both
  Ran changed = lockstep(
      "train mlp.toml --resume --set run.name=mixed1 --set train.rows_per_lane=3 --set train.steps=20 "
      "--set 'data.mixture=[{path=\"odd.h5\", weight=2}, {path=\"table.h5\"}]'");
  EXPECT_EQ(changed.code, 64) << changed.text;
  EXPECT_TRUE(changed.says("data.mixture")) << changed.text;
}

TEST_F(RunOrder, ChangesAreRefusedOnResume) {
  make_odd_table();
  write("mlp.toml", mlp_toml);
  const std::string run = "train mlp.toml --set run.name=same " + odd;
  ASSERT_EQ(lockstep(run).code, 0);
  EXPECT_NE(read(path("runs/same/config.toml")).find("shuffle = \"full\""), std::string::npos);
  for (const char* change : {"data.shuffle=false", "data.shuffle=window", "data.tail=drop"}) {
    Ran ran = lockstep(run + "--resume --set " + change);
    EXPECT_EQ(ran.code, 64) << change << "\n" << ran.text;
    EXPECT_TRUE(ran.says(std::string(change).substr(0, std::string(change).find('=')) + " was")) << ran.text;
  }
  EXPECT_EQ(lockstep(run + "--resume --set data.shuffle=true").code, 0);  // what automatic was
}

}  // namespace
}  // namespace lockstep::test
