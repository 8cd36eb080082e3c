#include "launch/session.h"

#include <fmt/format.h>
#include <mpi.h>
#include <omp.h>
#include <signal.h>
#include <spdlog/logger.h>
#include <spdlog/sinks/basic_file_sink.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <thread>

#include "kernels/base/check.h"
#include "launch/affinity.h"
#include "parallel/open_communicator.h"

namespace lockstep::launch {
namespace {

// ---- what the environment tells before MPI has started

int number(const char* variable, int otherwise) {
  const char* text = std::getenv(variable);
  return text && *text ? std::atoi(text) : otherwise;
}

/// Ranks that a launcher says it has started; 1 without one.
int launched_ranks() {
  return std::max({number("OMPI_COMM_WORLD_SIZE", 1), number("PMI_SIZE", 1), number("SLURM_STEP_NUM_TASKS", 1)});
}
int launched_rank() {
  for (const char* variable : {"OMPI_COMM_WORLD_RANK", "PMI_RANK", "PMIX_RANK", "SLURM_PROCID"})
    if (std::getenv(variable)) return number(variable, 0);
  return 0;
}

bool mpi_runs() {
  int started = 0, ended = 0;
  MPI_Initialized(&started);
  MPI_Finalized(&ended);
  return started && !ended;
}

// ---- signals

std::atomic<int> signals_seen{0};
static_assert(std::atomic<int>::is_always_lock_free);

void on_signal(int signal) {
  int before = signals_seen.fetch_add(1);
  if (signal == SIGINT && before > 0) _exit(130);
}

void handle_signals(void (*handler)(int)) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  for (int signal : {SIGINT, SIGTERM, SIGUSR1}) sigaction(signal, &action, nullptr);
}

// ---- the end of a program that failed

std::string host() {
  char name[256] = "";
  gethostname(name, sizeof name - 1);
  return name;
}

/// One cause is told once. Rank 0 speaks at once and its abort ends the others while they wait their turn; a rank that fails
/// alone speaks after a moment.
int report(const std::string& message, Exit exit) {
  bool mpi = mpi_runs();
  int rank = launched_rank(), ranks = launched_ranks();
  if (mpi) {
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
  }
  handle_signals(SIG_DFL);
  if (rank > 0) std::this_thread::sleep_for(std::chrono::milliseconds((mpi ? 1500 : 3000) + std::min(50 * rank, 2000)));
  std::string where = ranks > 1 ? fmt::format("rank {} on {}: ", rank, host()) : "";
  std::string line = fmt::format("lockstep: {}{}\n", where, message);
  std::fflush(stdout);
  [[maybe_unused]] auto written = ::write(STDERR_FILENO, line.data(), line.size());
  if (mpi && ranks > 1) MPI_Abort(MPI_COMM_WORLD, int(exit));
  return int(exit);
}

// ---- how ranks talk

/// "ranks 0 and 1 on node3", for the first GPU that several ranks compute on; empty when each has its own.
std::string sharers(Group& group, const Device& device) {
  auto places = group.gather(fmt::format("{} {}", group.node(), device.address()));
  auto hosts = group.gather(host());
  for (std::size_t a = 0; a < places.size(); ++a)
    for (std::size_t b = a + 1; b < places.size(); ++b)
      if (places[a] == places[b]) return fmt::format("ranks {} and {} on {}", a, b, hosts[a]);
  return "";
}

/// NCCL's thread speaks when a rank is lost and NCCL does not let go: no rank may hang.
[[noreturn]] void give_up(const std::string& what) {
  std::string line = fmt::format("lockstep: on {}: {}\n", host(), what);
  [[maybe_unused]] auto written = ::write(STDERR_FILENO, line.data(), line.size());
  _exit(int(Exit::peer_lost));
}

std::unique_ptr<parallel::Communicator> open_communicator(Group& group, Device& device, Console& console) {
  if (group.size() == 1) return parallel::open_solo_communicator(&device);
  if (device.kind() == DeviceKind::cpu) return parallel::open_mpi_communicator();
  std::string shared = sharers(group, device);
  if (shared.empty()) return parallel::open_nccl_communicator(group, device.queue(), {.hopeless = give_up});
  console.line(fmt::format("{} share a GPU, so sums go through the host's memory; with a GPU for each rank they would go by NCCL",
                           shared));
  return parallel::open_host_staged_communicator(device.queue(), parallel::open_mpi_communicator());
}

}  // namespace

struct Session::Parts {
  bool started_mpi = false;
  int exceptions = std::uncaught_exceptions(), threads = 1;
  std::unique_ptr<Group> group;
  std::unique_ptr<Device> device;
  std::unique_ptr<parallel::Communicator> communicator;
  std::unique_ptr<Console> console;
  std::shared_ptr<spdlog::logger> log;
  std::string placement;
};

Session::Session(SessionOptions options) : parts_(std::make_unique<Parts>()) {
  Parts& p = *parts_;
  int tasks = number("SLURM_STEP_NUM_TASKS", options.alone ? 1 : number("SLURM_NTASKS", 1));
  if (launched_ranks() > 1) {
    int provided = 0;
    parallel::prepare_mpi();
    MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
    p.started_mpi = true;
    p.group = parallel::open_mpi_group();
  } else {
    p.group = solo_group();
  }
  require(Exit::usage, tasks == 1 || p.group->size() > 1 || std::getenv("OMPI_COMM_WORLD_SIZE"),
          "Slurm has started {} tasks, but MPI sees one rank: each would train by itself. Start with mpirun, or with srun and "
          "--mpi=pmix (srun --mpi=list shows what this cluster has).",
          tasks);
  signals_seen = 0;
  handle_signals(on_signal);
  p.console = std::make_unique<Console>(p.group->rank() != 0);

  int cores = bind_share(p.group->node_rank(), p.group->node_size(), p.placement);
  p.threads = options.threads > 0 ? options.threads : options.exact ? 1 : number("OMP_NUM_THREADS", cores);
  omp_set_num_threads(p.threads);

  const std::string& wish = options.device;
  require(Exit::usage, wish == "auto" || wish == "cpu" || wish == "cuda", "device must be auto, cpu or cuda, not {}", wish);
  int gpus = wish == "cpu" ? 0 : Device::cuda_count();
  bool cuda = p.group->all(gpus > 0);
  require(Exit::usage, cuda || wish != "cuda", "device = cuda: {}",
          gpus > 0 ? "another rank has no GPU" : "there is no GPU that this program can use; `lockstep doctor` says why");
  p.device = cuda ? std::make_unique<Device>(DeviceKind::cuda, p.group->node_rank() % gpus) : std::make_unique<Device>();
  p.communicator = open_communicator(*p.group, *p.device, *p.console);
}

Session::~Session() {
  handle_signals(SIG_DFL);
  if (parts_->started_mpi &&
      std::uncaught_exceptions() > parts_->exceptions) {  // the others may be elsewhere: nothing collective
    (void)parts_->communicator.release();
    (void)parts_->group.release();
    (void)parts_->device.release();
    return;
  }
  parts_->communicator.reset();
  parts_->group.reset();
  if (parts_->started_mpi) MPI_Finalize();
}

int Session::threads() const {
  return parts_->threads;
}
const std::string& Session::placement() const {
  return parts_->placement;
}
Device& Session::device() const {
  return *parts_->device;
}
Group& Session::group() const {
  return *parts_->group;
}
parallel::Communicator& Session::communicator() const {
  return *parts_->communicator;
}
Console& Session::console() const {
  return *parts_->console;
}

void Session::log(const std::string& line) const {
  parts_->console->line(line);
  note(line);
}

void Session::note(const std::string& line) const {
  if (parts_->log) parts_->log->info(line);
}

void Session::log_to(const std::string& folder) {
  std::string path = fmt::format("{}/log.rank{}", folder, rank());
  try {
    parts_->log = std::make_shared<spdlog::logger>("rank", std::make_shared<spdlog::sinks::basic_file_sink_mt>(path));
    parts_->log->set_pattern("%Y-%m-%d %H:%M:%S.%e  %v");
    parts_->log->flush_on(spdlog::level::info);
  } catch (const spdlog::spdlog_ex& error) {  // a run without its log is better than no run
    parts_->console->line(fmt::format("no log: {}", error.what()));
  }
}

bool Session::stop_requested() const {
  return !group().all(signals_seen == 0);
}

bool first_process() {
  return launched_rank() == 0;
}

int guarded(const std::function<int()>& body) noexcept {
  try {
    return body();
  } catch (const Error& error) {
    return report(error.exit() == Exit::internal ? fmt::format("{} [{}]", error.what(), error.where()) : error.what(),
                  error.exit());
  } catch (const std::bad_alloc&) {
    return report("out of memory: try fewer rows_per_lane", Exit::internal);
  } catch (const std::exception& error) {
    return report(error.what(), Exit::internal);
  }
}

int run(int argc, char** argv, const std::function<void(Session&)>& body, SessionOptions options) {
  CLI::App app;
  app.add_option("--device", options.device, "auto, cpu or cuda");
  app.add_option("--threads", options.threads, "CPU threads of each rank; 0: its share of the cores");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : int(Exit::usage);
  }
  return guarded([&] {
    Session session(options);
    body(session);
    return 0;
  });
}

}  // namespace lockstep::launch
