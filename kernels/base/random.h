#pragma once

#include <cmath>
#include <string_view>

#include "kernels/base/dtype.h"
#include "kernels/base/math.h"

namespace lockstep {

/// Where a random number is used. Together with (seed, step, lane) and the index of an element in the unsharded tensor it
/// decides the number, so neither the rank count, tensor sharding nor recomputation changes a draw.
struct RandomKey {
  std::uint64_t seed = 0;
  std::uint64_t step = 0;
  std::uint32_t lane = 0;
  std::uint32_t site = 0;
  /// Where the step's number lies in the device's memory, in place of `step`: a captured step is replayed with new draws.
  const std::int32_t* step_at = nullptr;

  /// The key with its step's number read; in memory of the device on which this runs.
  HD RandomKey settled() const {
    RandomKey key = *this;
    if (step_at) key.step = std::uint32_t(*step_at);
    key.step_at = nullptr;
    return key;
  }
};

struct Random4 {
  std::uint32_t x, y, z, w;
};

/// Philox-4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11): four words for one counter.
HD Random4 philox(std::uint32_t k0, std::uint32_t k1, std::uint32_t c0, std::uint32_t c1, std::uint32_t c2, std::uint32_t c3) {
  for (int round = 0; round < 10; ++round) {
    std::uint64_t a = std::uint64_t(0xD2511F53u) * c0, b = std::uint64_t(0xCD9E8D57u) * c2;
    std::uint32_t n0 = std::uint32_t(b >> 32) ^ c1 ^ k0, n2 = std::uint32_t(a >> 32) ^ c3 ^ k1;
    c1 = std::uint32_t(b);
    c3 = std::uint32_t(a);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {c0, c1, c2, c3};
}

/// Four words of a settled key, for elements 4*block … 4*block+3 of the tensor that `key` names.
HD Random4 random_words(const RandomKey& key, std::uint64_t block) {
  std::uint32_t far = std::uint32_t(block >> 32) * 0x9E3779B9u;  // tensors beyond 2^34 elements
  return philox(std::uint32_t(key.seed), std::uint32_t(key.seed >> 32), std::uint32_t(block), key.site ^ far,
                std::uint32_t(key.step), key.lane);
}

/// Uniform in [0, 1), 24 bits.
HD float to_uniform(std::uint32_t word) {
  return float(std::int32_t(word >> 8)) * 0x1p-24f;
}

/// Two independent normal numbers (Box & Muller 1958) from two words. The radius reaches 6.7.
struct NormalPair {
  float a, b;
};
HD NormalPair to_normals(std::uint32_t radius_word, std::uint32_t angle_word) {
  float u = (float(radius_word) + .5f) * 0x1p-32f;  // in (0, 1]
  float radius = std::sqrt(-2 * math::log(u));
  math::SineCosine angle = math::sine_cosine_turns(to_uniform(angle_word));
  return {radius * angle.cosine, radius * angle.sine};
}

/// The word of one element.
HD std::uint32_t random_word(const RandomKey& key, std::uint64_t element) {
  Random4 r = random_words(key, element / 4);
  switch (element % 4) {
    case 0: return r.x;
    case 1: return r.y;
    case 2: return r.z;
    default: return r.w;
  }
}

/// FNV-1a: the site of a module path, the key of a parameter name. Stable across programs and machines.
constexpr std::uint32_t hash_name(std::string_view name) {
  std::uint32_t h = 2166136261u;
  for (char c : name) h = (h ^ std::uint8_t(c)) * 16777619u;
  return h;
}

}  // namespace lockstep
