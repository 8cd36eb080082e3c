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
  struct Kept {
    std::size_t bytes;
    bool idle;  // not handed out
  };
  std::map<std::byte*, Kept> noted;                       // handed out since begin_keeping
  std::map<std::byte*, std::map<std::byte*, Kept>> kept;  // by what end_keeping gave: its blocks
  bool keeping = false;
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
    std::size_t captured = 0;
    for (auto& [owner, blocks] : kept)
      for (auto& [data, block] : blocks) captured += block.idle ? block.bytes : 0;
    line(captured, "kept for a captured step");
    line(reserved - live - captured, "kept for tensors of other sizes");
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
    for (auto& [owner, blocks] : kept)
      if (auto found = blocks.find(data); found != blocks.end()) {
        found->second.idle = true;
        return;
      }
    take_back(data, bytes);
  }
  void take_back(std::byte* data, std::size_t bytes) {
    if (closed)
      source.release(data);
    else
      free[bytes].insert(data);
  }
  void end_keeping(std::byte* owner) {
    std::lock_guard lock(mutex);
    auto blocks = kept.extract(owner);
    for (auto& [data, block] : blocks.mapped())
      if (block.idle) take_back(data, block.bytes);
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
    if (pool_->keeping) pool_->noted[data] = {bytes, false};
    pool_->live += bytes;
    pool_->peak = std::max(pool_->peak, pool_->live);
  }
  return Memory(data, [pool = pool_, bytes](std::byte* p) { pool->give_back(p, bytes); });
}

void Arena::begin_keeping() {
  std::lock_guard lock(pool_->mutex);
  require(!pool_->keeping, "begin_keeping: one capture at a time");
  pool_->keeping = true;
  pool_->noted.clear();
}

Memory Arena::end_keeping() {
  Memory name(new std::byte, [pool = pool_](std::byte* owner) {
    pool->end_keeping(owner);
    delete owner;
  });
  std::lock_guard lock(pool_->mutex);
  auto& blocks = pool_->kept[name.get()] = std::move(pool_->noted);
  pool_->noted.clear();
  pool_->keeping = false;
  for (auto& [data, block] : blocks) block.idle = pool_->free[block.bytes].erase(data) > 0;
  return name;
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

void Arena::release_unused() {
  std::lock_guard lock(pool_->mutex);
  pool_->release_unused();
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
