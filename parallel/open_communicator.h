#pragma once

#include <functional>

#include "core/device.h"
#include "parallel/communicator.h"

namespace lockstep::parallel {

/// A communicator of one rank. allocate() gives memory of `device`, or host memory without one.
std::unique_ptr<Communicator> open_solo_communicator(Device* device = nullptr);

/// Bytes of one message at most.
inline constexpr std::int64_t mpi_message = 256 << 10;
/// Call it before MPI_Init. Lets Open MPI send messages of that size over TCP as soon as they are posted: its own limit is 64
/// KiB, and larger ones wait until both ends have asked and answered, which ranks that compute do only between two ops. What the
/// user has set stays. Other MPI libraries, and other networks, take no notice.
void prepare_mpi();

struct MpiOptions {
  std::int64_t piece = mpi_message;
  int machine = -1;  ///< for tests: ranks of one machine that say different numbers act as if they were on different machines
};
/// All ranks of MPI_COMM_WORLD, on host memory. MPI has been started by the caller and is called from this thread only.
/// Collective.
std::unique_ptr<Communicator> open_mpi_communicator(MpiOptions = {});

/// How ranks meet and wait on GPUs.
struct NcclOptions {
  double meeting = 120;     ///< seconds for the ranks to meet, and for one call to return
  double collective = 600;  ///< seconds for a collective to end, once started
  /// How NCCL spends the GPU's cores: its own choice, fewer at the same speed, or none where copy engines can do it.
  enum class Policy : std::uint8_t { standard, efficient, copy_engines } policy = Policy::standard;
  bool register_memory = true;  ///< allocate() registers with NCCL
  /// Called from another thread when the ranks are lost and NCCL does not even end: what is left is to end the process.
  std::function<void(const std::string&)> hopeless = {};
};
/// The ranks of `group`, on the memory of the queue's GPU, which is the calling thread's current one; no two on one GPU.
/// Collective; throws (Exit::peer_lost) when the ranks have not met in time, and (Exit::usage) in a program built without NCCL.
std::unique_ptr<Communicator> open_nccl_communicator(Group& group, const Queue& queue, NcclOptions = {});

/// Collectives on the memory of the queue's device that go through the host, by `host`: for ranks that share a GPU, which NCCL
/// refuses. join() waits until the sums are back on the host. A queue on the CPU serves tests.
std::unique_ptr<Communicator> open_host_staged_communicator(const Queue& queue, std::unique_ptr<Communicator> host);

/// The group of all ranks of MPI_COMM_WORLD. Collective.
std::unique_ptr<Group> open_mpi_group();

}  // namespace lockstep::parallel
