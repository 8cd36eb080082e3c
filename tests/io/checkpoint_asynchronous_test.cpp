// A checkpoint that a thread writes while training goes on.

#include "io/checkpoint.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <future>
#include <nlohmann/json.hpp>
#include <numeric>
#include <random>
#include <thread>

#include "core/checksum.h"
#include "io/hdf5.h"
#include "io/raw_file.h"
#include "kernels/memory.h"
#include "tests/io/checkpoints.h"
#include "tests/io/thread_group.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;
namespace fs = std::filesystem;

TEST(AsynchronousCheckpoint, OlderOnesGoWhenTheNextIsBegunAndAtTheEnd) {
  Saved run;
  Model model(run.device, 1);
  {
    CheckpointWriter writer(run.folder.path, model.views, {.keep = 2, .asynchronous = true}, run.device.queue(), *run.group);
    auto save = [&](int step) {
      writer.begin(step, "{}");
      std::optional<CheckpointWriter::Outcome> ended;
      while (!ended) ended = writer.poll();
      EXPECT_EQ(ended->problem, "");
    };
    for (int step : {1, 2, 3}) save(step);
    EXPECT_EQ(run.names(), (std::vector<std::string>{"latest", "step_1", "step_2", "step_3"}));
    save(4);
    EXPECT_EQ(run.names(), (std::vector<std::string>{"latest", "step_2", "step_3", "step_4"}));
  }
  EXPECT_EQ(run.names(), (std::vector<std::string>{"latest", "step_3", "step_4"}));
}

TEST(AsynchronousCheckpoint, HoldsTheValuesOfItsBeginning) {
  for (auto& device : devices())
    for (int ranks : {1, 2, 4}) {
      Folder folder;
      on_ranks(ranks, [&](Group& group) {
        Device own;
        Device& place = ranks == 1 ? *device : own;
        Model model(place, 1);
        const auto first = model.values();
        CheckpointWriter writer(folder.path, model.views, {.asynchronous = true}, place.queue(), group);
        EXPECT_FALSE(writer.poll());
        for (int step = 1; step <= 3; ++step) {
          const auto before = model.values();
          writer.begin(step, R"({"seed":7})");
          writer.hold_queue();
          for (auto& t : model.tensors)  // training goes on
            if (t.size() > 0) kernels::fill(place.queue(), t.view(), float(step));
          EXPECT_TRUE(writer.under_way());
          EXPECT_THROW(writer.begin(step, "{}"), Error);
          std::optional<CheckpointWriter::Outcome> ended;
          for (int polls = 0; !ended && polls < 100000; ++polls) {
            ended = step == 2 ? writer.wait() : writer.poll();
            std::this_thread::sleep_for(std::chrono::microseconds(100));  // a busy disk may take seconds
          }
          ASSERT_TRUE(ended);
          EXPECT_EQ(ended->problem, "");
          EXPECT_EQ(ended->path, folder / ("step_" + std::to_string(step)));
          EXPECT_FALSE(writer.under_way());
          const auto found = find_checkpoint(folder.path, group);
          ASSERT_TRUE(found);
          EXPECT_EQ(found->step, step);
          Model loaded(place, 9);
          load_checkpoint(*found, loaded.views, Match::all, place.queue(), group);
          EXPECT_EQ(loaded.values(), before);
          EXPECT_EQ(before == first, step == 1);
        }
      });
    }
}

/// Copies on a thread of their own, and slowly, as a GPU's stream does; the queue is the thread that waits.
class SlowDownloads : public Downloads {
 public:
  void start(const std::vector<Copy>& copies) override {
    under_way = std::async(std::launch::async, [copies] {
                  std::this_thread::sleep_for(std::chrono::milliseconds(100));
                  for (const auto& [to, from] : copies) kernels::copy({}, to, from);
                }).share();
  }
  void hold() override { finish(); }
  void finish() override {
    if (under_way.valid()) under_way.get();
  }
  bool done() const { return under_way.wait_for(std::chrono::seconds(0)) == std::future_status::ready; }

 private:
  std::shared_future<void> under_way;
};

TEST(AsynchronousCheckpoint, CopiesThatTheStepDoesNotWaitForAreWhatIsWritten) {
  Saved run;
  Model model(run.device, 1);
  auto made = std::make_unique<SlowDownloads>();
  SlowDownloads& downloads = *made;
  CheckpointWriter writer(run.folder.path, model.views, {.asynchronous = true}, run.device.queue(), *run.group, std::move(made));
  for (int step = 1; step <= 3; ++step) {
    const auto before = model.values();
    writer.begin(step, "{}");
    EXPECT_FALSE(downloads.done()) << "begin() returns while copies are under way";
    EXPECT_FALSE(writer.poll());
    writer.hold_queue();
    for (auto& t : model.tensors)
      if (t.size() > 0) kernels::fill(run.device.queue(), t.view(), float(step));
    EXPECT_EQ(writer.wait()->problem, "");
    const auto found = find_checkpoint(run.folder.path, *run.group);
    ASSERT_TRUE(found);
    EXPECT_EQ(found->step, step);
    Model loaded(run.device, 9);
    load_checkpoint(*found, loaded.views, Match::all, run.device.queue(), *run.group);
    EXPECT_EQ(loaded.values(), before);
  }
}

TEST(AsynchronousCheckpoint, CopiesThatFailAreNoCheckpoint) {
  struct Failing : Downloads {
    void start(const std::vector<Copy>&) override {}
    void hold() override {}
    void finish() override { throw Error("a copy failed"); }
  };
  Saved run;
  const Model model(run.device, 1);
  CheckpointWriter writer(run.folder.path, model.views, {.asynchronous = true}, run.device.queue(), *run.group,
                          std::make_unique<Failing>());
  writer.begin(1, "{}");
  const auto ended = writer.wait();
  EXPECT_NE(ended->problem.find("a copy failed"), std::string::npos) << ended->problem;
  EXPECT_NE(ended->exit, Exit::io) << "the run does not go on";
  EXPECT_FALSE(find_checkpoint(run.folder.path, *run.group));
}

TEST(AsynchronousCheckpoint, FailureIsToldToEveryRankAndTheNextOneWorks) {
  Folder folder;
  Device device;
  const Model model(device, 1);
  on_ranks(3, [&](Group& group) {
    CheckpointWriter writer(folder / "run", model.views, {.asynchronous = true}, device.queue(), group);
    auto save = [&](int step) {
      writer.begin(step, "{}");
      return *writer.wait();
    };
    EXPECT_EQ(save(1).problem, "");
    group.barrier();
    // A folder stands where `latest` should be replaced: the last write fails.
    if (group.rank() == 0) fs::remove(folder / "run/latest"), fs::create_directories(folder / "run/latest/in the way");
    group.barrier();
    auto ended = save(2);
    EXPECT_NE(ended.problem.find("latest"), std::string::npos) << ended.problem;
    EXPECT_EQ(ended.exit, Exit::io);
    if (group.rank() == 0) fs::remove_all(folder / "run/latest");
    group.barrier();
    // No folder can be made.
    if (group.rank() == 0) fs::rename(folder / "run", folder / "away"), write_file(folder / "run", "a file");
    group.barrier();
    ended = save(3);
    EXPECT_NE(ended.problem.find("run"), std::string::npos) << ended.problem;
    EXPECT_EQ(ended.exit, Exit::io);
    group.barrier();
    if (group.rank() == 0) fs::remove(folder / "run"), fs::rename(folder / "away", folder / "run");
    group.barrier();
    EXPECT_EQ(save(4).problem, "");
    EXPECT_EQ(find_checkpoint(folder / "run", group)->step, 4);
  });
}

TEST(AsynchronousCheckpoint, EndOfTheWriterWaitsAndLeavesNoHalfCheckpoint) {
  Saved run;
  run.save(1, 1);
  {
    const Model model(run.device, 2);
    CheckpointWriter writer(run.folder.path, model.views, {.asynchronous = true}, run.device.queue(), *run.group);
    writer.begin(2, "{}");
  }  // nobody asked for the outcome
  run.expect_newest(1, 1);
  run.save(3, 3);
  EXPECT_EQ(run.names(), (std::vector<std::string>{"latest", "step_1", "step_3"}));
}

}  // namespace
}  // namespace lockstep::io
