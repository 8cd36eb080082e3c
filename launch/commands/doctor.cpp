#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <sstream>

#include "core/tensor.h"
#include "io/convert.h"
#include "kernels/matmul.h"
#include "kernels/memory.h"
#include "launch/affinity.h"
#include "launch/commands/commands.h"
#include "launch/commands/python.h"
#include "launch/numa.h"
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
    line("products", kernels::cpu_products());
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
    gpus();
    shared_gpus(session);
    if (session.device().kind() == DeviceKind::cuda) kernels_run(session);
  }

  /// Every GPU that this process sees, and how it reaches the others.
  void gpus() {
    bool built = false;
    for (const Version& v : versions()) {
      built = built || (v.name == "CUDA" && !v.built.empty());
      // A library may be newer than what was built with, not older: what it lacks shows only when it is called.
      bool library = v.name == "cuBLASLt" || v.name == "cuDNN" || v.name == "NCCL";
      if (library && !v.found.empty() && older(v.found, v.built))
        advice_.push_back(
            fmt::format("{} {} is older than the {} this program was built with: install a newer one, or build again", v.name,
                        v.found, v.built));
    }
    auto all = Device::gpus();
    line("GPUs", !all.empty() ? std::to_string(all.size()) : built ? "none found" : "not built in");
    for (std::size_t i = 0; i < all.size(); ++i) {
      const GpuInfo& gpu = all[i];
      std::string near = nearest_cpus(gpu.address);
      line(fmt::format("GPU {}", i),
           fmt::format("{}, {} ({} free), compute capability {}.{}, PCI {}{}{}", gpu.name, bytes_text(double(gpu.bytes)),
                       bytes_text(double(gpu.free)), gpu.major, gpu.minor, gpu.address, near.empty() ? "" : ", ", near));
      std::string links;
      for (std::size_t j = 0; j < gpu.to_peers.size(); ++j)
        if (j != i) links += fmt::format("{}GPU {} by {}", links.empty() ? "" : ", ", j, gpu.to_peers[j]);
      if (!links.empty()) line("", "reaches " + links);
    }
    bool present = fs::exists("/dev/nvidia0") || fs::exists("/dev/nvidiactl") || fs::exists("/proc/driver/nvidia");
    if (present && !built)
      advice_.push_back(
          "there is an NVIDIA GPU, but this program was built without CUDA: configure with LOCKSTEP_CUDA=ON (preset cuda)");
    if (built && all.empty()) {
      line("", Device::cuda_problem());
      if (present) advice_.push_back("there is an NVIDIA GPU that CUDA cannot use: " + Device::cuda_problem());
    }
  }

  /// "9.19.0" < "9.20"
  static bool older(const std::string& a, const std::string& b) {
    std::stringstream x(a), y(b);
    for (std::string u, v; std::getline(y, v, '.');) {
      if (!std::getline(x, u, '.')) u = "0";
      if (std::atoi(u.c_str()) != std::atoi(v.c_str())) return std::atoi(u.c_str()) < std::atoi(v.c_str());
    }
    return false;
  }

  void shared_gpus(const Session& session) {
    const Device& device = session.device();
    auto places = session.group().gather(
        device.kind() == DeviceKind::cpu ? "" : fmt::format("{} {}", session.group().node(), device.address()));
    std::map<std::string, std::vector<std::size_t>> users;
    for (std::size_t r = 0; r < places.size(); ++r)
      if (!places[r].empty()) users[places[r]].push_back(r);
    for (auto& [place, ranks] : users)
      if (ranks.size() > 1)
        advice_.push_back(fmt::format("ranks {} compute on one GPU, so their sums go through the host: start one rank a GPU",
                                      fmt::join(ranks, ", ")));
  }

  /// A GPU that this program has no code for shows only when a kernel starts.
  void kernels_run(const Session& session) {
    try {
      Tensor t(session.device(), {64});
      kernels::fill(session.device().queue(), t.view(), 1);
      kernels::synchronize(session.device().queue());
      line("", "a kernel ran");
    } catch (const Error& error) {
      advice_.push_back(fmt::format("kernels do not run on {} ({}): build with its architecture, CMAKE_CUDA_ARCHITECTURES=native",
                                    session.device().name(), error.what()));
    }
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
  auto file = std::make_shared<std::string>();
  command->add_option("file", *file, "a data file to look at instead: chunks, compression, file system")->type_name("FILE.h5");
  command->footer("Example:\n  lockstep doctor\n  mpirun -n 2 lockstep doctor\n  lockstep doctor fashion.h5");
  command->callback([file, &action] {
    action = [file] {
      if (!file->empty()) {
        fmt::print("{}", io::inspect_file(*file));
        return 0;
      }
      Session session({.alone = true});
      session.log(Doctor().examine(session));
      return 0;
    };
  });
}

}  // namespace lockstep::launch
