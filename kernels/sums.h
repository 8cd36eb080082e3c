#pragma once

#include <span>

#include "kernels/base/view.h"

namespace lockstep::kernels {

/// The sum at `left` becomes left + right, rounded to the type.
struct Merge {
  int left, right;
};
/// The sum at `from` is written to `to`.
struct Store {
  int from;
  void* to;
};
/// Adds host memory in a given order: sum i begins as leaves[i] (all of one size and type: f32, bf16, f16 or i32), merges run one
/// after another, then sums are stored. One pass, a block at a time in the core's first cache; leaves change only where a store
/// goes to them. The first store should go to the memory that is nearest: leaves elsewhere are asked for ahead. Large sums are
/// shared among the caller's OpenMP threads.
void merge_sums(std::span<const View> leaves, std::span<const Merge>, std::span<const Store>);

}  // namespace lockstep::kernels
