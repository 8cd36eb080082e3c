#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>

#include "core/group.h"
#include "core/memory.h"
#include "kernels/base/queue.h"
#include "kernels/base/view.h"

namespace lockstep::parallel {

/// How an all_reduce adds.
enum class Reduction : std::uint8_t {
  fast,   ///< the transport's own order
  exact,  ///< one binary tree over ranks, each node rounded to the data's type: the same bits for every rank count that holds
          ///< whole subtrees of lanes
};

/// When a collective ran, in seconds of one clock, and how long this rank's own thread worked for it meanwhile (waiting in join()
/// is not work). `finished` is 0 until a collective of CPU ranks has ended.
struct Timing {
  double started = 0, finished = 0;
  double worked = 0;
};

/// Collectives of one group of ranks on the memory of one kind of device, called by every rank in the same order.
/// Calls return at once and start when the work already in `after` is done; join() makes `queue` wait for all of them. MPI makes
/// no progress by itself: call progress() between other work. All reductions are sums. Sizes count elements.
class Communicator {
 public:
  using Ticket = std::int64_t;  ///< numbers this rank's calls from 0

  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual const char* name() const = 0;  ///< "solo", "mpi", "mpi, shared memory", "nccl", …

  /// data = sum over ranks, in place.
  virtual Ticket all_reduce(const Queue& after, View data, Reduction = Reduction::fast) = 0;
  /// out = this rank's slice of the sum; in.size = out.size * size(). out may be that slice of in.
  virtual Ticket reduce_scatter(const Queue& after, View out, View in) = 0;
  /// out = everyone's `in` in rank order. in may be this rank's slice of out.
  virtual Ticket all_gather(const Queue& after, View out, View in) = 0;
  /// Slice r of `in` goes to rank r; slice r of `out` comes from it.
  virtual Ticket all_to_all(const Queue& after, View out, View in) = 0;
  virtual Ticket broadcast(const Queue& after, View data, int root) = 0;
  /// Told of elements [begin, end) of a sum that are there now, in order, while they are near in this thread's cache.
  using Seen = std::function<void(std::int64_t begin, std::int64_t end)>;
  /// parts[rank] becomes the sum over ranks of these elements; the others' parts may become anything. One part a rank, of any
  /// sizes, which do not overlap and lie at the same places on every rank. Unless overridden the whole sum is made. `seen` hears of
  /// all of parts[rank] where ranks add it in memory that they share, else of nothing.
  virtual Ticket reduce_parts(const Queue& after, std::span<const View> parts, Reduction = Reduction::fast, const Seen& seen = {});
  /// Every rank gets parts[r] from rank r; parts as above.
  virtual Ticket gather_parts(const Queue& after, std::span<const View> parts);
  virtual Ticket send(const Queue& after, View data, int to) = 0;
  virtual Ticket receive(const Queue& after, View data, int from) = 0;

  /// Moves pending collectives on. Cheap when there are none.
  virtual void progress() = 0;
  /// Makes work that is put into `queue` later wait for all collectives so far (on the CPU: returns when they are done).
  virtual void join(const Queue& queue) = 0;
  /// A ticket whose timing tells when `queue` got here.
  virtual Ticket mark(const Queue& queue) = 0;
  /// When a joined collective or a mark ran; on a GPU waits for it. Known for the latest `timings_kept` tickets.
  virtual Timing timing(Ticket) = 0;
  static constexpr Ticket timings_kept = 4096;

  /// Why collectives cannot be captured with a step and replayed (core/captured_step.h); "" where they can.
  virtual std::string why_not_captured() const {
    return std::string("collectives through ") + name() + " are made by the host, step by step";
  }
  /// A step in which collectives were captured has been put into `queue` again.
  virtual void replayed(const Queue& queue) { (void)queue; }

  /// A communicator of the ranks with the same color, ordered by key; none (null) for a negative color. Collective.
  virtual std::unique_ptr<Communicator> split(int color, int key) = 0;
  /// Zeroed memory for buckets, called by all ranks with the same size: what lets it be shared between ranks of a machine or
  /// registered with the network. A collective on a piece of it takes the piece at the same place on every rank.
  virtual Memory allocate(std::size_t bytes) = 0;
  /// Zeroed memory that is one and the same on all ranks: what one writes, all read. Null on every rank where there is none, as
  /// when they are on several machines. What is written is seen by the others behind a collective that follows. Collective.
  virtual Memory allocate_common(std::size_t bytes) { return (void)bytes, nullptr; }
};

}  // namespace lockstep::parallel
