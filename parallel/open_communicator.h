#pragma once

#include "core/device.h"
#include "parallel/communicator.h"

namespace lockstep::parallel {

/// A communicator of one rank. allocate() gives memory of `device`, or host memory without one.
std::unique_ptr<Communicator> open_solo_communicator(Device* device = nullptr);

/// All ranks of MPI_COMM_WORLD, on host memory. MPI has been started by the caller and is called from this thread only.
/// Collective.
std::unique_ptr<Communicator> open_mpi_communicator();
/// As above; no MPI call moves more than `piece` bytes (messages of 2 GiB and more do not fit MPI's counts).
std::unique_ptr<Communicator> open_mpi_communicator(std::int64_t piece);

/// The ranks of `group`, on the memory of the queue's GPU, which is the calling thread's current one. Collective; throws
/// (Exit::peer_lost) when the ranks have not met within `deadline` seconds, and (Exit::usage) in a program built without NCCL.
std::unique_ptr<Communicator> open_nccl_communicator(Group& group, const Queue& queue, double deadline = 120);

/// The group of all ranks of MPI_COMM_WORLD. Collective.
std::unique_ptr<Group> open_mpi_group();

}  // namespace lockstep::parallel
