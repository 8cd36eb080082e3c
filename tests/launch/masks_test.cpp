// Training where not every target counts, against the same arithmetic with those targets taken out by hand.

#include "core/nn/gpt.h"
#include "io/loader.h"
#include "launch/models.h"
#include "tests/io/files.h"
#include "tests/launch/program.h"
#include "tests/support/devices.h"
#include "tests/support/model.h"

namespace lockstep::test {
namespace {

using Masks = ProgramTest;

// ---- losses and gradients

TEST(MaskedTokens, LossAndGradientAreThoseOfRowsCutByHand) {
  NEEDS_H5PY();
  Folder folder;
  const int rows = 6, places = 9, vocabulary = 11, lengths[rows] = {9, 2, 1, 7, 4, 5};
  auto token = [](int row, int i) { return (row * 7 + i * i * 3) % 11; };
  python(folder, R"(
t = np.array([[(r * 7 + i * i * 3) % 11 for i in range(9)] for r in range(6)])
f = h5.File('data.h5', 'w')
f['input_ids'], f['attention_mask'] = t, np.arange(9) < np.array([[9], [2], [1], [7], [4], [5]])
)");
  auto group = solo_group();
  const auto data = io::open_dataset({.paths = {folder / "data.h5"}}, *group);
  for (auto& device : devices()) {
    ParameterSet set(*device);
    nn::Gpt model(set, {.vocabulary = vocabulary, .length = places - 1, .layers = 2, .width = 16, .heads = 2});
    Placed placed(set);
    double loss = 0, by_hand = 0, weight = 0;
    io::Loader loader(*data.train, *device, {.lanes = 3, .lane_count = 3, .rows_per_lane = 2, .shuffle = io::Shuffle::none});
    const double total = loader.step_weight();
    for (int lane = 0; lane < 3; ++lane) {
      const io::Batch batch = loader.next_lane();
      Tape tape(*device);
      const Tensor sum = launch::batch_loss(tape, model.forward(tape, batch.inputs), batch, 0.1f);
      tape.backward(sum, float(1 / total));
      loss += double(download(device->queue(), sum)[0]);
    }
    const auto gradient = placed.gradients;
    const auto masked = download(device->queue(), gradient);

    placed.clear();
    for (int row = 0; row < rows; ++row) weight += lengths[row] - 1;
    for (int row = 0; row < rows; ++row) {
      const int n = lengths[row] - 1;
      if (n == 0) continue;
      std::vector<std::int32_t> inputs, targets;
      for (int i = 0; i < n; ++i) inputs.push_back(token(row, i)), targets.push_back(token(row, i + 1));
      Tape tape(*device);
      const Tensor sum = ops::cross_entropy(tape, model.forward(tape, make_indices(*device, {1, n}, inputs)),
                                            make_indices(*device, {1, n}, targets), {.label_smoothing = 0.1f});
      tape.backward(sum, float(1 / weight));
      by_hand += double(download(device->queue(), sum)[0]);
    }
    EXPECT_EQ(total, weight);
    EXPECT_NEAR(loss, by_hand, 1e-5 * by_hand);
    const auto cut = download(device->queue(), gradient);
    ASSERT_EQ(masked.size(), cut.size());
    double difference = 0, norm = 0;
    for (std::size_t i = 0; i < cut.size(); ++i) difference += std::pow(masked[i] - cut[i], 2), norm += std::pow(cut[i], 2);
    EXPECT_GT(norm, 1e-4);
    EXPECT_LT(std::sqrt(difference / norm), 1e-5);
  }
}

// ---- whole runs

/// table.h5: 32 rows, of which those in `ignored` have the class -100; cut.h5: the same without them.
const char* const tables = R"(
np.random.seed(4)
x, y = np.random.randn(32, 3).astype('f4'), np.random.randint(0, 3, 32)
y[[0, 1, 2, 3, 4, 9, 17, 21, 22, 30]] = -100
for name, kept in [('table.h5', y > -1000), ('cut.h5', y >= 0)]:
    f = h5.File(name, 'w')
    for part in ['train', 'validation']:
        f[part + '/x'], f[part + '/y'] = x[kept], y[kept]
        f[part + '/y'].attrs['classes'] = 3
    f.close()
)";

TEST_F(Masks, ARunIsThatOfTheCountedRows) {
  NEEDS_H5PY();
  Folder scripts;
  python(scripts, tables);
  std::filesystem::copy(scripts.path, folder_, std::filesystem::copy_options::recursive);
  write("mlp.toml", mlp_toml);
  const std::string common =
      "train mlp.toml --set model.dropout=0 --set data.shuffle=none --set log.every=1 --set train.steps=6 "
      "--set log.evaluate_every=3 --set optimizer.kind=sgd --set optimizer.clip=0 --set optimizer.rate=0.1 ";
  Ran masked = ranks(2, common + "--set data.path=table.h5 --set train.rows_per_lane=8 --set run.name=masked");
  ASSERT_EQ(masked.code, 0) << masked.text;
  Ran cut = lockstep(common + "--set data.path=cut.h5 --set train.lanes=1 --set train.rows_per_lane=22 --set run.name=cut");
  ASSERT_EQ(cut.code, 0) << cut.text;
  const auto a = metrics("masked"), b = metrics("cut");
  ASSERT_EQ(a.size(), b.size());
  int compared = 0;
  for (std::size_t i = 0; i < a.size(); ++i)
    for (const char* key : {"train/loss", "train/grad_norm", "val/loss", "val/accuracy"})
      if (b[i].contains(key)) {
        EXPECT_NEAR(double(a[i][key]), double(b[i][key]), 2e-6) << key << " in line " << i;
        ++compared;
      }
  EXPECT_EQ(compared, 6 * 2 + 2 * 2);
}

TEST_F(Masks, ExactIsTheSameAtAnyRankCountWithUnevenLanes) {
  NEEDS_H5PY();
  Folder scripts;
  python(scripts, std::string(tables) + R"(
t = np.random.randint(0, 30, (40, 17))
lengths = np.sort(np.random.randint(0, 18, 40))   # lane 0 has the shortest rows
f = h5.File('text.h5', 'w')
for part, rows in [('train', slice(0, 36)), ('validation', slice(32, 40))]:
    f[part + '/input_ids'], f[part + '/attention_mask'] = t[rows], (np.arange(17) < lengths[:, None])[rows]
f.close()
)");
  std::filesystem::copy(scripts.path, folder_, std::filesystem::copy_options::recursive);
  write("mlp.toml", mlp_toml);
  write("gpt.toml", gpt_toml);
  for (const auto& [name, arguments] : {std::pair<std::string, std::string>{"gpt", "gpt.toml --set data.shuffle=none "},
                                        {"partial", "gpt.toml --set data.tail=partial --set train.rows_per_lane=4 "},
                                        {"mlp", "mlp.toml --set data.shuffle=full --set train.rows_per_lane=3 "}}) {
    for (int n : {1, 2, 4}) {
      Ran ran = ranks(n, "train " + arguments + "--set log.every=1 --set run.name=" + name + std::to_string(n));
      ASSERT_EQ(ran.code, 0) << name << " at " << n << " ranks\n" << ran.text;
    }
    EXPECT_EQ(hash(name + "1").size(), 32u);
    for (const char* n : {"2", "4"}) {
      EXPECT_EQ(hash(name + "1"), hash(name + n)) << name;
      EXPECT_EQ(losses(name + "1"), losses(name + n)) << name;
    }
  }
  Ran resumed = ranks(4, "train gpt.toml --resume --set run.name=gpt2 --set data.shuffle=none --set data.ignore=3");
  EXPECT_EQ(resumed.code, 64) << resumed.text;
  EXPECT_TRUE(resumed.says("data.ignore was -100")) << resumed.text;
}

TEST_F(Masks, AStepWithoutTargetsChangesNothingAndIsSaid) {
  NEEDS_H5PY();
  Folder scripts;
  python(scripts, R"(
np.random.seed(4)
f = h5.File('table.h5', 'w')
f['x'], y = np.random.randn(32, 3), np.random.randint(0, 2, 32)
y[np.arange(32) % 8 < 4] = -1   # each lane goes through eight rows of its own
f['y'] = y
f['test/x'], f['test/y'] = np.ones((2, 3)), [-1, -1]
)");
  std::filesystem::copy(scripts.path, folder_, std::filesystem::copy_options::recursive);
  write("mlp.toml", mlp_toml);
  Ran ran = ranks(2,
                  "train mlp.toml --set data.ignore=-1 --set data.validation=none --set data.shuffle=none --set log.every=1 "
                  "--set train.steps=4");
  ASSERT_EQ(ran.code, 0) << ran.text;
  EXPECT_TRUE(ran.says("step 1: none of its targets counts")) << ran.text;
  EXPECT_FALSE(ran.says("step 3: none")) << ran.text;
  const auto lines = metrics("mlp");
  EXPECT_EQ(double(lines[0]["train/loss"]), 0);
  EXPECT_EQ(double(lines[0]["train/grad_norm"]), 0);
  EXPECT_GT(double(lines[1]["train/loss"]), 0.1);
  EXPECT_GT(double(lines[1]["train/grad_norm"]), 1e-3);
  Ran nothing = lockstep("train mlp.toml --set data.ignore=-1 --set log.evaluate_every=1 --set run.name=nothing");
  EXPECT_EQ(nothing.code, 65) << nothing.text;
  EXPECT_TRUE(nothing.says("no target counts in the 2 rows of")) << nothing.text;
}

}  // namespace
}  // namespace lockstep::test
