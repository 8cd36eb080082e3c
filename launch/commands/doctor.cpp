#include <fmt/format.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <sstream>

#include "launch/affinity.h"
#include "launch/commands/commands.h"
#include "launch/commands/python.h"
#include "launch/session.h"
#include "launch/version.h"

namespace lockstep::launch {
namespace {

namespace fs = std::filesystem;

std::string find_program(const std::string& name) {
  std::stringstream path(std::getenv("PATH") ? std::getenv("PATH") : "");
  for (std::string folder; std::getline(path, folder, ':');)
    if (access((folder + "/" + name).c_str(), X_OK) == 0) return folder + "/" + name;
  return "";
}

double free_bytes(const char* path) {
  struct statvfs info {};
  return statvfs(path, &info) == 0 ? double(info.f_bavail) * double(info.f_frsize) : 0;
}

/// Everything worth knowing, and what is off in words.
class Doctor {
 public:
  std::string examine(const Session& session) {
    text_ = version_text();
    machine();
    launcher(session);
    devices(session);
    helpers();
    text_ += "\n";
    if (advice_.empty()) return text_ + "Nothing is off.";
    text_ += "What is off:";
    for (const std::string& one : advice_) text_ += "\n  * " + one;
    return text_;
  }

 private:
  void line(const std::string& name, const std::string& value) { text_ += fmt::format("{:<12} {}\n", name, value); }

  void machine() {
    text_ += "\n";
    struct sysinfo info {};
    sysinfo(&info);
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    line("machine",
         fmt::format("{}, {} cores to use, {} memory", host, machine_cores(), bytes_text(double(info.totalram) * info.mem_unit)));
    double shared = free_bytes("/dev/shm");
    line("/dev/shm", bytes_text(shared) + " free");
    if (shared < 512.0 * (1 << 20))
      advice_.push_back(
          fmt::format("/dev/shm has only {} free: ranks of one machine talk through it. In a container, start it with "
                      "--shm-size=8g (or --ipc=host).",
                      bytes_text(shared)));
    line("here", bytes_text(free_bytes(".")) + " free in this folder");
    if (free_bytes(".") < double(1 << 30)) advice_.push_back("this folder has less than 1 GiB left for runs and checkpoints");
  }

  void launcher(const Session& session) {
    std::string mpirun = find_program("mpirun");
    line("mpirun", mpirun.empty() ? "not found" : mpirun);
    if (mpirun.empty()) advice_.push_back("mpirun is not in the PATH: apt install openmpi-bin, or load your cluster's module");
    if (std::string srun = find_program("srun"); !srun.empty()) line("srun", srun);
    if (!mpirun.empty() && geteuid() == 0 &&
        !(std::getenv("OMPI_ALLOW_RUN_AS_ROOT") && std::getenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")))
      advice_.push_back(
          "Open MPI refuses to start as root unless OMPI_ALLOW_RUN_AS_ROOT=1 and OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 are set");
    for (const Version& v : versions())
      if (v.name == "MPI" && v.built != v.found)
        advice_.push_back(
            fmt::format("built with {} but running with {}: build again with the MPI that mpirun belongs to", v.built, v.found));
    if (session.size() == 1) line("ranks", "1 (to see what several get: mpirun -n 2 lockstep doctor)");
  }

  void devices(const Session& session) {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    auto all = session.group().gather(fmt::format("{} on {}, {}, {} thread{}", session.device().name(), host, session.placement(),
                                                  session.threads(), session.threads() == 1 ? "" : "s"));
    for (std::size_t r = 0; r < all.size(); ++r) line(fmt::format("rank {}", r), all[r]);
    if (session.size() > 1) line("between them", session.communicator().name());
    int gpus = Device::cuda_count();
    bool built = false;
    for (const Version& v : versions()) built = built || (v.name == "CUDA" && !v.built.empty());
    line("GPUs", gpus > 0 ? std::to_string(gpus) : built ? "none found" : "not built in");
    bool present = fs::exists("/dev/nvidia0") || fs::exists("/proc/driver/nvidia");
    if (present && !built)
      advice_.push_back(
          "there is an NVIDIA GPU, but this program was built without CUDA: configure with LOCKSTEP_CUDA=ON (preset cuda)");
    if (present && built && gpus == 0)
      advice_.push_back(
          "there is an NVIDIA GPU that CUDA cannot use: look at CUDA_VISIBLE_DEVICES, and whether nvidia-smi works");
  }

  void helpers() {
    std::string python = plotting_python();
    bool plots = !python.empty();
    line("plot", plots ? python + " with matplotlib" : "python3 with matplotlib: not found");
    if (!plots) advice_.push_back("`lockstep plot` needs matplotlib: apt install python3-matplotlib");
  }

  std::string text_;
  std::vector<std::string> advice_;
};

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("doctor", "What was built in, what was found here, and what is off");
  command->footer("Example:\n  lockstep doctor\n  mpirun -n 2 lockstep doctor");
  command->callback([&action] {
    action = [] {
      Session session({.alone = true});
      session.log(Doctor().examine(session));
      return 0;
    };
  });
}

}  // namespace lockstep::launch
