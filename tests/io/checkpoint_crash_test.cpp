// What is left of a checkpoint after a crash at any moment, and after a call to the file system that fails.

#include <gtest/gtest-spi.h>

#include <algorithm>
#include <functional>
#include <random>

#include "kernels/memory.h"
#include "tests/io/checkpoints.h"
#include "tests/io/file_calls.h"
#include "tests/io/thread_group.h"

namespace lockstep::io {
namespace {

using namespace lockstep::test;
namespace fs = std::filesystem;
using Kind = FileCall::Kind;

/// The crashes are made up, so the files may lie in memory, where a sync costs nothing.
[[maybe_unused]] const int in_memory = access("/dev/shm", W_OK) == 0 ? setenv("TMPDIR", "/dev/shm", 0) : 0;

// ---- a disk that has lost what was not synced

/// How much of what nobody waited for has reached the disk.
enum class Loss {
  none,      ///< everything: only the process was killed
  all,       ///< nothing
  contents,  ///< names are in order, bytes are lost
  random,    ///< each call by itself, writes torn in the middle
};

/// Whether a later call in `calls` waited for call i.
bool synced(const std::vector<FileCall>& calls, std::size_t i) {
  const auto& call = calls[i];
  const bool contents = call.kind == Kind::write || call.kind == Kind::resize;
  std::string folder = fs::path(call.path).parent_path();
  for (std::size_t k = i + 1; k < calls.size(); ++k) {
    if (contents && calls[k].kind == Kind::sync_file && calls[k].file == call.file) return true;
    if (!contents && calls[k].kind == Kind::sync_folder && calls[k].path == folder) return true;
    // The folder itself may have got another name before it was synced.
    if (calls[k].kind == Kind::rename && folder == calls[k].path) folder = calls[k].to;
  }
  return false;
}

/// The names and files that such a disk holds after these calls.
class Disk {
 public:
  void apply(const FileCall& call, bool torn) {
    switch (call.kind) {
      case Kind::create: names_[call.path] = call.file, contents_[call.file]; break;
      case Kind::write: {
        auto& file = contents_[call.file];
        const auto bytes = call.bytes.substr(0, torn ? call.bytes.size() / 2 : std::string::npos);
        if (file.size() < std::size_t(call.at) + bytes.size()) file.resize(std::size_t(call.at) + bytes.size());
        std::copy(bytes.begin(), bytes.end(), file.begin() + call.at);
        break;
      }
      case Kind::resize: contents_[call.file].resize(std::size_t(call.at)); break;
      case Kind::make_folder: names_[call.path] = folder_; break;
      case Kind::rename: move(call.path, call.to); break;
      case Kind::exchange:
        if (!names_.contains(call.path) || !names_.contains(call.to)) break;
        move(call.path, "/exchanged");
        move(call.to, call.path);
        move("/exchanged", call.to);
        break;
      case Kind::unlink:
      case Kind::remove_folder: names_.erase(call.path); break;
      case Kind::sync_file:
      case Kind::sync_folder: break;
    }
  }
  void write_to(const std::string& root) const {
    for (const auto& [path, file] : names_)
      if (fs::is_directory(root + fs::path(path).parent_path().string())) {
        if (file == folder_)
          fs::create_directory(root + path);
        else
          write_file(root + path, contents_.at(file));
      }
  }

 private:
  static constexpr int folder_ = -1;
  /// A name and all below it; what had the new name is gone.
  void move(const std::string& from, const std::string& to) {
    if (!names_.contains(from)) return;
    std::map<std::string, int> kept;
    for (const auto& [path, file] : names_) {
      const bool inside = path == from || path.starts_with(from + "/");
      if (inside)
        kept[to + path.substr(from.size())] = file;
      else if (path != to && !path.starts_with(to + "/"))
        kept.emplace(path, file);
    }
    names_ = std::move(kept);
  }
  std::map<std::string, int> names_;
  std::map<int, std::string> contents_;
};

Disk crashed(const std::vector<FileCall>& calls, Loss loss, std::mt19937& random) {
  Disk disk;
  for (std::size_t i = 0; i < calls.size(); ++i) {
    const bool contents = calls[i].kind == Kind::write || calls[i].kind == Kind::resize;
    const bool safe = loss == Loss::none || synced(calls, i) || (loss == Loss::contents && !contents);
    const bool lucky = loss == Loss::random && random() % 2 == 0;
    if (safe || lucky) disk.apply(calls[i], !safe && random() % 2 == 0);
  }
  return disk;
}

struct Step {
  std::int64_t step;
  std::uint64_t seed;
  std::size_t calls;  ///< made when it was reported as saved
};

/// Whatever the crash, the newest checkpoint is one that was being written or the last that was reported; never torn, never none.
void check(const Disk& disk, const std::vector<Step>& steps, std::size_t done, const std::string& when) {
  Folder folder;
  disk.write_to(folder.path);
  std::size_t reported = 0;  // how many were
  while (reported < steps.size() && steps[reported].calls <= done) ++reported;
  auto group = solo_group();
  Device device;
  std::optional<FoundCheckpoint> found;
  try {
    found = find_checkpoint(folder.path, *group);
    if (!found) {
      ASSERT_EQ(reported, 0u) << when << ": no checkpoint";
      return;
    }
    ASSERT_TRUE(found->warnings.empty()) << when << ": " << found->warnings[0];
    Model loaded(device, 99);
    load_checkpoint(*found, loaded.views, Match::all, device.queue(), *group);
    bool known = false;
    for (std::size_t i = reported == 0 ? 0 : reported - 1; i < std::min(reported + 1, steps.size()); ++i)
      known = known || (found->step == steps[i].step && loaded.values() == Model(device, steps[i].seed).values());
    ASSERT_TRUE(known) << when << ": step " << found->step << " after " << reported << " were reported";
  } catch (const Error& e) {
    FAIL() << when << ": " << e.what();
  }
}

/// Saves of all kinds, recorded: new ones, one that removes an older one, and one that replaces a checkpoint of its own step.
std::vector<FileCall> record(const std::string& path, int ranks, bool asynchronous, std::vector<Step>& steps) {
  FileCalls::instance().watch(path);
  std::vector<Step> plan = {{1, 1, 0}, {2, 2, 0}, {3, 3, 0}, {3, 33, 0}, {10, 10, 0}};
  Device device;
  on_ranks(ranks, [&](Group& group) {
    Model model(device, 1);
    CheckpointWriter writer(path, model.views, {.keep = 2, .asynchronous = asynchronous}, device.queue(), group);
    for (auto& step : plan) {
      const Model next(device, step.seed);
      for (std::size_t i = 0; i < model.views.size(); ++i)
        if (model.views[i].view.size > 0) kernels::copy(device.queue(), model.views[i].view, next.views[i].view);
      writer.begin(step.step, "{}");
      std::optional<CheckpointWriter::Outcome> ended;
      while (!ended) ended = asynchronous && step.step < 10 ? writer.poll() : writer.wait();  // older ones go later, and at once
      ASSERT_EQ(ended->problem, "");
      group.barrier();
      if (group.rank() == 0) step.calls = FileCalls::instance().recorded();
      group.barrier();
    }
  });
  steps = plan;
  return FileCalls::instance().stop();
}

TEST(CheckpointCrash, LeavesTheNewOrAnOlderOneWhateverIsLost) {
  std::mt19937 random(7);
  std::size_t states = 0;
  for (int ranks : {1, 3}) {
    Folder folder;
    std::vector<Step> steps;
    const auto calls = record(folder.path, ranks, ranks > 1, steps);
    ASSERT_EQ(calls.size(), steps.back().calls);
    auto has = [&](Kind kind) { return std::any_of(calls.begin(), calls.end(), [&](auto& c) { return c.kind == kind; }); };
    for (Kind kind : {Kind::create, Kind::write, Kind::resize, Kind::sync_file, Kind::make_folder, Kind::sync_folder,
                      Kind::rename, Kind::exchange, Kind::unlink, Kind::remove_folder})
      ASSERT_TRUE(has(kind)) << "no call of kind " << int(kind) << " was seen";
    // Nothing was made but by calls that are watched: the disk of all calls is what really lies there.
    Folder again;
    crashed(calls, Loss::none, random).write_to(again.path);
    std::string same = "diff -r '" + folder.path + "' '" + again.path + "'";
    ASSERT_EQ(std::system(same.c_str()), 0) << "the recorded calls are not all that was done";
    for (std::size_t n = 0; n <= calls.size(); ++n) {
      const std::vector<FileCall> prefix(calls.begin(), calls.begin() + std::ptrdiff_t(n));
      for (Loss loss : {Loss::none, Loss::all, Loss::contents, Loss::random, Loss::random}) {
        const std::string when = "ranks " + std::to_string(ranks) + ", call " + std::to_string(n) + ", loss " +
                                 std::to_string(int(loss)) + (n < calls.size() ? ", before " + calls[n].path : "");
        check(crashed(prefix, loss, random), steps, n, when);
        if (HasFatalFailure()) return;
        ++states;
      }
    }
  }
  EXPECT_GT(states, 1500u);
  RecordProperty("states", int(states));
}

/// The test itself must be able to fail: without the syncs, states are found that lose a checkpoint or show a torn one.
TEST(CheckpointCrash, WouldSeeAMissingSync) {
  Folder folder;
  std::vector<Step> steps;
  const auto calls = record(folder.path, 2, true, steps);
  for (Kind left_out : {Kind::sync_file, Kind::sync_folder}) {
    std::vector<FileCall> without;
    std::vector<Step> moved = steps;
    for (auto& step : moved)
      step.calls = std::size_t(
          std::count_if(calls.begin(), calls.begin() + std::ptrdiff_t(step.calls), [&](auto& c) { return c.kind != left_out; }));
    for (const auto& call : calls)
      if (call.kind != left_out) without.push_back(call);
    std::mt19937 random(1);
    int wrong = 0;
    for (std::size_t n = 0; n <= without.size(); n += 3)
      for (Loss loss : {Loss::all, Loss::contents}) {
        testing::TestPartResultArray failures;
        {
          testing::ScopedFakeTestPartResultReporter quiet(
              testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &failures);
          check(crashed({without.begin(), without.begin() + std::ptrdiff_t(n)}, loss, random), moved, n, "");
        }
        wrong += failures.size() > 0;
      }
    EXPECT_GT(wrong, 5) << int(left_out);
  }
}

// ---- calls that fail

TEST(CheckpointCrash, AnyCallMayFail) {
  int failed = 0;
  for (bool full : {false, true}) {
    const int problem = full ? ENOSPC : EIO;
    for (int ranks : {1, 2}) {
      Folder folder;
      Device device;
      on_ranks(ranks, [&](Group& group) {
        Model model(device, 1);
        CheckpointWriter writer(folder.path, model.views, {.keep = 2, .asynchronous = ranks > 1}, device.queue(), group);
        auto save = [&](std::int64_t step) {
          writer.begin(step, "{}");
          return *writer.wait();
        };
        ASSERT_EQ(save(1).problem, "");
        std::int64_t newest = 1, step = 2;
        for (int n = 0;; ++n, ++step) {
          group.barrier();
          if (group.rank() == 0)
            FileCalls::instance().watch(folder.path), FileCalls::instance().fail(n, problem, full);  // a full disk stays full
          group.barrier();
          const auto ended = save(step);
          group.barrier();
          const bool reached = FileCalls::instance().counted() > n;
          group.barrier();
          if (group.rank() == 0) FileCalls::instance().stop();
          group.barrier();
          const auto found = find_checkpoint(folder.path, group);
          ASSERT_TRUE(found) << n;
          ASSERT_TRUE(found->warnings.empty()) << n << ": " << found->warnings[0];
          if (ended.problem.empty()) {
            ASSERT_EQ(found->step, step) << n;
          } else {
            ASSERT_EQ(ended.exit, Exit::io) << ended.problem;
            ASSERT_NE(ended.problem.find(folder.path), std::string::npos) << ended.problem;
            ASSERT_EQ(ended.problem.find("the disk is full") != std::string::npos, full) << ended.problem;
            // The one that was there, or the new one when only the note of its name failed.
            ASSERT_TRUE(found->step == newest || found->step == step) << n << ": " << found->step << ", " << ended.problem;
            if (group.rank() == 0) ++failed;  // ranks are threads here
          }
          newest = found->step;
          if (!reached) break;
        }
        // What the failures left is cleared by the next one that works.
        ASSERT_EQ(save(step + 1).problem, "");
        if (group.rank() != 0) return;
        std::vector<std::string> names;
        for (const auto& entry : fs::directory_iterator(folder.path)) names.push_back(entry.path().filename().string());
        EXPECT_EQ(names.size(), 3u) << testing::PrintToString(names);
      });
      if (HasFatalFailure()) return;
    }
  }
  EXPECT_GT(failed, 50);
}

}  // namespace
}  // namespace lockstep::io
