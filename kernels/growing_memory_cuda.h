#pragma once

// Private to kernels/.

#include <cstddef>
#include <vector>

struct CUstream_st;

namespace lockstep {

/// Device memory that is asked for again and again and only grows. Blocks that became too small stay until the end: steps that
/// were captured hold their addresses.
class GrowingMemory {
 public:
  explicit GrowingMemory(CUstream_st* stream) : stream_(stream) {}
  ~GrowingMemory();
  GrowingMemory(const GrowingMemory&) = delete;
  GrowingMemory& operator=(const GrowingMemory&) = delete;

  /// At least `bytes` bytes, aligned to 256; what is in them lasts until the next call. Null for no bytes before any were needed.
  /// Throws while a step is being captured and more are needed than ever before: the two steps before a capture find that out.
  void* at_least(std::size_t bytes);
  /// Of all blocks.
  std::size_t held_bytes() const { return held_; }

 private:
  CUstream_st* stream_;
  std::vector<void*> blocks_;
  std::size_t bytes_ = 0, held_ = 0;
};

}  // namespace lockstep
