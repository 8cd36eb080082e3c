#pragma once

#include <cstddef>

// The emulated GPU's memory: a stretch of addresses of its own, which only the GPU's work can reach.
namespace emulated::memory {

constexpr std::size_t size = std::size_t(16) << 30;

/// Filled with 0xff, aligned to 512 bytes; null when there is no more.
void* allocate(std::size_t bytes);
/// False where nothing was allocated.
bool release(void*);
/// Whether the addresses lie in the memory, and whether they lie in one allocation.
bool holds(const void*);
bool holds(const void*, std::size_t bytes);
std::size_t used();

/// While one lives, all can reach the memory: the GPU works. They nest.
class Open {
 public:
  Open();
  ~Open();
  Open(const Open&) = delete;
  Open& operator=(const Open&) = delete;
};

}  // namespace emulated::memory
