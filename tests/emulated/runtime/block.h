#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <cuda_runtime.h>

namespace emulated {

/// Numbers that decide in what order things happen that CUDA leaves open. The seed is CUDA_EMULATED_SEED, 1 unless given.
class Chance {
 public:
  explicit Chance(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 1) {}
  std::uint64_t next();
  std::uint64_t below(std::uint64_t n) { return next() % n; }
  /// 0 … n - 1 in some order: as they are, backwards, or shuffled.
  void order(std::vector<int>& numbers, int n);

 private:
  std::uint64_t state_;
};
/// The one of the whole program, for callers that hold the runtime's lock.
Chance& chance();

/// Runs all blocks of a launch, one after another, on the calling thread. Returns what went wrong, in a sentence, or "".
std::string run(const Launch&);

}  // namespace emulated
