#pragma once

// Private to kernels/: what the vendors' libraries are asked to prepare once and run often.

#include <array>
#include <cstdint>
#include <unordered_map>

namespace lockstep {

/// What a plan depends on: an operation and its sizes, types and options; unused entries are 0.
using PlanKey = std::array<std::int64_t, 20>;

template <class Plan>
class PlanCache {
 public:
  /// The plan made earlier for `key`, else the one that make() returns now. The reference stays valid.
  template <class Make>
  Plan& get(const PlanKey& key, Make make) {
    auto found = plans_.find(key);
    return found != plans_.end() ? found->second : plans_.emplace(key, make()).first->second;
  }

 private:
  struct Hash {
    std::size_t operator()(const PlanKey& key) const {
      std::uint64_t h = 1469598103934665603u;
      for (std::int64_t v : key) {
        h = (h ^ std::uint64_t(v)) * 0x9E3779B97F4A7C15u;
        h ^= h >> 29;
      }
      return h;
    }
  };
  std::unordered_map<PlanKey, Plan, Hash> plans_;
};

}  // namespace lockstep
