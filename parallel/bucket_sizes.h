#pragma once

#include <vector>

#include "core/group.h"
#include "parallel/bucket.h"
#include "parallel/communicator.h"

namespace lockstep::parallel {

/// What an all_reduce of so many bytes takes, on the slowest rank.
struct AllReduceTime {
  std::int64_t bytes = 0;
  double seconds = 0;
};

/// Times all_reduce on this communicator's own memory, freshly written as backward leaves it, from 16 KiB in steps of two to
/// `most` bytes or 32 MiB; less far where the link is slow: it takes about half a second at most. Every rank gets the same
/// answer. Collective.
std::vector<AllReduceTime> time_all_reduce(Communicator&, Group&, const Queue&, DType, std::int64_t most);

/// Bucket sizes for gradients of `all` bytes together. Between the ends: the smallest size that reaches 90 % of the best rate, so
/// that a bucket costs little more than its bytes; from `all` / 64 to `all` / 8, so that there are several and not too many. Head
/// and tail: the smallest size that reaches half of the best rate (Hockney's n_1/2, 1982): they leave early and end early, and a
/// smaller one would not take much less time.
BucketOptions bucket_sizes(const std::vector<AllReduceTime>&, std::int64_t all);

}  // namespace lockstep::parallel
