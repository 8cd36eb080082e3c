#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace lockstep {

/// Shared ownership of a piece of memory; the last owner gives it back to where it came from.
using Memory = std::shared_ptr<std::byte>;

/// A caching allocator in stream order: memory given back is handed out again at once, since later work runs after earlier work
/// in the same queue. The same sequence of requests gets the same addresses, which a captured step relies on.
class Arena {
 public:
  /// The two calls that get and return raw memory (aligned_alloc and free; cudaMalloc and cudaFree).
  struct Source {
    std::function<std::byte*(std::size_t)> allocate;
    std::function<void(std::byte*)> release;
  };
  explicit Arena(Source source);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// At least `bytes` bytes, aligned to 256. Throws when the device has no more.
  Memory allocate(std::size_t bytes);

  std::size_t live_bytes() const;      ///< handed out now
  std::size_t peak_bytes() const;      ///< most that was handed out at once
  std::size_t reserved_bytes() const;  ///< held from the system, in use or not
  void reset_peak();

 private:
  struct Pool;
  std::shared_ptr<Pool> pool_;  // shared with what was given: memory that outlives the arena is returned to the system
};

/// Host memory aligned to 256 bytes, zero-filled, not from an arena.
Memory host_memory(std::size_t bytes);

}  // namespace lockstep
