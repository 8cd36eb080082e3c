#pragma once

#include <vector>

#include "core/flat.h"
#include "parallel/communicator.h"

namespace lockstep::parallel {

/// The update of data-parallel ranks, shared: each rank updates the part of every bucket whose gradients it has summed, and the
/// ranks gather the masters (ZeRO stage 1: Rajbhandari et al. 2020). Parts are cut where blocks of the norm begin, so that
/// norms, updates and weights are those of a whole update to the last bit. Where all ranks see the same masters there is nothing
/// to gather: a rank's update of its part is everybody's.
class ShardedUpdate final : public SharedUpdate {
 public:
  /// `flat` stays where it is. Its masters come from the communicator's allocate(), or, when they are `common`, from
  /// allocate_common().
  ShardedUpdate(Communicator&, const Flat& flat, bool common);

  /// The gradients of bucket `i` in `arena` by rank: what reduce_parts() takes.
  std::vector<View> parts(View arena, std::size_t bucket) const;

  /// Who hears of this rank's part of bucket `i`, for reduce_parts(); nobody when nobody watches.
  Communicator::Seen seen(std::size_t bucket) const;

  void watch(std::function<void(Range)> seen) override { seen_ = std::move(seen); }
  const std::vector<Range>& mine() const override { return mine_; }
  void sum(const Queue&, View values) override;
  /// Of common masters no rank's may be written before all have called sum(): until then others compute with them.
  void publish(const Queue&, std::size_t part) override;
  void join(const Queue&) override;

 private:
  Communicator& communicator_;
  const Flat& flat_;
  bool common_;
  std::vector<std::vector<Range>> buckets_;  // by bucket, by rank
  std::vector<std::vector<Range>> pieces_;   // what is published at once, by rank
  std::vector<Range> mine_;                  // of pieces_
  std::function<void(Range)> seen_;
  Memory sums_, meeting_;
  std::int64_t sums_size_ = 0;
};

}  // namespace lockstep::parallel
