#include "tests/launch/kill_resume.h"

namespace lockstep::test {
namespace {

/// The quickstart's GPT on made-up text, for fewer steps.
constexpr const char* quickstart_gpt = R"([data]
path = "text.h5"
[model]
kind = "gpt"
layers = 4
width = 160
heads = 4
length = 128
dropout = 0.1
[train]
steps = 50
lanes = 4
rows_per_lane = 2
reduction = "exact"
[optimizer]
rate = 3e-3
decay = 0.1
beta2 = 0.95
clip = 1.0
[schedule]
kind = "cosine"
warmup = 10
[checkpoint]
every = 4
keep = 2
[log]
every = 10
)";

TEST_F(KillResumeTest, QuickstartGptEndsWithTheSameWeightsAfterTwoHundredKills) {
  make_text();
  write("gpt.toml", quickstart_gpt);
  const Ran straight = lockstep("train gpt.toml --set run.name=straight");
  ASSERT_EQ(straight.code, 0) << straight.text;
  auto setting = [](const char* name, int otherwise) {
    const char* text = std::getenv(name);
    return text ? std::atoi(text) : otherwise;
  };
  const int kills = setting("LOCKSTEP_TEST_KILLS", 200), seed = setting("LOCKSTEP_TEST_SEED", 2026);
  const Told told = kill_and_resume("gpt.toml", kills, 4, unsigned(seed));
  std::printf("seed %d: %d kills, %d of them inside a checkpoint, in %d runs\n", seed, told.kills, told.in_checkpoints, told.runs);
  EXPECT_EQ(told.kills, kills);
  EXPECT_GE(told.in_checkpoints, kills / 5);
}

}  // namespace
}  // namespace lockstep::test
