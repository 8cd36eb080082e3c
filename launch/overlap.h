#pragma once

#include <string>
#include <vector>

#include "parallel/data_parallel.h"

namespace lockstep::launch {

/// What communication cost, bucket by bucket, over many steps.
class OverlapTable {
 public:
  using Times = std::vector<parallel::DataParallel::BucketTime>;
  void add(const Times&);
  bool empty() const { return steps_ == 0; }
  /// Means over the steps, a line for each bucket and their sum.
  std::string text() const;

 private:
  Times sums_;
  std::int64_t steps_ = 0;
};

/// Sum over buckets, in milliseconds.
double hidden_ms(const OverlapTable::Times&);
double exposed_ms(const OverlapTable::Times&);

/// A few steps drawn on a time line, in the JSON that Chrome's and Perfetto's trace viewers read.
class Timeline {
 public:
  explicit Timeline(int rank) : rank_(rank) {}
  enum class Track { steps = 0, compute = 1, communication = 2 };
  /// Seconds of one clock.
  void add(Track, const std::string& name, double started, double finished);
  void add_bucket(int index, double step_started, const parallel::DataParallel::BucketTime&);
  bool empty() const { return events_.empty(); }
  std::string json() const;

 private:
  struct Event {
    Track track;
    std::string name;
    double started, finished;  // seconds
    double bytes = 0, hidden = 0, worked = 0, exposed = 0;
  };
  int rank_;
  std::vector<Event> events_;
};

}  // namespace lockstep::launch
