#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "core/flat.h"
#include "core/group.h"
#include "core/tape.h"
#include "parallel/bucket.h"
#include "parallel/communicator.h"
#include "parallel/lane_sums.h"
#include "parallel/sharded_update.h"

namespace lockstep::parallel {

/// The lanes of one rank: [first, first + count).
struct LaneShare {
  int first = 0, count = 1;
};
/// Lanes are dealt out in contiguous pieces whose sizes differ by at most one.
LaneShare share_of_lanes(int lanes, int rank, int ranks);
/// Throws (Exit::usage), listing the rank counts that work, unless `ranks` ranks can share `lanes` lanes: for exact, in whole
/// subtrees (a power of two each, or all on one rank); for fast, at least one each.
void check_lanes(int lanes, int ranks, Reduction);

/// Sums gradients over all lanes of all ranks, one bucket at a time, while backward of the last lane is still running.
/// A step is:
///     begin_step();
///     for each lane of this rank:  begin_lane(i);  forward;  tape.backward(loss, 1 / global weight);
///     finish_step();               // every gradient is final: gradients() may be read by work in the queue
/// The constructor is collective: it checks that all ranks have the same parameters and plan, places the parameters' memory and
/// makes their gradients views of the buckets. Buffers that are not frozen give their lanes' statistics the same way;
/// finish_step() moves each towards the mean over all lanes (a lane that gave none counts as the present value).
class DataParallel final : public GradientSink {
 public:
  struct Options {
    int lanes = 0;  ///< of the whole run; 0: one a rank
    Reduction reduction = Reduction::fast;
    bool overlap = true;      ///< false: all buckets leave after backward
    bool communicate = true;  ///< false: a stub for measuring what communication costs; gradients stay local
    DType gradient = DType::f32;
    BucketOptions buckets = {};
    bool sharded_update = false;  ///< each rank sums and updates a part of the parameters; the same bits. Ranks of one machine
                                  ///< then have one copy of masters (of weights, where there are no masters)
                                  ///< together: what one writes into it, all see
  };
  DataParallel(ParameterSet&, Communicator&, Group&, Options);
  ~DataParallel() override;

  LaneShare lanes() const { return share_; }
  const Flat& flat() const { return flat_; }
  /// The summed gradients in the layout's order; valid after finish_step(). With a sharded update this rank's parts alone.
  View gradients() const { return sums_.total(); }

  /// For measuring: how the following steps communicate, in place of the options. The same on all ranks, between steps. Ends
  /// settling.
  void communicate_as(bool overlap, bool communicate);
  /// After two steps that make plans and touch memory, seven run without overlap, to find what each collective takes where it
  /// stands in a step: its gradients have just been computed, everything else waits. From then on times() knows what is hidden.
  static constexpr int settling_steps = 9;

  /// In place of Options::sharded_update; the same on all ranks, between steps. Parameters may move: make optimizers, and views
  /// of masters, anew.
  void share_update(bool sharded);
  /// Whether the ranks have one copy of the masters together.
  bool common_masters() const { return common_; }

  void begin_step();
  /// `lane`: 0 … lanes().count - 1, in order. `backwards`: how many backward passes this lane will run; buckets leave during the
  /// last one.
  void begin_lane(int lane, int backwards = 1);
  void finish_step();

  /// For a step that is captured (core/captured_step.h): begin_step to finish_step are its work. Why it cannot be; "" where it
  /// can.
  std::string why_not_captured() const { return options_.communicate ? communicator_.why_not_captured() : ""; }
  /// It has been replayed in place of these calls; times() tells of the replay.
  void replayed() { communicator_.replayed(parameters_.device().queue()); }

  void ready(const Queue&, Parameter&) override;
  void progress(const Queue&) override;
  void backward_ended(const Queue&) override;

  /// What one bucket's collective cost in the last step, in milliseconds (hidden and exposed as the README defines them).
  struct BucketTime {
    std::int64_t bytes = 0;
    double started = 0, finished = 0;  ///< since begin_step
    double alone = 0;                  ///< what it takes when nothing else runs; 0 in the first settling_steps
    double hidden = 0;                 ///< went on while backward computed
    double worked = 0;                 ///< this rank's thread did it instead of computing
    double exposed = 0;                ///< the step waited
  };
  /// In the order in which they left; buffers' statistics come last. Empty before the first step and without communication. On a
  /// GPU waits for the step.
  std::vector<BucketTime> times() const;
  /// Trained parameters that got no gradient in any lane of this rank in the last step; zeros were used.
  const std::vector<const Parameter*>& without_gradient() const { return without_gradient_; }

 private:
  /// A buffer whose statistic is reduced; they lie in f32 in a bucket of their own.
  struct Statistic {
    Parameter* buffer;
    std::int64_t begin;
  };
  bool listening() const { return lane_ == share_.count - 1 && backwards_ == 1; }
  Allocate memory_of(const char* owner);
  void place_masters(bool common);
  void point_gradients(View at, View statistics, bool keep);
  void settle_unused(const Queue&);
  void settle(const Queue&, std::size_t slot);
  void leave_in_order(const Queue&);
  void end_lane(const Queue&);
  View bucket(std::size_t) const;
  void leave(const Queue&, std::size_t bucket);
  bool finds_alone() const { return options_.communicate && steps_ >= settling_steps - alone_steps && steps_ < settling_steps; }
  bool overlaps() const { return options_.overlap && !finds_alone(); }
  void meet(const Queue&);
  void learn_alone();

  ParameterSet& parameters_;
  Communicator& communicator_;
  Options options_;
  LaneShare share_;
  Flat flat_;
  LaneSums sums_, statistic_sums_;
  std::unique_ptr<ShardedUpdate> sharded_;  // of a sharded update
  bool common_ = false;                     // masters, but those of buffers, are one memory on all ranks
  std::vector<Statistic> statistics_;
  std::unordered_map<const Parameter*, std::size_t> slots_;  // of parameters in buckets

  int lane_ = -1, backwards_ = 0;
  bool unused_settled_ = false;
  std::vector<char> settled_, reached_;  // by slot: final in the last lane; got a gradient in any lane
  std::vector<int> pending_;             // by bucket: parameters that are not settled
  std::size_t next_ = 0;                 // the bucket that leaves next
  std::vector<const Parameter*> without_gradient_;

  static constexpr int alone_steps = 7;
  std::int64_t steps_ = 0;  // that have communicated
  Memory meeting_;          // one element of every rank
  std::vector<Communicator::Ticket> tickets_;
  std::vector<std::vector<double>> costs_;  // milliseconds, by bucket, of each step that finds `alone`
  std::vector<double> alone_;               // their medians
  Communicator::Ticket began_ = 0, backward_done_ = 0, waiting_ = 0, joined_ = 0;
};

}  // namespace lockstep::parallel
