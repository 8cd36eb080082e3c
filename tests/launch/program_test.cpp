#include "tests/launch/program.h"

#include "io/hdf5.h"

namespace lockstep::test {
namespace {

using Program = ProgramTest;

// ---- what is asked of the command line

TEST_F(Program, HelpFitsAScreenAndShowsAnExample) {
  for (const char* command :
       {"", "train", "evaluate", "sample", "data", "data text", "data idx", "data csv", "data images", "data inspect",
        "data verify", "checkpoint", "checkpoint inspect", "checkpoint verify", "plot", "doctor"}) {
    Ran ran = lockstep(std::string(command) + " --help");
    EXPECT_EQ(ran.code, 0) << command;
    EXPECT_TRUE(ran.says("Example")) << command << "\n" << ran.text;
    EXPECT_LE(std::count(ran.text.begin(), ran.text.end(), '\n'), 30) << command << "\n" << ran.text;
  }
}

TEST_F(Program, VersionNamesEverything) {
  Ran ran = lockstep("--version");
  EXPECT_EQ(ran.code, 0);
  for (const char* name : {"lockstep", "compiler", "MPI", "CUDA", "NCCL", "cuDNN", "HDF5", "oneDNN"})
    EXPECT_TRUE(ran.says(name)) << name << "\n" << ran.text;
}

TEST_F(Program, DoctorSpeaksAloneAndUnderMpirun) {
  Ran alone = lockstep("doctor");
  EXPECT_EQ(alone.code, 0) << alone.text;
  EXPECT_TRUE(alone.says("/dev/shm")) << alone.text;
  EXPECT_TRUE(alone.says("products     ")) << alone.text;
  Ran two = ranks(2, "doctor");
  EXPECT_EQ(two.code, 0) << two.text;
  EXPECT_TRUE(two.says("rank 0") && two.says("rank 1")) << two.text;
}

TEST_F(Program, MistakesOnTheCommandLineAre64) {
  struct Case {
    const char *arguments, *says;
  };
  for (auto [arguments, says] :
       {Case{"", "command is required"}, Case{"trian x.toml", "did you mean train?"}, Case{"train", "config is required"},
        Case{"train a.toml b.toml", "b.toml"}, Case{"train nosuch.toml", "nosuch.toml: there is no such configuration file"},
        Case{"data tex", "did you mean text?"}, Case{"data text", "required"}, Case{"sample --length -3 runs/x", "--length"}}) {
    Ran ran = lockstep(arguments);
    EXPECT_EQ(ran.code, 64) << arguments << "\n" << ran.text;
    EXPECT_TRUE(ran.says(says)) << arguments << "\n" << ran.text;
    EXPECT_EQ(std::count(ran.text.begin(), ran.text.end(), '\n'), 1) << ran.text;
  }
}

TEST_F(Program, PrintConfigShowsTheWhole) {
  write("mlp.toml", mlp_toml);
  Ran ran = lockstep("train mlp.toml --print-config --set train.steps=7");
  EXPECT_EQ(ran.code, 0);
  EXPECT_TRUE(ran.says("steps = 7")) << ran.text;
  EXPECT_FALSE(std::filesystem::exists(path("runs")));
}

// ---- bad input is met before training, in one sentence

struct BadInput : Program {
  void SetUp() override {
    Program::SetUp();
    make_table();
    write("mlp.toml", mlp_toml);
  }
  /// The same refusal alone and at two ranks; said once; no run folder is begun.
  void expect_refusal(const std::string& arguments, int code, const std::vector<std::string>& says) {
    for (int n : {1, 2}) {
      Ran ran = n == 1 ? lockstep("train " + arguments) : ranks(n, "train " + arguments);
      EXPECT_EQ(ran.code, code) << n << " ranks: " << arguments << "\n" << ran.text;
      for (const std::string& words : says)
        EXPECT_TRUE(ran.says(words)) << n << " ranks: wanted \"" << words << "\"\n" << ran.text;
      std::size_t first = ran.text.find("lockstep: ");
      EXPECT_NE(first, std::string::npos) << ran.text;
      EXPECT_EQ(ran.text.find("lockstep: ", first + 1), std::string::npos) << ran.text;
      EXPECT_LT(ran.seconds, 20);
    }
    EXPECT_FALSE(std::filesystem::exists(path("runs/mlp/metrics.jsonl")));
  }
};

TEST_F(BadInput, MissingFile) {
  expect_refusal("mlp.toml --set data.path=nosuch.h5", 65, {"nosuch.h5"});
}

TEST_F(BadInput, WrongDatasetNameListsWhatIsThere) {
  expect_refusal("mlp.toml --set data.inputs=train/pixels", 65, {"train/pixels", "train/x"});
}

TEST_F(BadInput, Truncated) {
  std::string bytes = read(path("table.h5"));
  write("cut.h5", bytes.substr(0, bytes.size() / 2));
  expect_refusal("mlp.toml --set data.path=cut.h5", 65, {"cut.h5"});
}

TEST_F(BadInput, Garbled) {
  std::string bytes = read(path("table.h5"));
  std::mt19937 generator(5);
  for (std::size_t i = 64; i < bytes.size(); i += 1 + generator() % 7) bytes[i] = char(generator());
  write("garbled.h5", bytes);
  expect_refusal("mlp.toml --set data.path=garbled.h5", 65, {"garbled.h5"});
}

TEST_F(BadInput, NaNInData) {
  auto file = io::hdf5::File::create(path("nan.h5"));
  std::vector<float> x(300, 1.f);
  x[157] = NAN;
  std::vector<std::int32_t> y(100, 1);
  file.create_dataset("x", io::hdf5::Element::f32, {100, 3}).write(io::hdf5::Element::f32, 0, 100, x.data());
  file.create_dataset("y", io::hdf5::Element::i32, {100}).write(io::hdf5::Element::i32, 0, 100, y.data());
  file.close();
  expect_refusal("mlp.toml --set data.path=nan.h5", 65, {"nan.h5", "52"});  // row 52 holds it
}

TEST_F(BadInput, UnknownKeyAndWrongType) {
  expect_refusal("mlp.toml --set train.lane=2", 64, {"did you mean train.lanes?"});
  expect_refusal("mlp.toml --set train.lanes=two", 64, {"train.lanes must be a whole number"});
}

TEST_F(BadInput, ModelThatCannotReadTheData) {
  expect_refusal("mlp.toml --set model.kind=convnet --set model.hidden=[8]", 64, {"convnet reads images"});
}

TEST_F(BadInput, RankCountThatExactCannotServe) {
  Ran ran = ranks(3, "train mlp.toml");
  EXPECT_EQ(ran.code, 64) << ran.text;
  EXPECT_TRUE(ran.says("1, 2 or 4")) << ran.text;
}

TEST_F(BadInput, SeveralSlurmTasksWithoutMpi) {
  Ran ran = shell("SLURM_NTASKS=4 SLURM_PROCID=0 timeout 60 " + program + " train mlp.toml");
  EXPECT_EQ(ran.code, 64) << ran.text;
  EXPECT_TRUE(ran.says("4 tasks")) << ran.text;
}

TEST_F(BadInput, LossThatBlowsUp) {
  Ran ran =
      ranks(2, "train mlp.toml --set optimizer.kind=sgd --set optimizer.rate=1e30 --set optimizer.clip=0 --set model.dropout=0");
  EXPECT_EQ(ran.code, 87) << ran.text;
  EXPECT_TRUE(ran.says("step ")) << ran.text;
}

/// Two ranks that are told different things.
std::string two_lines(const std::string& first, const std::string& second) {
  const std::string rank = " -n 1 " + program + " train ";
  return "timeout 60 mpirun" + rank + first + " :" + rank + second;
}

TEST_F(BadInput, RanksWithDifferentModelsAreNamed) {
  Ran ran = shell(two_lines("mlp.toml", "mlp.toml --set model.hidden=[17]"));
  EXPECT_EQ(ran.code, 88) << ran.text;
  EXPECT_TRUE(ran.says("rank 1") && ran.says("layers.")) << ran.text;
}

TEST_F(BadInput, RankThatFailsAloneEndsAllWithOneMessage) {
  // Before MPI has started, and after.
  for (const char* wrong : {"nosuch.toml", "mlp.toml --set run.device=cuda"}) {
    Ran ran = shell(two_lines("mlp.toml", wrong));
    if (ran.code == 0) GTEST_SKIP() << "this machine has GPUs";
    EXPECT_EQ(ran.code, 64) << ran.text;
    EXPECT_TRUE(ran.says("lockstep: rank 1 on ")) << ran.text;
    EXPECT_FALSE(ran.says("lockstep: rank 0 on ")) << ran.text;
    EXPECT_LT(ran.seconds, 20);
  }
}

TEST_F(BadInput, RunThatIsNotThere) {
  EXPECT_EQ(lockstep("evaluate runs/nosuch").code, 65);
  EXPECT_EQ(lockstep("sample runs/nosuch").code, 65);
  EXPECT_EQ(lockstep("plot runs/nosuch").code, 65);
  EXPECT_EQ(lockstep("checkpoint verify runs/nosuch").code, 65);
  EXPECT_EQ(lockstep("data inspect nosuch.h5").code, 65);
}

}  // namespace
}  // namespace lockstep::test
