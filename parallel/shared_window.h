#pragma once

// Private to parallel/: includes a private header.

#include <atomic>
#include <vector>

#include "kernels/base/view.h"
#include "parallel/shared_memory.h"

namespace lockstep::parallel {

/// Memory that all ranks of one machine see, and how far each of them is with the collectives on it. A collective is: everybody
/// arrives (its data is complete), everybody does its share of the work on everybody's memory, everybody has finished. They are
/// numbered from 1; every rank arrives in that order, and may finish in any.
class SharedWindow {
 public:
  /// Absent (null) where the ranks of `machine` cannot share memory. Collective.
  static std::unique_ptr<SharedWindow> open(MPI_Comm machine);

  int rank() const { return rank_; }
  int size() const { return size_; }
  /// Memory for collectives, or null on every rank when there is none. Collective.
  Memory allocate(std::size_t bytes);
  /// Whether this piece came from allocate(). The other ranks' pieces are those at the same place.
  bool holds(View);
  /// The piece at the same place of each rank of the machine.
  std::vector<View> everyones(View);

  /// This rank's data is complete, and the others may change it; the number of the collective. `kind`: what is to be done.
  std::uint64_t arrive(View, int kind);
  /// Whether everybody has arrived.
  bool may_work(std::uint64_t number) const;
  /// Throws (Exit::diverged) when another rank means another piece or another work by this number.
  void check(std::uint64_t number) const;
  /// This rank's share of the work is done.
  void finish(std::uint64_t number);
  /// Whether everybody has finished: the result is there and the memory may be used again.
  bool all_finished(std::uint64_t number) const;
  /// Gives the core away until another rank arrives or finishes, for a millisecond at most; not at all when `moved` says true.
  template <class Moved>
  void sleep(Moved moved) {
    auto& sleeps = progress_of(rank_).sleeps;
    sleeps.store(1, std::memory_order_seq_cst);  // before looking: who comes after the look sees it
    if (!moved()) sleep_while(sleeps);
    sleeps.store(0, std::memory_order_relaxed);
  }

 private:
  static constexpr std::uint64_t kept = 64;
  /// How far a rank is; in shared memory, written by that rank only.
  struct Progress {
    alignas(64) std::atomic<std::uint64_t> arrived;
    alignas(64) std::atomic<std::uint64_t> finished;      // all up to here
    alignas(64) std::atomic<std::uint32_t> sleeps;        // others wake it up
    alignas(64) std::atomic<std::uint64_t> pieces[kept];  // what the latest collectives are about
  };
  struct Segment {
    std::weak_ptr<std::byte> owner;
    SharedMemory memory;  // without `mine`: the owners of allocate()'s result keep it
  };
  struct Place {
    const Segment* segment = nullptr;
    std::size_t index = 0, offset = 0;
  };
  SharedWindow(MPI_Comm machine, SharedMemory control);
  Place find(View);
  static void sleep_while(std::atomic<std::uint32_t>& sleeps);
  void wake();
  Progress& progress_of(int rank) const { return *reinterpret_cast<Progress*>(control_.all[std::size_t(rank)]); }

  MPI_Comm machine_;
  int rank_ = 0, size_ = 1;
  SharedMemory control_;
  std::vector<Segment> segments_;
  std::uint64_t arrived_ = 0;
  std::vector<std::uint64_t> early_;  // finished before one with a lower number
};

}  // namespace lockstep::parallel
