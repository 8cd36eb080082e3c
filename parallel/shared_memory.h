#pragma once

// Private to parallel/: includes the vendor's header.

#include <mpi.h>

#include <vector>

#include "core/memory.h"

namespace lockstep::parallel {

/// Memory that every rank of one machine has a piece of and all can read and write.
struct SharedMemory {
  Memory mine;                  ///< this rank's piece; keeps all of them mapped
  std::vector<std::byte*> all;  ///< every rank's piece, at this rank's addresses
  std::size_t bytes = 0;        ///< of each piece
  explicit operator bool() const { return mine != nullptr; }
};

/// `bytes` zeroed bytes for each rank of `comm`; absent on every rank when they do not see each other's memory or any of them
/// cannot get it. The pieces belong to no file system: a small /dev/shm is no obstacle and nothing is left behind. Collective;
/// giving the memory back is not.
SharedMemory share_memory(MPI_Comm comm, std::size_t bytes);

/// When memory is taken from the machine.
enum class Pages : std::uint8_t { now, when_touched };
/// One piece of `bytes` zeroed bytes for all ranks of `machine`, which are on one machine; absent on every rank when there is no
/// memory to be had. Collective; giving it back is not.
Memory share_block(MPI_Comm machine, std::size_t bytes, Pages);

}  // namespace lockstep::parallel
