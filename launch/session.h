#pragma once

#include <functional>
#include <memory>
#include <string>

#include "core/device.h"
#include "core/group.h"
#include "launch/progress.h"
#include "parallel/communicator.h"

namespace lockstep::launch {

/// What a session is asked for.
struct SessionOptions {
  std::string device =
      "auto";          ///< "cpu", "cuda" (the GPU of this rank's place on its machine) or "auto": cuda where there is one
  int threads = 0;     ///< CPU threads of this rank; 0: its share of the machine's cores, one for `exact`
  bool exact = false;  ///< results must not depend on the number of ranks, so neither may the number of threads
  bool alone = false;  ///< one rank is meant, even inside a Slurm job of several tasks
};

/// One rank's part in a run: its place among the ranks, its device and its ways to talk to the others. MPI is started only under
/// mpirun or srun; otherwise this is a session of one rank. Start one per program, in main's thread; constructor and destructor
/// are collective.
class Session {
 public:
  explicit Session(SessionOptions = {});
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  int rank() const { return group().rank(); }
  int size() const { return group().size(); }
  /// CPU threads that this rank computes with.
  int threads() const;
  /// Which cores those are, in words.
  const std::string& placement() const;
  Device& device() const;
  Group& group() const;
  /// Collectives on the memory of device(); between all ranks.
  parallel::Communicator& communicator() const;

  /// From rank 0: a line on standard output. From every rank: a line of `<folder>/log.rank<k>`, once log_to() was called.
  void log(const std::string& line) const;
  /// To this rank's log file alone.
  void note(const std::string& line) const;
  void log_to(const std::string& folder);
  /// Standard output; quiet on all ranks but 0.
  Console& console() const;

  /// True on every rank once any rank has received SIGINT, SIGTERM or SIGUSR1: save and end with Exit::preempted. Collective and
  /// cheap; ask once a step. A second SIGINT ends the program at once.
  bool stop_requested() const;

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

/// main() of a program that trains: starts a session, runs `body` and returns the exit code of the process. An exception becomes
/// one message on standard error, from one rank, and ends all ranks with its exit code. Flags understood: --device, --threads.
int run(int argc, char** argv, const std::function<void(Session&)>& body, SessionOptions options = {});

/// True in the process that its launcher calls the first one; before MPI starts.
bool first_process();

/// The part of run() that turns exceptions into a message and an exit code: for programs that start their session themselves.
int guarded(const std::function<int()>& body) noexcept;

}  // namespace lockstep::launch
