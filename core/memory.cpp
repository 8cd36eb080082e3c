#include "core/memory.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>

#include "kernels/base/check.h"

namespace lockstep {

struct Arena::Pool {
  Source source;
  std::mutex mutex;                                  // loader threads give memory back too
  std::map<std::size_t, std::set<std::byte*>> free;  // lowest address first: equal sequences get equal addresses
  std::map<std::string, std::size_t> adopted;        // bytes by owner
  std::size_t live = 0, peak = 0, reserved = 0;
  bool closed = false;

  std::string owners() const {
    std::string table;
    std::size_t known = reserved;
    auto line = [&](std::size_t bytes, const std::string& owner) {
      std::string mib = std::to_string(bytes >> 20);
      if (bytes > 0) table += "\n" + std::string(mib.size() < 10 ? 10 - mib.size() : 0, ' ') + mib + " MiB  " + owner;
    };
    line(live, "tensors and optimizer state in use");
    line(reserved - live, "kept for tensors of other sizes");
    Capacity capacity = source.capacity ? source.capacity() : Capacity{};
    for (auto& [owner, bytes] : adopted) capacity.owners.emplace_back(owner, bytes);
    for (auto& [owner, bytes] : capacity.owners) {
      line(bytes, owner);
      known += bytes;
    }
    if (capacity.total == 0) return table;
    std::size_t used = capacity.total - capacity.free;
    line(used > known ? used - known : 0, "all else: CUDA and its libraries, other programs and ranks");
    line(capacity.free, "free, of " + std::to_string(capacity.total >> 20) + " MiB on " + capacity.name);
    return table;
  }

  void give_back(std::byte* data, std::size_t bytes) {
    std::lock_guard lock(mutex);
    live -= bytes;
    if (closed)
      source.release(data);
    else
      free[bytes].insert(data);
  }
  void release_unused() {
    for (auto& [bytes, blocks] : free)
      for (auto* data : blocks) {
        source.release(data);
        reserved -= bytes;
      }
    free.clear();
  }
};

namespace {

/// Sizes are rounded so that shapes that differ a little share blocks: to 256 bytes below 64 KiB, above to an eighth of the power
/// of two below them (at most 12.5 % lost).
std::size_t rounded(std::size_t bytes) {
  std::size_t grain = 256;
  while (grain * 256 < bytes) grain *= 2;
  if (grain > 256) grain *= 16;
  return bytes == 0 ? 256 : (bytes + grain - 1) / grain * grain;
}

}  // namespace

Arena::Arena(Source source) : pool_(std::make_shared<Pool>()) {
  pool_->source = std::move(source);
}

Arena::~Arena() {
  std::lock_guard lock(pool_->mutex);
  pool_->release_unused();
  pool_->closed = true;
}

Memory Arena::allocate(std::size_t bytes) {
  bytes = rounded(bytes);
  std::byte* data = nullptr;
  {
    std::lock_guard lock(pool_->mutex);
    auto& blocks = pool_->free[bytes];
    if (!blocks.empty()) {
      data = *blocks.begin();
      blocks.erase(blocks.begin());
    } else {
      data = pool_->source.allocate(bytes);
      if (!data) {  // memory held for other sizes may be enough
        pool_->release_unused();
        data = pool_->source.allocate(bytes);
      }
      require(
          data != nullptr,
          "out of memory: {} MiB more were asked for; use fewer rows_per_lane, more lanes, or recompute = true. Who owns what:{}",
          bytes >> 20, pool_->owners());
      pool_->reserved += bytes;
    }
    pool_->live += bytes;
    pool_->peak = std::max(pool_->peak, pool_->live);
  }
  return Memory(data, [pool = pool_, bytes](std::byte* p) { pool->give_back(p, bytes); });
}

Memory Arena::adopt(const std::string& owner, Memory memory, std::size_t bytes) {
  std::lock_guard lock(pool_->mutex);
  pool_->adopted[owner] += bytes;
  return Memory(memory.get(), [memory, bytes, owner, pool = pool_](std::byte*) {
    std::lock_guard lock(pool->mutex);
    pool->adopted[owner] -= bytes;
  });
}

std::string Arena::owners() const {
  std::lock_guard lock(pool_->mutex);
  return pool_->owners();
}

std::size_t Arena::live_bytes() const {
  return pool_->live;
}
std::size_t Arena::peak_bytes() const {
  return pool_->peak;
}
std::size_t Arena::reserved_bytes() const {
  return pool_->reserved;
}
void Arena::reset_peak() {
  pool_->peak = pool_->live;
}

Memory host_memory(std::size_t bytes) {
  bytes = bytes == 0 ? 256 : (bytes + 255) / 256 * 256;
  auto* data = static_cast<std::byte*>(std::aligned_alloc(256, bytes));
  require(data != nullptr, "out of host memory: {} MiB more were asked for", bytes >> 20);
  std::memset(data, 0, bytes);
  return Memory(data, [](std::byte* p) { std::free(p); });
}

}  // namespace lockstep
