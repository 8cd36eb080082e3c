#pragma once

#include <cuda_runtime.h>

namespace emulated {

/// What a block may have of dynamic shared memory. Without being asked a GPU gives 48 KiB less the kernel's `__shared__` variables,
/// whose size is not known here: 1 KiB is taken for them.
constexpr std::size_t most_dynamic_memory = 227 << 10, dynamic_memory_unasked = 47 << 10;
/// How many bytes behind it are watched.
constexpr std::size_t watched = 1024;
/// Called where a program's kernels are: the memory that their `extern __shared__` names.
void give_dynamic_memory(std::byte* (*of_this_thread)(), std::size_t bytes);

/// Shared memory of a launch's blocks: the variables that each thread of the system has its own of, in the library or program that
/// holds the kernel.
class SharedMemory {
 public:
  explicit SharedMemory(const Launch&);
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  /// Fills it with NaN, of whatever type, up to a little behind what a block may use.
  void poison() const;
  /// Whether a block wrote there.
  bool overstepped() const;

 private:
  std::byte* begin_ = nullptr;
  std::size_t bytes_ = 0;
  std::byte* dynamic_ = nullptr;
  std::size_t dynamic_bytes_ = 0, asked_;
};

}  // namespace emulated
