#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>

#include "io/contents.h"
#include "io/data_manifest.h"
#include "io/dataset.h"
#include "io/rows.h"

namespace lockstep::io {
namespace {

constexpr std::int64_t whole_bytes = 256 << 20;  // files up to this size are read completely
constexpr int cpu_seconds = 30, wall_seconds = 60;
constexpr rlim_t memory = rlim_t(2) << 30;
constexpr std::size_t most_said = 256 << 20;  // bytes of names and attributes

/// Reads through a file as training would, in the child. Returns what it says of itself.
hdf5::Contents read_through(const std::string& path) {
  auto file = hdf5::File::open(path);
  std::int64_t total = 0;
  auto contents = file.contents();
  const auto& there = contents.datasets;
  for (const auto& info : there)
    if (info.numeric()) total += count(info.shape) * info.bytes;
  for (const auto& info : there) {
    if (!info.numeric() || count(info.shape) == 0) continue;
    const auto data = file.dataset(info.name);
    data.layout(), data.header();
    const auto element = info.type == hdf5::Class::real ? hdf5::Element::f32 : hdf5::Element::i32;
    const std::int64_t row = std::max<std::int64_t>(1, data.width() * 4);
    require(Exit::bad_data, row < (std::int64_t(1) << 30), "{}: one row of '{}' {} has {} bytes; the file is damaged", path,
            info.name, to_text(info.shape), row);
    const std::int64_t run = std::clamp<std::int64_t>((std::int64_t(16) << 20) / row, 1, data.rows());
    std::vector<std::byte> block(std::size_t(run * row));
    const bool whole = total <= whole_bytes;
    for (std::int64_t first = 0; first < data.rows(); first += run) {
      const std::int64_t n = std::min(run, data.rows() - first);
      if (whole || first == 0 || first + n == data.rows()) data.read(element, first, n, block.data());
    }
  }
  return contents;
}

/// Address space in use, in bytes: limits are set relative to it, since sanitizers map terabytes.
rlim_t address_space() {
  long pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  return rlim_t(pages) * rlim_t(sysconf(_SC_PAGESIZE));
}

/// The child's life: to the pipe a plus and what the file says of itself, or a minus and what is wrong with it; then gone without
/// running anyone's destructors.
[[noreturn]] void child(const std::string& path, int pipe) {
  for (int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGABRT, SIGILL}) std::signal(signal, SIG_DFL);
  const rlimit cpu{cpu_seconds, cpu_seconds}, space{address_space() + memory, RLIM_INFINITY}, no_core{0, 0};
  setrlimit(RLIMIT_CPU, &cpu);
  setrlimit(RLIMIT_AS, &space);
  setrlimit(RLIMIT_CORE, &no_core);
  std::string message;
  try {
    hdf5::forgo_free_lists();
    message = "+" + to_bytes(read_through(path));
    if (message.size() > most_said) message = "-" + path + ": its names and attributes are larger than any that make sense";
  } catch (const std::bad_alloc&) {
    message = "-" + path + ": the file is damaged: reading it needs more memory than it can hold";
  } catch (const std::exception& e) {
    message = std::string("-") + e.what();
  }
  for (std::size_t sent = 0; sent < message.size();) {
    const auto n = ::write(pipe, message.data() + sent, message.size() - sent);
    if (n <= 0) break;
    sent += std::size_t(n);
  }
  _exit(0);
}

hdf5::Contents validate_one(const std::string& path) {
  int ends[2];
  require(Exit::io, pipe(ends) == 0, "{}: checking the file: no pipe: {}", path, std::strerror(errno));
  pid_t pid;
  {
    hdf5::Lock lock;  // no other thread is inside the library while it is copied
    pid = fork();
    if (pid == 0) {
      close(ends[0]);
      child(path, ends[1]);
    }
  }
  close(ends[1]);
  if (pid < 0) {
    close(ends[0]);
    throw Error(path + ": checking the file: no child process: " + std::strerror(errno), Exit::io);
  }

  std::string message;
  bool in_time = true;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(wall_seconds);
  for (;;) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now()).count();
    pollfd ready{ends[0], POLLIN, 0};
    const int changed = poll(&ready, 1, int(std::max<long>(0, left)));
    if (changed < 0 && errno == EINTR) continue;
    if (changed <= 0) {
      in_time = false;
      kill(pid, SIGKILL);
      break;
    }
    char buffer[4096];
    const auto n = ::read(ends[0], buffer, sizeof buffer);
    if (n <= 0) break;
    message.append(buffer, std::size_t(n));
    if (message.size() > most_said) {
      kill(pid, SIGKILL);
      break;
    }
  }
  close(ends[0]);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  const bool ended = WIFEXITED(status) && WEXITSTATUS(status) == 0;
  if (ended && message.starts_with('+')) return contents_from(message.substr(1), path);
  if (ended && message.starts_with('-')) throw Error(message.substr(1), Exit::bad_data);
  require(Exit::bad_data, in_time, "{}: the file is damaged, or its file system does not answer: reading it took more than {} s",
          path, wall_seconds);
  require(Exit::bad_data, WIFSIGNALED(status), "{}: the file is damaged: reading it ended the child process with {}", path,
          WEXITSTATUS(status));
  const bool slow = WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGKILL;
  throw Error(path + ": the file is damaged: the HDF5 library " +
                  (slow ? std::string("found no end in it") : "crashed on it (" + std::string(strsignal(WTERMSIG(status))) + ")"),
              Exit::bad_data);
}

}  // namespace

CheckedFiles validate_file(const std::string& path) {
  CheckedFiles checked;
  for (const auto& file : expand_paths({path})) {
    // A file that is what its manifest says meets the library as it was written: no child is needed.
    if (const auto manifest = DataManifest::load(file)) {
      if (FileBytes(file).size() <= std::uint64_t(whole_bytes)) manifest->check_all();
      continue;
    }
    const FileState state = FileBytes(file).state();
    checked[file] = std::make_shared<const CheckedFile>(CheckedFile{state, validate_one(file)});
  }
  return checked;
}

}  // namespace lockstep::io
