#pragma once

// Private to kernels/*_cpu.cpp: the only files that see oneDNN.

#include <array>
#include <dnnl.hpp>
#include <unordered_map>

#include "kernels/libraries.h"

namespace lockstep {

/// What a cached primitive depends on: an operation and its sizes, types and options, unused entries 0. The number of threads is
/// added by the cache, because oneDNN divides work when a primitive is made.
using PlanKey = std::array<std::int64_t, 20>;

/// A oneDNN primitive ready to run, with the memory objects of its arguments (their data is set before each run).
struct CpuPlan {
  dnnl::primitive primitive;
  std::unordered_map<int, dnnl::memory> arguments;
};

class CpuLibraries {
 public:
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};

  /// The plan made earlier for `key`, else the one that make() returns now.
  template <class Make>
  CpuPlan& plan(const PlanKey& key, Make make) {
    Slot slot{key, threads()};
    auto found = plans_.find(slot);
    if (found == plans_.end()) found = plans_.emplace(slot, make()).first;
    return found->second;
  }

 private:
  struct Slot {
    PlanKey key;
    int threads;
    bool operator==(const Slot&) const = default;
  };
  struct Hash {
    std::size_t operator()(const Slot&) const;
  };
  static int threads();
  std::unordered_map<Slot, CpuPlan, Hash> plans_;
};

}  // namespace lockstep
