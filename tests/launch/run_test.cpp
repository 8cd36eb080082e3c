#include <signal.h>

#include <algorithm>
#include <thread>

#include "tests/launch/program.h"

namespace lockstep::test {
namespace {

struct Run : ProgramTest {
  /// Ranks of a run that is still going, by the folder they work in.
  std::vector<pid_t> processes() const {
    std::vector<pid_t> found;
    for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
      std::string name = entry.path().filename();
      if (name.find_first_not_of("0123456789") != std::string::npos) continue;
      std::error_code error;
      if (std::filesystem::read_symlink(entry.path() / "cwd", error) != std::filesystem::canonical(folder_) || error) continue;
      if (std::filesystem::read_symlink(entry.path() / "exe", error) ==
          std::filesystem::canonical(place("LOCKSTEP_PROGRAM", LOCKSTEP_PROGRAM)))
        found.push_back(std::stoi(name));
    }
    return found;
  }
  /// Waits until the metrics of a run have `lines` lines.
  bool await_lines(const std::string& run, std::size_t lines) const {
    for (int i = 0; i < 600; ++i) {
      std::string text = read(path("runs/" + run + "/metrics.jsonl"));
      if (std::size_t(std::count(text.begin(), text.end(), '\n')) >= lines) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return false;
  }
};

// ---- the folder of a run

TEST_F(Run, LeavesWhatTheContractNames) {
  make_table();
  write("mlp.toml", mlp_toml);
  Ran ran = ranks(2, "train mlp.toml --set log.evaluate_every=10");
  ASSERT_EQ(ran.code, 0) << ran.text;
  EXPECT_EQ(ran.text.find('\x1b'), std::string::npos) << "escape codes in a file";
  EXPECT_TRUE(ran.says("hidden ms")) << "the overlap table is missing\n" << ran.text;
  for (const char* name : {"config.toml", "environment.json", "metrics.jsonl", "checkpoints/latest", "trace/rank0.json",
                           "trace/rank1.json", "log.rank0", "log.rank1"})
    EXPECT_TRUE(std::filesystem::exists(path(std::string("runs/mlp/") + name))) << name;

  auto lines = metrics("mlp");
  int train = 0, evaluations = 0;
  for (const auto& line : lines) {
    if (line.contains("train/loss")) {
      ++train;
      for (const char* key : {"step", "train/grad_norm", "lr", "step_ms", "samples_per_s", "mfu", "mem/peak_bytes",
                              "data/exposed_ms", "comm/hidden_ms", "comm/exposed_ms"})
        EXPECT_TRUE(line.contains(key) && line[key].is_number()) << key << " in " << line;
    } else if (line.contains("val/loss")) {
      ++evaluations;
      EXPECT_TRUE(line.contains("step") && line.contains("val/accuracy")) << line;
    }
  }
  EXPECT_EQ(train, 5);  // steps 1, 5, 10, 15, 20
  EXPECT_EQ(evaluations, 2);
  const auto& end = lines.back();
  EXPECT_EQ(end["event"], "end");
  EXPECT_EQ(end["step"], 20);
  EXPECT_EQ(end["ranks"], 2);
  EXPECT_EQ(end["lanes"], 4);
  EXPECT_EQ(std::string(end["weights_xxh3"]).size(), 32u);
  EXPECT_TRUE(end["seconds"].is_number());
  auto environment = nlohmann::json::parse(read(path("runs/mlp/environment.json")));
  EXPECT_EQ(environment["ranks"].size(), 2u);
  EXPECT_GT(double(environment["peak"]["flops_per_s"]), 1e8);

  // A run is never overwritten; what was resolved trains the same model again.
  Ran again = lockstep("train runs/mlp/config.toml --set run.name=mlp");
  ASSERT_EQ(again.code, 0) << again.text;
  EXPECT_EQ(hash("mlp-2"), hash("mlp"));
  EXPECT_EQ(metrics("mlp").size(), lines.size());
}

// ---- to stop and to go on

TEST_F(Run, ResumedRunEndsWithTheSameWeights) {
  make_text();
  write("gpt.toml", gpt_toml);
  ASSERT_EQ(lockstep("train gpt.toml --set run.name=straight").code, 0);
  // Stopped after step 8 by hand: the checkpoint of step 12 is taken away, the metrics say more than the checkpoint.
  ASSERT_EQ(ranks(2, "train gpt.toml --set run.name=halted").code, 0);
  std::filesystem::remove_all(path("runs/halted/checkpoints/step_12"));
  Ran ran = ranks(4, "train gpt.toml --set run.name=halted --resume");
  ASSERT_EQ(ran.code, 0) << ran.text;
  EXPECT_TRUE(ran.says("resuming runs/halted at step 8")) << ran.text;
  EXPECT_EQ(hash("halted"), hash("straight"));
  for (const auto& [step, loss] : losses("halted")) EXPECT_EQ(loss, losses("straight")[step]) << step;
  int ends = 0;
  for (const auto& line : metrics("halted")) ends += line.contains("event");
  EXPECT_EQ(ends, 1);

  // Resuming a finished run changes nothing.
  auto before = metrics("halted");
  ASSERT_EQ(lockstep("train gpt.toml --set run.name=halted --resume").code, 0);
  auto after = metrics("halted");
  EXPECT_EQ(hash("halted"), hash("straight"));
  EXPECT_EQ(after.size(), before.size());
  double stepped = 0, last = 0;  // what the steps of earlier starts took
  for (const auto& line : before) {
    if (!line.contains("step_ms")) continue;
    const double step = line["step"];
    const double since =
        step > 8 ? std::max(last, 8.0) : last;  // the second start began at step 8: so does its first line's mean
    stepped += double(line["step_ms"]) * (step - since) / 1e3;
    last = step;
  }
  EXPECT_GT(stepped, 0);
  EXPECT_GE(double(after.back()["seconds"]), stepped) << "time of earlier starts counts";
}

TEST_F(Run, BucketSizesAreMeasuredKeptAndSetAndChangeNothing) {
  make_text();
  std::string toml = gpt_toml;
  for (const char* key : {"head_bucket_mib = 0.01\n", "middle_bucket_mib = 0.05\n", "tail_bucket_mib = 0.01\n"})
    toml.erase(toml.find(key), std::string(key).size());
  toml.replace(toml.find("cosine"), 6, "constant");  // whose rates do not depend on where a run ends
  write("gpt.toml", toml);
  Ran one = lockstep("train gpt.toml --set run.name=straight");
  ASSERT_EQ(one.code, 0) << one.text;
  EXPECT_FALSE(one.says("buckets: ")) << "a lone rank sends none: " << one.text;

  Ran ran = ranks(2, "train gpt.toml --set run.name=two --set train.steps=4");
  ASSERT_EQ(ran.code, 0) << ran.text;
  EXPECT_TRUE(ran.says("buckets: ") && ran.says("(all-reduce reaches ")) << ran.text;
  auto sizes = [](const std::string& text) {
    const std::size_t at = text.find("buckets: ");
    return text.substr(at, text.find(" (", at) - at);
  };
  Ran kept = ranks(2, "train gpt.toml --set run.name=two --set train.steps=8 --resume");
  ASSERT_EQ(kept.code, 0) << kept.text;
  EXPECT_TRUE(kept.says(sizes(ran.text) + " (as in the checkpoint)")) << kept.text;

  // An exact run goes on with other buckets: what is set counts, and no result depends on it.
  Ran set = ranks(2,
                  "train gpt.toml --set run.name=two --set train.steps=10 --resume --set train.head_bucket_mib=0.002 "
                  "--set train.middle_bucket_mib=0.003 --set train.tail_bucket_mib=0.004");
  ASSERT_EQ(set.code, 0) << set.text;
  EXPECT_TRUE(set.says("buckets: 2.05 KiB first, 3.07 KiB between, 4.1 KiB last (as configured)")) << set.text;
  Ran more = ranks(4, "train gpt.toml --set run.name=two --resume");
  ASSERT_EQ(more.code, 0) << more.text;
  EXPECT_TRUE(more.says("(all-reduce reaches ")) << "another number of ranks: " << more.text;
  EXPECT_EQ(hash("two"), hash("straight"));
}

TEST_F(Run, ResumeWithoutACheckpointStartsAtZeroAndSaysSo) {
  make_table();
  write("mlp.toml", mlp_toml);
  Ran ran = lockstep("train mlp.toml --resume");
  EXPECT_EQ(ran.code, 0) << ran.text;
  EXPECT_TRUE(ran.says("starting at step 0")) << ran.text;
}

TEST_F(Run, ResumeRefusesWhatWouldChangeResults) {
  make_table();
  write("mlp.toml", mlp_toml);
  ASSERT_EQ(lockstep("train mlp.toml").code, 0);
  Ran lanes = lockstep("train mlp.toml --resume --set train.lanes=8");
  EXPECT_EQ(lanes.code, 64) << lanes.text;
  EXPECT_TRUE(lanes.says("train.lanes was 4")) << lanes.text;
  Ran model = lockstep("train mlp.toml --resume --set model.hidden=[17]");
  EXPECT_EQ(model.code, 65) << model.text;
  EXPECT_TRUE(model.says("layers.0.weight")) << model.text;
  Ran threads = ranks(2, "train mlp.toml --resume --set train.threads=2");
  EXPECT_EQ(threads.code, 64) << threads.text;
}

TEST_F(Run, DamagedCheckpointIsPassedOver) {
  make_text();
  write("gpt.toml", gpt_toml);
  ASSERT_EQ(lockstep("train gpt.toml").code, 0);
  std::string last = path("runs/gpt/checkpoints/step_12/checkpoint.h5"), bytes = read(last);
  bytes[bytes.size() / 2] = char(bytes[bytes.size() / 2] ^ 1);
  std::ofstream(last, std::ios::binary) << bytes;
  EXPECT_EQ(lockstep("checkpoint verify runs/gpt").code, 65);
  Ran ran = lockstep("train gpt.toml --resume");
  EXPECT_EQ(ran.code, 0) << ran.text;
  EXPECT_TRUE(ran.says("step_12") && ran.says("at step 8")) << ran.text;
}

TEST_F(Run, SignalSavesAndEndsWith75ThenResumesToTheSameWeights) {
  make_text();
  write("gpt.toml", gpt_toml);
  std::string long_run =
      "gpt.toml --set schedule.kind=constant --set train.steps=100000 --set checkpoint.every=0 --set log.evaluate_every=0 --set "
      "run.name=stopped";
  Ran ran;
  std::thread training([&] { ran = ranks(2, "train " + long_run); });
  bool going = await_lines("stopped", 3);
  auto alive = processes();
  if (!alive.empty()) kill(alive.front(), SIGUSR1);  // one rank is enough
  training.join();
  ASSERT_TRUE(going) << ran.text;
  EXPECT_EQ(ran.code, 75) << ran.text;
  EXPECT_TRUE(ran.says("--resume")) << ran.text;
  int step = 0;
  for (const auto& [s, loss] : losses("stopped")) step = s;
  ASSERT_GT(step, 0);
  std::string more = "gpt.toml --set schedule.kind=constant --set log.every=1 --set log.evaluate_every=0 --set train.steps=" +
                     std::to_string(step + 5);
  Ran resumed = lockstep("train " + more + " --resume --set run.name=stopped");
  EXPECT_EQ(resumed.code, 0) << resumed.text;
  ASSERT_EQ(lockstep("train " + more + " --set run.name=straight").code, 0);
  EXPECT_EQ(hash("stopped"), hash("straight"));
}

TEST_F(Run, KilledRankEndsTheJob) {
  make_text();
  write("gpt.toml", gpt_toml);
  Ran ran;
  std::chrono::steady_clock::time_point killed, ended;
  std::thread training([&] {
    ran = ranks(2, "train gpt.toml --set train.steps=1000000 --set checkpoint.every=20 --set run.name=killed");
    ended = std::chrono::steady_clock::now();
  });
  bool going = await_lines("killed", 4);
  auto alive = processes();
  EXPECT_EQ(alive.size(), 2u);
  if (!alive.empty()) kill(alive.back(), SIGKILL);
  killed = std::chrono::steady_clock::now();
  training.join();
  ASSERT_TRUE(going) << ran.text;
  EXPECT_NE(ran.code, 0);
  EXPECT_NE(ran.code, 124) << "ended by the test's own time limit";
  EXPECT_LT(std::chrono::duration<double>(ended - killed).count(), 10);
  EXPECT_TRUE(processes().empty()) << "orphans";
  Ran resumed = ranks(2, "train gpt.toml --resume --set run.name=killed --set train.steps=2");
  EXPECT_EQ(resumed.code, 0) << resumed.text;
}

TEST_F(Run, SecondInterruptEndsAtOnce) {
  make_text();
  write("gpt.toml", gpt_toml);
  Ran ran;
  std::thread training([&] {  // steps of about a second, so that the first interrupt is still waiting for the end of one
    ran = lockstep(
        "train gpt.toml --set train.steps=1000 --set model.width=256 --set model.layers=6 --set model.length=128 "
        "--set train.rows_per_lane=16 --set run.name=interrupted");
  });
  bool going = await_lines("interrupted", 1);
  auto alive = processes();
  for (int i = 0; i < 2 && alive.size() == 1; ++i) {
    kill(alive.front(), SIGINT);
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  training.join();
  EXPECT_TRUE(going) << ran.text;
  EXPECT_EQ(ran.code, 130) << ran.text;
}

TEST_F(Run, FullDiskEndsWith74AndLeavesTheOldCheckpoint) {
  make_text();
  write("gpt.toml", gpt_toml);
  ASSERT_EQ(lockstep("train gpt.toml --set run.name=once").code, 0);
  auto bytes = std::filesystem::file_size(path("runs/once/checkpoints/step_12/rank0.h5"));
  // Room for one checkpoint and a half; a second one does not fit beside the first.
  std::string script = "mkdir -p small && mount -t tmpfs -o size=" + std::to_string(bytes * 3 / 2 + 65536) +
                       " none small && { timeout 60 " + program + " train gpt.toml --set run.folder=small; echo code $?; " +
                       program + " checkpoint verify small/gpt; echo verified $?; }";
  Ran ran = shell("unshare --map-root-user --mount sh -c '" + script + "'");
  if (!ran.says("code ")) GTEST_SKIP() << "no file system of one's own here: " << ran.text;
  EXPECT_TRUE(ran.says("step 8 was not saved, the run goes on")) << ran.text;  // the last one must be
  EXPECT_TRUE(ran.says("code 74")) << ran.text;
  EXPECT_TRUE(ran.says("verified 0")) << ran.text;
}

// ---- what a terminal shows

TEST_F(Run, TerminalShowsOneStatusLineUnlessNoColorIsSet) {
  make_table();
  write("mlp.toml", mlp_toml);
  std::string train = program + " train mlp.toml";
  Ran ran = shell("TERM=xterm script -qec '" + train + "' /dev/null");
  if (ran.code == 127) GTEST_SKIP() << "no script(1)";
  EXPECT_TRUE(ran.says("\x1b[K")) << ran.text;
  EXPECT_TRUE(ran.says("done in")) << ran.text;
  Ran plain = shell("NO_COLOR=1 TERM=xterm script -qec '" + train + "' /dev/null");
  EXPECT_FALSE(plain.says("\x1b")) << plain.text;
  EXPECT_TRUE(plain.says("step 20/20  loss")) << plain.text;
}

// ---- what is done with a trained run

TEST_F(Run, EvaluateSampleAndPlot) {
  make_text();
  write("gpt.toml", gpt_toml);
  ASSERT_EQ(lockstep("train gpt.toml").code, 0);
  Ran one = lockstep("evaluate runs/gpt"), two = ranks(2, "evaluate runs/gpt");
  EXPECT_EQ(one.code, 0) << one.text;
  EXPECT_EQ(one.text, two.text);
  double last = 0;
  for (const auto& line : metrics("gpt"))
    if (line.contains("val/loss")) last = line["val/loss"];
  char said[32];
  std::snprintf(said, sizeof said, "loss %.4f", last);
  EXPECT_TRUE(one.says(said)) << one.text << said;

  Ran sample = lockstep("sample runs/gpt --prompt alpha --length 40 --seed 3"),
      again = lockstep("sample runs/gpt --prompt alpha --length 40 --seed 3");
  EXPECT_EQ(sample.code, 0) << sample.text;
  EXPECT_EQ(sample.text.size(), 5u + 40 + 1) << sample.text;
  EXPECT_EQ(sample.text, again.text);
  EXPECT_NE(sample.text, lockstep("sample runs/gpt --prompt alpha --length 40 --seed 4").text);
  EXPECT_EQ(lockstep("sample runs/gpt --temperature 0 --seed 1").text, lockstep("sample runs/gpt --temperature 0 --seed 2").text);

  EXPECT_EQ(lockstep("checkpoint inspect runs/gpt").code, 0);
  Ran plot = lockstep("plot runs/gpt");
  if (plot.code == 64) GTEST_SKIP() << plot.text;  // no matplotlib here
  EXPECT_EQ(plot.code, 0) << plot.text;
  for (const char* picture : {"loss.png", "throughput.png", "overlap.png"}) {
    std::string bytes = read(path(std::string("runs/gpt/") + picture));
    EXPECT_EQ(bytes.substr(1, 3), "PNG") << picture;
  }
}

TEST_F(Run, FrozenParametersStay) {
  make_text();
  write("gpt.toml", gpt_toml);
  Ran ran = lockstep(
      "train gpt.toml --set 'train.freeze=[\"wte\", \"h.0\"]' --set 'optimizer.groups=[{prefix=\"h.1\", rate_scale=0.5, "
      "decay=0.1}]'");
  EXPECT_EQ(ran.code, 0) << ran.text;
  Ran wrong = lockstep("train gpt.toml --set 'train.freeze=[\"nosuch\"]'");
  EXPECT_EQ(wrong.code, 64) << wrong.text;
}

}  // namespace
}  // namespace lockstep::test
