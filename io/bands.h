#pragma once

// Private to io/: decoded pieces of datasets that are too large to be held.

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>

#include "core/memory.h"

namespace lockstep::io {

/// A band is some neighbouring rows of one dataset, decoded: what one row of its chunks holds. The cache keeps those used last,
/// up to a number of bytes; a band in use stays. Thread-safe: a band that several threads want is made by one of them.
class BandCache {
 public:
  explicit BandCache(std::size_t capacity) : capacity_(capacity) {}
  using Band = std::shared_ptr<const std::byte>;
  /// Band `index` of dataset `owner`, `bytes` long, made by `fill` when it is not there.
  Band get(std::uint64_t owner, std::int64_t index, std::size_t bytes, const std::function<void(std::byte*)>& fill);
  /// Whether it is there or being made.
  bool has(std::uint64_t owner, std::int64_t index) const;
  std::size_t capacity() const { return capacity_; }
  /// Bands made since the cache began: an order that suits the chunks makes each about once an epoch.
  std::int64_t made() const;

 private:
  struct Key {
    std::uint64_t owner;
    std::int64_t index;
    bool operator==(const Key&) const = default;
  };
  struct Hash {
    std::size_t operator()(const Key& k) const {
      return std::size_t((k.owner << 48 ^ std::uint64_t(k.index)) * 0x9E3779B97F4A7C15u);
    }
  };
  struct Entry {
    Memory data;
    std::size_t bytes = 0;
    bool ready = false, failed = false;
  };
  using Order = std::list<std::pair<Key, std::shared_ptr<Entry>>>;  // used last comes first
  void make_room();

  const std::size_t capacity_;
  mutable std::mutex mutex_;
  std::condition_variable made_now_;
  Order order_;
  std::unordered_map<Key, Order::iterator, Hash> entries_;
  std::size_t bytes_ = 0;
  std::int64_t made_ = 0;
  Arena memory_{raw_memory()};  // last: bands given back are filled again, without new pages
  static Arena::Source raw_memory();
};

}  // namespace lockstep::io
