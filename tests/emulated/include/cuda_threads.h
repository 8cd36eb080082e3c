#pragma once

// Private to cuda_runtime.h: what a thread of a kernel sees.

#include <cstring>
#include <source_location>

// A thread of the system works on one block at a time; the emulator sets these whenever it goes on with another CUDA thread.
extern __thread uint3 threadIdx __attribute__((tls_model("initial-exec")));
extern __thread uint3 blockIdx __attribute__((tls_model("initial-exec")));
extern __thread dim3 blockDim __attribute__((tls_model("initial-exec")));
extern __thread dim3 gridDim __attribute__((tls_model("initial-exec")));
constexpr int warpSize = 32;

namespace emulated {

using Here = std::source_location;

/// Comes back when all threads of the block that have not ended have come to the same place.
void wait_for_block(Here);

enum class Operation : std::uint8_t { syncwarp, shuffle, shuffle_xor, shuffle_down, shuffle_up, ballot, any, all };

/// What a lane brings to an operation of its warp, and what it takes away.
struct Exchange {
  Operation operation;
  unsigned mask;
  int from = -1;             ///< the lane whose value it wants; -1: none
  std::uint64_t value = 0;   ///< its own; then the other's
  bool vote = false;         ///< its own
  unsigned votes = 0, came = 0;  ///< lanes that voted true; lanes that came
};
/// Comes back when all lanes of the mask that have not ended have come with the same operation.
void exchange(Exchange&, Here);
int lane();

template <class T>
T shuffle(Operation operation, unsigned mask, T value, int from, Here at) {
  static_assert(sizeof(T) <= 8);
  Exchange e{.operation = operation, .mask = mask, .from = from};
  std::memcpy(&e.value, &value, sizeof value);
  exchange(e, at);
  std::memcpy(&value, &e.value, sizeof value);
  return value;
}
inline Exchange vote(Operation operation, unsigned mask, bool yes, Here at) {
  Exchange e{.operation = operation, .mask = mask, .vote = yes};
  exchange(e, at);
  return e;
}

}  // namespace emulated

inline void __syncthreads(emulated::Here at = emulated::Here::current()) {
  emulated::wait_for_block(at);
}
inline void __syncwarp(unsigned mask = ~0u, emulated::Here at = emulated::Here::current()) {
  emulated::vote(emulated::Operation::syncwarp, mask, false, at);
}
// Lanes are those of a whole warp: a width that divides it is not emulated.
template <class T>
T __shfl_sync(unsigned mask, T value, int from, emulated::Here at = emulated::Here::current()) {
  return emulated::shuffle(emulated::Operation::shuffle, mask, value, from, at);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, emulated::Here at = emulated::Here::current()) {
  return emulated::shuffle(emulated::Operation::shuffle_xor, mask, value, emulated::lane() ^ bits, at);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, int by, emulated::Here at = emulated::Here::current()) {
  const int from = emulated::lane() + by;
  return emulated::shuffle(emulated::Operation::shuffle_down, mask, value, from < 32 ? from : emulated::lane(), at);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int by, emulated::Here at = emulated::Here::current()) {
  const int from = emulated::lane() - by;
  return emulated::shuffle(emulated::Operation::shuffle_up, mask, value, from >= 0 ? from : emulated::lane(), at);
}
inline unsigned __ballot_sync(unsigned mask, int yes, emulated::Here at = emulated::Here::current()) {
  return emulated::vote(emulated::Operation::ballot, mask, yes, at).votes;
}
inline int __any_sync(unsigned mask, int yes, emulated::Here at = emulated::Here::current()) {
  return emulated::vote(emulated::Operation::any, mask, yes, at).votes != 0;
}
inline int __all_sync(unsigned mask, int yes, emulated::Here at = emulated::Here::current()) {
  const auto all = emulated::vote(emulated::Operation::all, mask, yes, at);
  return all.votes == all.came;
}
inline void __threadfence() {}
