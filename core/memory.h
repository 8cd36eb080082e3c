#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace lockstep {

/// Shared ownership of a piece of memory; the last owner gives it back to where it came from.
using Memory = std::shared_ptr<std::byte>;

/// A caching allocator in stream order: memory given back is handed out again at once, since later work runs after earlier work in
/// the same queue. The same sequence of requests gets the same addresses, which a captured step relies on.
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

  /// At least `bytes` bytes, aligned to 256. Throws when the device has no more. The arena must outlive what it gave.
  Memory allocate(std::size_t bytes);

  std::size_t live_bytes() const { return live_; }
  std::size_t peak_bytes() const { return peak_; }
  std::size_t reserved_bytes() const { return reserved_; }
  void reset_peak() { peak_ = live_; }

 private:
  struct State;
  void give_back(std::byte*, std::size_t);

  Source source_;
  std::map<std::size_t, std::vector<std::byte*>> free_;
  std::size_t live_ = 0, peak_ = 0, reserved_ = 0;
  std::mutex mutex_;  // loader threads give memory back too
};

/// Host memory aligned to 256 bytes, zero-filled, not from an arena.
Memory host_memory(std::size_t bytes);

}  // namespace lockstep
