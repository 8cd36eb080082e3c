#pragma once

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <set>
#include <thread>

#include "tests/launch/program.h"

namespace lockstep::test {

/// Runs that are killed again and again and go on at another number of ranks.
class KillResumeTest : public ProgramTest {
 protected:
  struct Told {
    int kills = 0, in_checkpoints = 0, runs = 0;
  };

  /// Trains what `arguments` say, in as many runs as it takes to kill `kills` of their starts with SIGKILL: half of them at a
  /// random moment of the first `seconds`, half while a checkpoint is being written; all ranks at once or one of them. Every run
  /// ends at last, with the weights of the run called "straight".
  Told kill_and_resume(const std::string& arguments, int kills, double seconds, unsigned seed) const {
    std::mt19937 random(seed);
    Told told;
    while (told.kills < kills) {
      const std::string name = "killed" + std::to_string(++told.runs);
      int here = std::min(kills - told.kills, 3 + int(random() % 6));  // kills of this run
      for (bool going = true; going;) {
        const int ranks = std::array{1, 2, 4}[random() % 3];
        const Process process(*this, ranks, "train " + arguments + " --resume --set run.name=" + name);
        if (here > 0) {
          const bool in_checkpoint = random() % 2 == 0;
          bool met = in_checkpoint ? await_checkpoint(process, name) : true;
          const double wait = in_checkpoint ? double(random() % 4000) * 1e-6 : seconds * double(random() % 1000) / 1000;
          for (double waited = 0; waited < wait && process.runs(); waited += 1e-3) pause(std::min(1e-3, wait));
          if (process.runs()) {
            process.kill_ranks(random() % 2 == 0 ? -1 : int(random() % unsigned(ranks)));
            --here, ++told.kills, told.in_checkpoints += in_checkpoint && met;
            process.wait();
            continue;
          }
        }
        const int code = process.wait();
        EXPECT_EQ(code, 0) << read(path("output." + name));
        if (code != 0) return told;
        going = false;
      }
      EXPECT_EQ(hash(name), hash("straight")) << name << ", seed " << seed << "\n" << read(path("output." + name));
      if (HasFailure()) return told;
      std::printf("run %d: the same weights, %d kills so far\n", told.runs, told.kills);
      std::fflush(stdout);
      std::filesystem::remove_all(path("runs/" + name));
    }
    return told;
  }

 private:
  static void pause(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

  /// mpirun with its ranks.
  class Process {
   public:
    Process(const KillResumeTest& test, int ranks, const std::string& arguments) : folder_(test.folder_) {
      const std::string name = arguments.substr(arguments.rfind('=') + 1);
      const std::string command = "exec mpirun -n " + std::to_string(ranks) + " " + program + " " + arguments + " >> '" +
                                  test.path("output." + name) + "' 2>&1 < /dev/null";
      pid_ = fork();
      if (pid_ != 0) return;
      if (chdir(folder_.c_str()) == 0) execl("/bin/sh", "sh", "-c", command.c_str(), nullptr);
      _exit(127);
    }
    ~Process() { wait(); }
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

    bool runs() const {
      if (status_ < 0 && waitpid(pid_, &status_, WNOHANG) == 0) status_ = -1;
      return status_ < 0;
    }
    /// One rank, or all of them and mpirun (-1).
    void kill_ranks(int which) const {
      const auto ranks = found();
      if (which < 0) ::kill(pid_, SIGKILL);
      for (std::size_t i = 0; i < ranks.size(); ++i)
        if (which < 0 || i == std::size_t(which) % ranks.size()) ::kill(ranks[i], SIGKILL);
      if (ranks.empty()) ::kill(pid_, SIGKILL);  // before they were started
    }
    /// Its exit code, when no rank is left. A process that does not end within two minutes is ended and has the code 124.
    int wait() const {
      for (int i = 0; i < 12000 && runs(); ++i) pause(0.01);
      const bool stuck = runs();
      if (stuck) {
        ::kill(pid_, SIGKILL);
        waitpid(pid_, &status_, 0);
      }
      for (int i = 0; i < 1000 && !found().empty(); ++i) {
        if (i > 300 || WIFSIGNALED(status_))  // ranks whose mpirun was killed
          for (pid_t rank : found()) ::kill(rank, SIGKILL);
        pause(0.01);
      }
      return stuck ? 124 : WIFEXITED(status_) ? WEXITSTATUS(status_) : 128 + WTERMSIG(status_);
    }

   private:
    /// The ranks, which work in the test's folder.
    std::vector<pid_t> found() const {
      std::vector<pid_t> all;
      for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
        const std::string name = entry.path().filename();
        if (name.find_first_not_of("0123456789") != std::string::npos) continue;
        std::error_code error;
        const auto at = std::filesystem::read_symlink(entry.path() / "cwd", error);
        if (error || at != std::filesystem::canonical(folder_)) continue;
        const auto runs = std::filesystem::read_symlink(entry.path() / "exe", error);
        if (!error && runs.filename() == "lockstep") all.push_back(std::stoi(name));
      }
      return all;
    }
    std::string folder_;
    pid_t pid_ = 0;
    mutable int status_ = -1;
  };

  /// Waits until a new checkpoint's folder is there under its temporary name.
  bool await_checkpoint(const Process& process, const std::string& run) const {
    auto temporary = [&] {
      std::set<std::string> names;
      std::error_code error;
      for (std::filesystem::directory_iterator at(path("runs/" + run + "/checkpoints"), error), end; !error && at != end;
           at.increment(error))
        if (at->path().filename().string().starts_with("step_") &&
            at->path().filename().string().find(".tmp.") != std::string::npos)
          names.insert(at->path().filename());
      return names;
    };
    for (const auto before = temporary(); process.runs(); pause(0.0005))
      for (const auto& name : temporary())
        if (!before.contains(name)) return true;
    return false;
  }
};

}  // namespace lockstep::test
