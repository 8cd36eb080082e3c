#include "io/bands.h"

#include <cstdlib>
#include <utility>

namespace lockstep::io {

Arena::Source BandCache::raw_memory() {
  return {[](std::size_t bytes) { return static_cast<std::byte*>(std::aligned_alloc(256, bytes)); },
          [](std::byte* data) { std::free(data); }};
}

void BandCache::make_room() {
  for (auto at = order_.end(); bytes_ > capacity_ && at != order_.begin();) {
    --at;
    if (!at->second->ready) continue;
    bytes_ -= at->second->bytes;
    entries_.erase(at->first);
    at = order_.erase(at);
  }
}

BandCache::Band BandCache::get(std::uint64_t owner, std::int64_t index, std::size_t bytes,
                               const std::function<void(std::byte*)>& fill) {
  const Key key{owner, index};
  std::unique_lock lock(mutex_);
  for (;;) {
    const auto found = entries_.find(key);
    if (found == entries_.end()) break;
    order_.splice(order_.begin(), order_, found->second);
    const auto entry = found->second->second;
    made_now_.wait(lock, [&] { return entry->ready || entry->failed; });
    if (entry->ready) return entry->data;
    // Who made it failed: this caller tries too, and meets the same error.
  }
  const auto entry = std::make_shared<Entry>();
  entry->bytes = bytes;
  order_.emplace_front(key, entry);
  entries_[key] = order_.begin();
  bytes_ += bytes;
  make_room();
  lock.unlock();
  try {
    auto data = memory_.allocate(bytes);
    fill(data.get());
    lock.lock();
    entry->data = std::move(data);
  } catch (...) {
    if (!lock.owns_lock()) lock.lock();
    entry->failed = true;
    bytes_ -= bytes;
    order_.erase(entries_[key]);
    entries_.erase(key);
    made_now_.notify_all();
    throw;
  }
  entry->ready = true;
  ++made_;
  made_now_.notify_all();
  const Band band = entry->data;
  make_room();  // where the bands in work alone are more than the capacity
  return band;
}

bool BandCache::has(std::uint64_t owner, std::int64_t index) const {
  std::lock_guard lock(mutex_);
  return entries_.contains({owner, index});
}

std::int64_t BandCache::made() const {
  std::lock_guard lock(mutex_);
  return made_;
}

}  // namespace lockstep::io
