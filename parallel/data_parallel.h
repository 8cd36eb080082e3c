#pragma once

#include <vector>

#include "core/flat.h"
#include "core/group.h"
#include "core/tape.h"
#include "parallel/bucket.h"
#include "parallel/communicator.h"

namespace lockstep::parallel {

/// The lanes of one rank: [first, first + count).
struct LaneShare {
  int first = 0, count = 1;
};
/// Lanes are dealt out in contiguous pieces whose sizes differ by at most one.
LaneShare share_of_lanes(int lanes, int rank, int ranks);
/// Throws (Exit::usage), listing the rank counts that work, unless `ranks` ranks hold whole subtrees of `lanes` lanes.
void check_lanes(int lanes, int ranks, Reduction);

/// Sums gradients over all lanes of all ranks, one bucket at a time, while backward of the last lane is still running.
/// A step is:
///     begin_step();
///     for each lane of this rank:  begin_lane(i);  forward;  tape.backward(loss, 1 / global weight);
///     finish_step();               // every gradient is final: gradients() may be read by work in the queue
/// The constructor is collective: it checks that all ranks have the same parameters and plan, places the parameters' memory and
/// makes their gradients views of the buckets.
class DataParallel final : public GradientSink {
 public:
  struct Options {
    int lanes = 0;  ///< of the whole run; 0: one a rank
    Reduction reduction = Reduction::fast;
    bool overlap = true;      ///< false: all buckets leave after backward
    bool communicate = true;  ///< false: a stub for measuring what communication costs; gradients stay local
    DType gradient = DType::f32;
    BucketOptions buckets = {};
  };
  DataParallel(ParameterSet&, Communicator&, Group&, Options);
  ~DataParallel() override;

  LaneShare lanes() const { return share_; }
  const Flat& flat() const { return flat_; }
  /// The summed gradients in the layout's order; valid after finish_step().
  View gradients() const;

  void begin_step();
  /// `lane`: 0 … lanes().count - 1. `backwards`: how many backward passes this lane will run; buckets leave during the last one.
  void begin_lane(int lane, int backwards = 1);
  void finish_step();

  void ready(const Queue&, Parameter&) override;
  void progress(const Queue&) override;
  void backward_ended(const Queue&) override;

  /// What one bucket's collective cost in the last step, in milliseconds (hidden and exposed as the README defines them).
  struct BucketTime {
    std::int64_t bytes = 0;
    double started = 0, finished = 0;  ///< since begin_step
    double hidden = 0, exposed = 0;
  };
  const std::vector<BucketTime>& times() const { return times_; }

 private:
  ParameterSet& parameters_;
  Communicator& communicator_;
  Options options_;
  LaneShare share_;
  Flat flat_;
  std::vector<BucketTime> times_;
};

}  // namespace lockstep::parallel
