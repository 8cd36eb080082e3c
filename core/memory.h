#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace lockstep {

/// Shared ownership of a piece of memory; the last owner gives it back to where it came from.
using Memory = std::shared_ptr<std::byte>;

/// A caching allocator in stream order: memory given back is handed out again at once, since later work runs after earlier work
/// in the same queue. The same sequence of requests gets the same addresses, which a captured step relies on.
class Arena {
 public:
  /// How much memory a device has, and what the arena does not know of.
  struct Capacity {
    std::string name;
    std::size_t total = 0, free = 0;
    std::vector<std::pair<std::string, std::size_t>> owners = {};
  };
  /// The two calls that get and return raw memory (aligned_alloc and free; cudaMalloc and cudaFree), and what is told when there
  /// is no more (may be absent).
  struct Source {
    std::function<std::byte*(std::size_t)> allocate;
    std::function<void(std::byte*)> release;
    std::function<Capacity()> capacity = {};
  };
  explicit Arena(Source source);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /// At least `bytes` bytes, aligned to 256. Throws when the device has no more, with the table of owners.
  Memory allocate(std::size_t bytes);
  /// From here on it is remembered which blocks are handed out…
  void begin_keeping();
  /// …until here. While the result lives, they are handed out to nobody once they have come back: a captured step writes to them
  /// whenever it is replayed.
  Memory end_keeping();

  /// The same memory, which came from elsewhere and lies on this device, under its owner's name in that table while it lives.
  Memory adopt(const std::string& owner, Memory memory, std::size_t bytes);
  /// Who owns what, a line each, in MiB.
  std::string owners() const;

  /// Gives the system back what nothing uses, which is otherwise kept for tensors to come.
  void release_unused();

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
