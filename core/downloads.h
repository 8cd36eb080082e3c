#pragma once

#include <memory>
#include <vector>

#include "kernels/base/queue.h"
#include "kernels/base/view.h"

namespace lockstep {

/// Brings memory of a device to the host while the device's queue works on.
class Downloads {
 public:
  struct Copy {
    View to;    ///< host memory of host_source
    View from;  ///< the device's
  };
  virtual ~Downloads() = default;

  // ---- the thread that owns the queue
  /// Starts copies of what the queue's work so far leaves; those of the last call are done. Waits for the queue, not for the
  /// copies.
  virtual void start(const std::vector<Copy>&) = 0;
  /// The queue's work from here on waits for the copies: what it overwrites was read. May be captured; a replay waits for the
  /// copies that were started before it.
  virtual void hold() = 0;

  // ---- any thread
  /// Waits for the copies; an Error if they failed.
  virtual void finish() = 0;
};

/// By a stream of its own of a GPU's queue, which outlives it. Null for a CPU, whose memory needs no copying to be the host's.
std::unique_ptr<Downloads> open_downloads(const Queue&);

}  // namespace lockstep
