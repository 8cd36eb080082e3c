#pragma once

// Private to parallel/: includes a private header.

#include <atomic>
#include <functional>
#include <vector>

#include "kernels/base/view.h"
#include "parallel/shared_memory.h"

namespace lockstep::parallel {

/// Sums over ranks of one machine, in memory that all of them see: each rank adds its slice of everybody's data by the exact tree
/// and writes it to everybody. No copy in or out, no message; two numbers per rank tell how far it is. Sums are numbered from 1;
/// every rank starts and adds them in that order.
class SharedSums {
 public:
  using Add = std::function<void(View y, View a, View b)>;
  /// Absent (null) where the ranks of `comm` share no memory. Collective.
  static std::unique_ptr<SharedSums> open(MPI_Comm comm, Add add);

  /// Memory for sums, or null on every rank when there is none. Collective.
  Memory allocate(std::size_t bytes);
  /// Whether this piece came from allocate(). The other ranks' pieces are those at the same place.
  bool holds(View);

  /// This rank's data is complete; the number of the sum.
  std::uint64_t arrive(View);
  /// Whether everybody's data is complete and this rank has added all earlier sums: then add().
  bool may_add(std::uint64_t sum) const;
  /// Throws (Exit::diverged) when another rank means another piece by this sum.
  void add(std::uint64_t sum, View);
  /// Whether everybody has added: the result is there and the memory may be used again.
  bool all_added(std::uint64_t sum) const;

 private:
  /// How far a rank is; in shared memory, written by that rank only.
  struct Progress {
    alignas(64) std::atomic<std::uint64_t> arrived;
    alignas(64) std::atomic<std::uint64_t> added;
    alignas(64) std::atomic<std::uint64_t> pieces[64];  // what the latest sums are about
  };
  struct Segment {
    std::weak_ptr<std::byte> owner;
    SharedMemory memory;  // without `mine`: the owners of allocate()'s result keep it
  };
  struct Place {
    const Segment* segment = nullptr;
    std::size_t index = 0, offset = 0;
  };
  SharedSums(MPI_Comm comm, SharedMemory control, Add add);
  Place find(View);
  Progress& progress_of(int rank) const { return *reinterpret_cast<Progress*>(control_.all[std::size_t(rank)]); }

  MPI_Comm comm_;
  int rank_ = 0, size_ = 1;
  SharedMemory control_;
  Add add_;
  std::vector<Segment> segments_;
  std::uint64_t sums_ = 0;
  Memory scratch_;
};

}  // namespace lockstep::parallel
