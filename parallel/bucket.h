#pragma once

#include "core/flat.h"

namespace lockstep::parallel {

/// Sizes in bytes of the gradient's type. A small head leaves early, a small tail keeps the last exposed piece short; the middle
/// grows with the number of ranks so that its pieces stay large enough for the wire.
struct BucketOptions {
  std::int64_t head = 1 << 20;
  std::int64_t middle = 0;  ///< 0: max(8 MiB, ranks MiB), at most an eighth of all gradients
  std::int64_t tail = 1 << 20;
};

/// Buckets in reverse order of use. Every bucket ends at a multiple of ranks * 128 elements, padding included. A parameter never
/// spans buckets, so a bucket may exceed its size by one parameter. Frozen parameters and buffers lie behind the buckets.
Layout plan_buckets(const ParameterSet&, int ranks, DType gradient, BucketOptions = {});

}  // namespace lockstep::parallel
